// Byte-pair encoding of one piece of text. Source: Sennrich et al. 2016; byte level: GPT-2, 2019.

import { findMerge, findToken, type TokenTables } from './tables.ts'

export interface BpeOptions {
  /** Symbols are bytes; otherwise characters. */
  readonly byteLevel: boolean
  /** Characters without a token become `<0xXX>` tokens. */
  readonly byteFallback: boolean
  /** A piece that is a token is taken whole, without merging. */
  readonly ignoreMerges: boolean
  /** For characters without a token; they are dropped when null. */
  readonly unknownId: number | null
  /** Neighbouring unknown characters make one token. */
  readonly fuseUnknown: boolean
}

const CACHE_ENTRIES = 1 << 16
const CACHED_LENGTH = 64 // UTF-16 units: longer pieces seldom come again
const SHORT = 32 // symbols: below, a scan for the best merge beats a heap

/** A growing list of ids. */
export class IdList {
  #ids: Int32Array
  length = 0

  constructor(capacity = 256) {
    this.#ids = new Int32Array(capacity)
  }

  reserve(more: number): void {
    if (this.length + more <= this.#ids.length) return
    const grown = new Int32Array(Math.max(this.length + more, 2 * this.#ids.length))
    grown.set(this.#ids.subarray(0, this.length))
    this.#ids = grown
  }

  push(id: number): void {
    if (this.length === this.#ids.length) this.reserve(1)
    this.#ids[this.length++] = id
  }

  append(ids: Int32Array): void {
    this.reserve(ids.length)
    this.#ids.set(ids, this.length)
    this.length += ids.length
  }

  /** A copy of what it holds. */
  take(): Int32Array {
    return this.#ids.slice(0, this.length)
  }
}

/** Ids of pieces; remembers what it has seen. Not shared between threads. */
export class Bpe {
  readonly #tables: TokenTables
  readonly #options: BpeOptions
  readonly #cache = new Map<string, Int32Array>()
  readonly #encoder = new TextEncoder()
  #symbols = new Int32Array(256)

  constructor(tables: TokenTables, options: BpeOptions) {
    this.#tables = tables
    this.#options = options
  }

  encode(piece: string, out: IdList): void {
    const known = this.#cache.get(piece)
    if (known !== undefined) {
      out.append(known)
      return
    }
    const ids = this.#encodeAnew(piece)
    if (piece.length <= CACHED_LENGTH) {
      if (this.#cache.size >= CACHE_ENTRIES) this.#cache.clear()
      // a slice of a large text would keep all of it alive
      this.#cache.set(Buffer.from(piece, 'utf16le').toString('utf16le'), ids)
    }
    out.append(ids)
  }

  #encodeAnew(piece: string): Int32Array {
    const bytes = this.#encoder.encode(piece)
    if (this.#options.ignoreMerges) {
      const whole = findToken(this.#tables, bytes)
      if (whole >= 0) return Int32Array.of(whole)
    }
    if (this.#symbols.length < bytes.length) this.#symbols = new Int32Array(2 * bytes.length)
    const count = this.#options.byteLevel ? this.#byteSymbols(bytes) : this.#characterSymbols(bytes)
    const merged = count <= SHORT ? this.#mergeByScan(count) : this.#mergeByHeap(count)
    return this.#symbols.slice(0, merged)
  }

  #byteSymbols(bytes: Uint8Array): number {
    const { byteIds } = this.#tables
    let count = 0
    for (const byte of bytes) {
      const id = byteIds[byte] as number
      count = id >= 0 ? this.#put(count, id) : this.#putUnknown(count)
    }
    return count
  }

  #characterSymbols(bytes: Uint8Array): number {
    const { byteIds } = this.#tables
    let count = 0
    for (let at = 0; at < bytes.length; ) {
      const lead = bytes[at] as number
      const end = at + (lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4)
      const id = findToken(this.#tables, bytes, at, end)
      if (id >= 0) {
        count = this.#put(count, id)
      } else {
        let complete = this.#options.byteFallback
        for (let i = at; i < end; i++) complete &&= (byteIds[bytes[i] as number] as number) >= 0
        if (complete) {
          for (let i = at; i < end; i++) count = this.#put(count, byteIds[bytes[i] as number] as number)
        } else {
          count = this.#putUnknown(count)
        }
      }
      at = end
    }
    return count
  }

  #put(count: number, id: number): number {
    this.#symbols[count] = id
    return count + 1
  }

  #putUnknown(count: number): number {
    const { unknownId, fuseUnknown } = this.#options
    if (unknownId === null) return count
    if (fuseUnknown && count > 0 && this.#symbols[count - 1] === unknownId) return count
    return this.#put(count, unknownId)
  }

  #mergeByScan(count: number): number {
    const symbols = this.#symbols
    const { mergeResults } = this.#tables
    for (;;) {
      let best = -1
      let place = -1
      for (let i = 0; i + 1 < count; i++) {
        const rank = findMerge(this.#tables, symbols[i] as number, symbols[i + 1] as number)
        if (rank >= 0 && (best < 0 || rank < best)) {
          best = rank
          place = i
        }
      }
      if (best < 0) return count
      symbols[place] = mergeResults[best] as number
      symbols.copyWithin(place + 1, place + 2, count)
      count--
    }
  }

  // O(n log n): a heap of (rank, place), a list of what is left; stale entries are dropped when met.
  #mergeByHeap(count: number): number {
    const symbols = this.#symbols
    const { mergeResults } = this.#tables
    const next = new Int32Array(count)
    const previous = new Int32Array(count)
    const heap = new NumberHeap(count)
    const PLACES = 2 ** 26 // of a piece; ranks stay below 2^27, so that keys are exact
    const offer = (left: number): void => {
      const right = next[left] as number
      if (right >= count) return
      const rank = findMerge(this.#tables, symbols[left] as number, symbols[right] as number)
      if (rank >= 0) heap.push(rank * PLACES + left)
    }
    for (let i = 0; i < count; i++) {
      next[i] = i + 1
      previous[i] = i - 1
    }
    for (let i = 0; i < count; i++) offer(i)
    const GONE = -1
    while (heap.length > 0) {
      const key = heap.pop()
      const left = key % PLACES
      const rank = Math.floor(key / PLACES)
      const right = symbols[left] === GONE ? count : (next[left] as number)
      if (right >= count) continue
      if (findMerge(this.#tables, symbols[left] as number, symbols[right] as number) !== rank) continue
      symbols[left] = mergeResults[rank] as number
      symbols[right] = GONE
      const after = next[right] as number
      next[left] = after
      if (after < count) previous[after] = left
      offer(left)
      if ((previous[left] as number) >= 0) offer(previous[left] as number)
    }
    let kept = 0
    for (let i = 0; i < count; i++) if (symbols[i] !== GONE) symbols[kept++] = symbols[i] as number
    return kept
  }
}

/** The smallest number first. */
class NumberHeap {
  #items: Float64Array
  length = 0

  constructor(capacity: number) {
    this.#items = new Float64Array(Math.max(16, capacity))
  }

  push(item: number): void {
    if (this.length === this.#items.length) {
      const grown = new Float64Array(2 * this.length)
      grown.set(this.#items)
      this.#items = grown
    }
    const items = this.#items
    let at = this.length++
    while (at > 0) {
      const parent = (at - 1) >> 1
      if ((items[parent] as number) <= item) break
      items[at] = items[parent] as number
      at = parent
    }
    items[at] = item
  }

  pop(): number {
    const items = this.#items
    const top = items[0] as number
    const last = items[--this.length] as number
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= this.length) break
      if (child + 1 < this.length && (items[child + 1] as number) < (items[child] as number)) child++
      if ((items[child] as number) >= last) break
      items[at] = items[child] as number
      at = child
    }
    items[at] = last
    return top
  }
}
