// What a language model has to beat: counts of byte triples, interpolated with pairs and single bytes.
// Source: Witten & Bell 1991; Chen & Goodman 1998, section 2.6 (interpolated Witten-Bell smoothing)
import { setImmediate } from 'node:timers/promises'

/** Bytes counted before the event loop gets a turn: a few milliseconds. */
const TURN = 1 << 18

export class ByteTrigram {
  // how often c followed ab, b, anything; and how many different bytes followed ab, b
  readonly #triples = new Uint32Array(256 ** 3)
  readonly #pairs = new Uint32Array(256 ** 2)
  readonly #singles = new Uint32Array(256)
  readonly #pairTotals = new Uint32Array(256 ** 2)
  readonly #pairKinds = new Uint32Array(256 ** 2)
  readonly #singleTotals = new Uint32Array(256)
  readonly #singleKinds = new Uint32Array(256)
  #total = 0
  #kinds = 0

  static async fit(bytes: Uint8Array): Promise<ByteTrigram> {
    const model = new ByteTrigram()
    for (let start = 2; start < bytes.length; start += TURN) {
      model.#count(bytes, start, Math.min(bytes.length, start + TURN))
      await setImmediate()
    }
    return model
  }

  #count(bytes: Uint8Array, start: number, end: number): void {
    for (let i = start; i < end; i++) {
      const c = bytes[i] ?? 0
      const b = bytes[i - 1] ?? 0
      const ab = ((bytes[i - 2] ?? 0) << 8) | b
      if (add(this.#triples, (ab << 8) | c) === 0) add(this.#pairKinds, ab)
      if (add(this.#pairs, (b << 8) | c) === 0) add(this.#singleKinds, b)
      if (add(this.#singles, c) === 0) this.#kinds++
      add(this.#pairTotals, ab)
      add(this.#singleTotals, b)
      this.#total++
    }
  }

  /** P(c | a, b). A context hands to the shorter one the share of its kinds in its kinds and counts. */
  probability(a: number, b: number, c: number): number {
    const at = (counts: Uint32Array, i: number): number => counts[i] ?? 0
    const ab = (a << 8) | b
    const mix = (count: number, total: number, kinds: number, shorter: number): number =>
      kinds === 0 ? shorter : (count + kinds * shorter) / (total + kinds)
    const one = mix(at(this.#singles, c), this.#total, this.#kinds, 1 / 256)
    const two = mix(at(this.#pairs, (b << 8) | c), at(this.#singleTotals, b), at(this.#singleKinds, b), one)
    return mix(at(this.#triples, (ab << 8) | c), at(this.#pairTotals, ab), at(this.#pairKinds, ab), two)
  }

  /**
   * Mean loss in nats over what a model is judged on: all bytes but the first of each window. The
   * trigram sees the bytes before a window, too; the model does not.
   */
  loss(bytes: Uint8Array, starts: readonly number[], length: number): number {
    let sum = 0
    for (const start of starts) {
      for (let i = start + 1; i < start + length; i++) {
        sum -= Math.log(this.probability(bytes[i - 2] ?? 0, bytes[i - 1] ?? 0, bytes[i] ?? 0))
      }
    }
    return sum / (starts.length * (length - 1))
  }
}

/** Counts once more; returns the count before. */
function add(counts: Uint32Array, i: number): number {
  const before = counts[i] ?? 0
  counts[i] = before + 1
  return before
}
