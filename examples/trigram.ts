// What a language model has to beat: counts of token triples, mixed with pairs and single tokens by
// weights that are fitted on training documents the counts have not seen.
// Source: Jelinek & Mercer 1980 (deleted interpolation); Chen & Goodman 1998, section 2.3, for weights that
// depend on how often a context was followed by how many different tokens.
import { setImmediate } from 'node:timers/promises'
import type { Batch } from 'fuselm'

/** Tokens counted before the event loop gets a turn: a few milliseconds. */
const TURN = 1 << 15
/** Of ten documents, the one that fits the weights. */
const SLICE = 7
const BUCKETS = 32
const ROUNDS = 25

/** A corpus as one run of tokens; `document[i]` counts the documents begun before token i. */
export interface Tokens {
  readonly ids: Int32Array
  readonly document: Int32Array
}

/** A dataset's rows in order, put together again: each row begins with the last token of the one before. */
export async function tokensOf(rows: AsyncIterable<Batch>, most: number): Promise<Tokens> {
  const ids = new Int32Array(most)
  const document = new Int32Array(most)
  let count = 0
  let begun = 0
  for await (const batch of rows) {
    for (let at = 0; at < batch.ids.length; at++) {
      const inRow = at % batch.length
      if (inRow === 0 && count > 0) continue
      if (inRow > 0 && batch.labels[at] === -100) begun++ // a document's first token is no target
      ids[count] = batch.ids[at] as number
      document[count++] = begun
    }
  }
  return { ids: ids.subarray(0, count), document: document.subarray(0, count) }
}

/** How often a context was seen, and by how many different tokens it was followed. */
class Contexts {
  readonly #followers = new Map<number, number>()
  readonly #totals = new Map<number, number>()
  readonly #kinds = new Map<number, number>()
  readonly #vocabSize: number

  constructor(vocabSize: number) {
    this.#vocabSize = vocabSize
  }

