// The trigram that the quickstart's model has to beat: against counts by hand, and as a strong judge.
import { type Batch, randomSource, TextDataset, Tokenizer } from 'fuselm'
import { expect, test } from 'vitest'
import { type Tokens, TokenTrigram, tokensOf } from '../../examples/trigram.ts'

/** Documents one after another. */
function corpus(documents: readonly (readonly number[])[]): Tokens {
  return {
    ids: Int32Array.from(documents.flat()),
    document: Int32Array.from(documents.flatMap((ids, i) => ids.map(() => i))),
  }
}

/** One weight for all contexts that something followed. */
function weights(three: number, two: number, one: number) {
  const all = (value: number): Float64Array => new Float64Array(32).fill(value, 1)
  return { three: all(three), two: all(two), one }
}

test('probabilities are those counted by hand', async () => {
  // 0 1 2 | 0 1 3 | 1 2: pairs (0 1) are followed by 2 and 3; 1 by 2, 3, 2; first tokens are not counted
  const model = new TokenTrigram(4)
  await model.count(
    corpus([
      [0, 1, 2],
      [0, 1, 3],
      [1, 2],
    ]),
  )
  model.weights = weights(0.5, 0.25, 0.8)
  const single = (count: number): number => (0.8 * count) / 5 + 0.2 / 4
  const pair = (count: number, singles: number): number => 0.25 * (count / 3) + 0.75 * single(singles)
  expect(model.probability(0, 1, 2)).toBeCloseTo(0.5 * (1 / 2) + 0.5 * pair(2, 2), 14)
  expect(model.probability(0, 1, 3)).toBeCloseTo(0.5 * (1 / 2) + 0.5 * pair(1, 1), 14)
  // a document that begins with 1 went on with 2, each time
  expect(model.probability('start', 1, 2)).toBeCloseTo(0.5 * 1 + 0.5 * pair(2, 2), 14)
  // never seen, or not known: the mixture of pairs is left; then that of single tokens
  expect(model.probability(3, 1, 2)).toBeCloseTo(pair(2, 2), 14)
  expect(model.probability(null, 1, 2)).toBeCloseTo(pair(2, 2), 14)
  expect(model.probability(0, 2, 1)).toBeCloseTo(single(2), 14)
})

const random = randomSource(5)
/** Text of a source with memory: each token depends on the two before, or on chance. */
function documents(count: number, length: number): number[][] {
  return Array.from({ length: count }, () => {
    const ids = [Math.floor(random() * 8), Math.floor(random() * 8)]
    while (ids.length < length) {
      const [a, b] = [ids.at(-2) as number, ids.at(-1) as number]
      ids.push(random() < 0.7 ? (a * 3 + b) % 8 : Math.floor(random() * 8))
    }
    return ids
  })
}

test('it is a distribution in every context, and its weights are the likeliest', async () => {
  const tokens = corpus(documents(40, 200))
  const model = await TokenTrigram.fit(tokens, 8)
  for (const before of [0, 5, 'start', null] as const) {
    for (const last of [1, 7]) {
      let sum = 0
      for (let token = 0; token < 8; token++) sum += model.probability(before, last, token)
      expect(sum).toBeCloseTo(1, 12)
    }
  }
  // nothing near the weights it found explains the documents they were fitted on better
  const isJudged = (document: number): boolean => document % 10 === 7
  const counted = new TokenTrigram(8)
  await counted.count(tokens, (document) => !isJudged(document))
  const lossWith = (scale: number): number => {
    counted.weights = {
      ...model.weights,
      three: model.weights.three.map((weight) => Math.min(0.99, weight * scale)),
    }
    let sum = 0
    for (let i = 2; i < tokens.ids.length; i++) {
      if (!isJudged(tokens.document[i] as number) || tokens.document[i - 2] !== tokens.document[i]) continue
      const [a, b, c] = [tokens.ids[i - 2], tokens.ids[i - 1], tokens.ids[i]] as [number, number, number]
      sum -= Math.log(counted.probability(a, b, c))
    }
    return sum
  }
  for (const scale of [0.8, 0.95, 1.05, 1.2]) expect(lossWith(scale)).toBeGreaterThan(lossWith(1))
})

test('its perplexity comes near that of the source itself', async () => {
  const model = await TokenTrigram.fit(corpus(documents(300, 200)), 8)
  const rows = documents(40, 200)
  const batch: Batch = {
    rows: rows.length,
    length: 200,
    ids: Int32Array.from(rows.flat()),
    labels: Int32Array.from(rows.flat()),
    positions: new Int32Array(0),
    first: new Int32Array(0),
    targets: 0,
  }
  async function* once(): AsyncGenerator<Batch> {
    yield batch
  }
  const { perplexity, tokens } = await model.perplexity(once())
  expect(tokens).toBe(40 * 199)
  // what follows by rule has 0.7 + 0.3 / 8, each other token 0.3 / 8
  const p = 0.7 + 0.3 / 8
  const entropy = -p * Math.log(p) - 7 * (0.3 / 8) * Math.log(0.3 / 8)
  expect(perplexity).toBeGreaterThan(Math.exp(entropy) * 0.97)
  expect(perplexity).toBeLessThan(Math.exp(entropy) * 1.08)
})

test('rows of a dataset become its tokens again, documents apart', async () => {
  const texts = ['abc abd', 'aa', 'bb cc dd', 'abd. abc', 'dcba', 'a b c d']
  const tokenizer = await Tokenizer.train({ texts: ['abc abd. '.repeat(50)], vocabSize: 270 })
  const dataset = await TextDataset.from(texts, { tokenizer, contextLength: 8 })
  const { ids, document } = await tokensOf(dataset.once(2), dataset.tokens)
  const expected = texts.flatMap((text) => [...tokenizer.encode(text), tokenizer.eosTokenId as number])
  const documentOf = texts.flatMap((text, i) => [...tokenizer.encode(text), 0].map(() => i))
  // what is left over when rows are cut stands in none
  expect(ids.length).toBeGreaterThan(expected.length - 8)
  expect([...ids]).toEqual(expected.slice(0, ids.length))
  expect([...document]).toEqual(documentOf.slice(0, ids.length))
  await dataset.close()
})