  add(context: number, token: number): void {
    if (increment(this.#followers, context * this.#vocabSize + token) === 0) increment(this.#kinds, context)
    increment(this.#totals, context)
  }

  /** Share of the token among what followed; 0 where nothing did. */
  share(context: number, token: number): number {
    const total = this.#totals.get(context)
    if (total === undefined) return 0
    return (this.#followers.get(context * this.#vocabSize + token) ?? 0) / total
  }

  /** Contexts of a bucket have one weight: by the mean count of what followed. Nothing seen is bucket 0. */
  bucket(context: number): number {
    const total = this.#totals.get(context)
    if (total === undefined) return 0
    const mean = total / (this.#kinds.get(context) as number)
    return Math.min(BUCKETS - 1, 1 + Math.round(2 * Math.log2(mean)))
  }
}

function increment(map: Map<number, number>, key: number): number {
  const before = map.get(key) ?? 0
  map.set(key, before + 1)
  return before
}

/** What the mixture is made of at one token: shares by triples, pairs and single tokens. */
interface Shares {
  readonly three: number
  readonly two: number
  readonly one: number
  readonly bucket3: number
  readonly bucket2: number
}

/** Weight of triples and pairs by bucket, of single tokens over none at all. */
export interface Weights {
  readonly three: Float64Array
  readonly two: Float64Array
  readonly one: number
}

export class TokenTrigram {
  readonly vocabSize: number
  readonly #three: Contexts
  readonly #two: Contexts
  readonly #one: Float64Array
  #total = 0
  weights: Weights

  constructor(vocabSize: number) {
    this.vocabSize = vocabSize
    this.#three = new Contexts(vocabSize)
    this.#two = new Contexts(vocabSize)
    this.#one = new Float64Array(vocabSize)
    const half = (): Float64Array => new Float64Array(BUCKETS).fill(0.5, 1) // nothing seen weighs nothing
    this.weights = { three: half(), two: half(), one: 0.5 }
  }

  /** Counts all; the weights come from counting nine documents of ten and judging by the tenth. */
  static async fit(tokens: Tokens, vocabSize: number): Promise<TokenTrigram> {
    const partial = new TokenTrigram(vocabSize)
    await partial.count(tokens, (document) => document % 10 !== SLICE)
    await partial.fitWeights(tokens, (document) => document % 10 === SLICE)
    const model = new TokenTrigram(vocabSize)
    await model.count(tokens)
    model.weights = partial.weights
    return model
  }

  async count(tokens: Tokens, counted: (document: number) => boolean = () => true): Promise<void> {
    await this.#eachTarget(tokens, counted, (pair, last, token) => {
      this.#three.add(pair, token)
      this.#two.add(last, token)
      this.#one[token] = (this.#one[token] as number) + 1
      this.#total++
    })
  }

  /** Expectation maximisation; a half of an observation each way keeps weights from 0 and 1. */
  async fitWeights(tokens: Tokens, judged: (document: number) => boolean): Promise<void> {
    const places: Shares[] = []
    await this.#eachTarget(tokens, judged, (pair, last, token) => {
      places.push(this.#shares(pair, last, token))
    })
    for (let round = 0; round < ROUNDS; round++) {
      const sum = (): Float64Array => new Float64Array(BUCKETS)
      const [taken3, asked3, taken2, asked2] = [sum(), sum(), sum(), sum()]
      let [taken1, asked1] = [0, 0]
      const { three, two, one } = this.weights
      for (const at of places) {
        const [w3, w2] = [three[at.bucket3] as number, two[at.bucket2] as number]
        const whole = this.#mix(at)
        const by3 = (w3 * at.three) / whole
        const by2 = ((1 - w3) * w2 * at.two) / whole
        const by1 = ((1 - w3) * (1 - w2) * one * at.one) / whole
        taken3[at.bucket3] = (taken3[at.bucket3] as number) + by3
        asked3[at.bucket3] = (asked3[at.bucket3] as number) + 1
        taken2[at.bucket2] = (taken2[at.bucket2] as number) + by2
        asked2[at.bucket2] = (asked2[at.bucket2] as number) + 1 - by3
        taken1 += by1
        asked1 += 1 - by3 - by2
      }
      const share = (taken: Float64Array, asked: Float64Array): Float64Array =>
        taken.map((value, b) => (b === 0 ? 0 : (value + 0.5) / ((asked[b] as number) + 1)))
      this.weights = {
        three: share(taken3, asked3),
        two: share(taken2, asked2),
        one: (taken1 + 0.5) / (asked1 + 1),
      }
      await setImmediate()
    }
  }

  /**
   * P(token | before, last). `null`: what stood there is not known (a row's edge); `'start'`: nothing did,
   * the document begins.
   */
  probability(before: number | 'start' | null, last: number, token: number): number {
    // a pair that nothing followed has weight 0: the mixture of pairs is left
    if (before === null) return this.#mix(this.#shares(-1, last, token))
    return this.#mix(this.#shares(this.#pair(before, last), last, token))
  }

  /** Over the targets of rows, each seen alone, as a language model sees it. */
  async perplexity(rows: AsyncIterable<Batch>): Promise<{ perplexity: number; tokens: number }> {
    let sum = 0
    let tokens = 0
    for await (const { ids, labels, length } of rows) {
      for (let at = 0; at < ids.length; at++) {
        const inRow = at % length
        if (inRow === 0 || labels[at] === -100) continue
        const atStart = inRow > 1 && labels[at - 1] === -100
        const before = atStart ? 'start' : inRow > 1 ? (ids[at - 2] as number) : null
        sum -= Math.log(this.probability(before, ids[at - 1] as number, ids[at] as number))
        tokens++
      }
    }
    return { perplexity: Math.exp(sum / tokens), tokens }
  }

  /** Visits what is predicted, all of the documents asked for but the first token of each. */
  async #eachTarget(
    { ids, document }: Tokens,
    wanted: (document: number) => boolean,
    visit: (pair: number, last: number, token: number) => void,
  ): Promise<void> {
    for (let i = 1; i < ids.length; i++) {
      if (i % TURN === 0) await setImmediate()
      if (document[i] !== document[i - 1] || !wanted(document[i] as number)) continue
      const last = ids[i - 1] as number
      const before = i > 1 && document[i - 2] === document[i] ? (ids[i - 2] as number) : 'start'
      visit(this.#pair(before, last), last, ids[i] as number)
    }
  }

  #pair(before: number | 'start', last: number): number {
    return (before === 'start' ? this.vocabSize : before) * this.vocabSize + last
  }

  #shares(pair: number, last: number, token: number): Shares {
    return {
      three: this.#three.share(pair, token),
      two: this.#two.share(last, token),
      one: this.#total === 0 ? 0 : (this.#one[token] as number) / this.#total,
      bucket3: this.#three.bucket(pair),
      bucket2: this.#two.bucket(last),
    }
  }

  #mix({ three, two, one, bucket3, bucket2 }: Shares): number {
    const { weights, vocabSize } = this
    const [w3, w2, w1] = [weights.three[bucket3] as number, weights.two[bucket2] as number, weights.one]
    const single = w1 * one + (1 - w1) / vocabSize
    return w3 * three + (1 - w3) * (w2 * two + (1 - w2) * single)
  }
}
