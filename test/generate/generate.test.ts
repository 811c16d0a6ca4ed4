// Generation against the plain forward over the whole text.

import { Decoder, noGrad, scope, Tokenizer, tensor } from 'fuselm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { StopFilter } from '../../lib/generate/stop.ts'
import { expectNoLeaks } from '../unit/leaks.ts'

let tokenizer: Tokenizer
let decoder: Decoder

beforeAll(async () => {
  tokenizer = await Tokenizer.train({ texts: ['the cat sat on the mat. '.repeat(30)], vocabSize: 290 })
  decoder = Decoder.create(
    {
      hiddenSize: 32,
      numHiddenLayers: 2,
      numAttentionHeads: 4,
      numKeyValueHeads: 2,
      intermediateSize: 64,
      maxPositionEmbeddings: 64,
      initializerRange: 0.4,
    },
    { tokenizer, dtype: 'f32', seed: 5 },
  )
})
afterAll(() => decoder.dispose())
expectNoLeaks()

/** Logits of the last place by the forward without a cache. */
async function lastLogits(ids: readonly number[]): Promise<number[]> {
  const logits = noGrad(() =>
    scope(() => {
      const all = decoder.model.forward(tensor([...ids], { shape: [1, ids.length], dtype: 'i32' }))
      return all.slice(1, ids.length - 1).reshape([-1])
    }),
  )
  const values = [...(await logits.toArray())] as number[]
  logits.dispose()
  return values
}

const logSoftmax = (logits: readonly number[]): number[] => {
  const top = Math.max(...logits)
  const sum = logits.reduce((total, value) => total + Math.exp(value - top), 0)
  return logits.map((value) => value - top - Math.log(sum))
}

test('at temperature 0 each token is the likeliest of the whole forward, with its log-probability', async () => {
  const prompt = tokenizer.encode('the cat')
  const { tokenIds } = await decoder.generate(prompt, { temperature: 0, maxNewTokens: 20 }).completion()
  const ids = [...prompt]
  const logprobs: number[] = []
  for await (const piece of decoder.generate(prompt, { temperature: 0, maxNewTokens: 20 }))
    logprobs.push(piece.logprob)
  expect(tokenIds.length).toBeGreaterThan(5)
  for (const [i, id] of tokenIds.entries()) {
    const expected = logSoftmax(await lastLogits(ids))
    expect(expected[id]).toBeCloseTo(Math.max(...expected), 4)
    expect(logprobs[i]).toBeCloseTo(expected[id] as number, 4)
    ids.push(id)
  }
})

test("the repetition penalty is Hugging Face's", async () => {
  const prompt = tokenizer.encode('the cat')
  const options = { temperature: 0, maxNewTokens: 12, repetitionPenalty: 1.7 }
  const { tokenIds } = await decoder.generate(prompt, options).completion()
  const ids = [...prompt]
  for (const id of tokenIds) {
    const logits = await lastLogits(ids)
    for (const seen of new Set(ids)) {
      const value = logits[seen] as number
      logits[seen] = value > 0 ? value / 1.7 : value * 1.7
    }
    expect(logits[id]).toBeCloseTo(Math.max(...logits), 4)
    ids.push(id)
  }
})

test('a seed repeats; another gives another text; a batch is as single ones are', async () => {
  const options = { temperature: 1, topP: 0.95, maxNewTokens: 16, seed: 7 }
  const prompts = ['the cat', 'on', 'sat on the mat. the']
  const first = await decoder.generate('the cat', options).completion()
  expect(await decoder.generate('the cat', options).completion()).toEqual(first)
  const other = await decoder.generate('the cat', { ...options, seed: 8 }).completion()
  expect(other.tokenIds).not.toEqual(first.tokenIds)
  const batch = await decoder.generateBatch(prompts, options)
  for (const [row, prompt] of prompts.entries()) {
    const single = await decoder.generate(prompt, { ...options, seed: 7 + row }).completion()
    expect(batch[row]).toEqual(single)
  }
})

test('pieces are the text; usage and reason come at the end', async () => {
  const generation = decoder.generate('the cat', { maxNewTokens: 10, seed: 1 })
  expect(generation.finishReason).toBeNull()
  let text = ''
  let pieces = 0
  for await (const piece of generation) {
    text += piece.text
    pieces++
  }
  expect(generation.finishReason).toMatch(/length|eos/)
  expect(generation.usage?.promptTokens).toBe(tokenizer.encode('the cat').length)
  expect(generation.usage?.completionTokens).toBeLessThanOrEqual(pieces)
  expect(await decoder.generate('the cat', { maxNewTokens: 10, seed: 1 }).text()).toBe(text)
  await expect(generation.text()).rejects.toThrow(/read once/)
})

test('one piece a token, also where text was held back to the end', async () => {
  const options = { temperature: 0, maxNewTokens: 20 }
  const plain: { text: string; tokenId: number; logprob: number }[] = []
  for await (const piece of decoder.generate('the cat', options)) plain.push(piece)
  // what may begin this stop text is the last thing there is
  const tail = plain
    .map(({ text }) => text)
    .join('')
    .slice(-2)
  const generation = decoder.generate('the cat', { ...options, stop: [`${tail}...`] })
  const held: typeof plain = []
  for await (const piece of generation) held.push(piece)
  expect(held.map(({ tokenId, logprob }) => ({ tokenId, logprob }))).toEqual(
    plain.map(({ tokenId, logprob }) => ({ tokenId, logprob })),
  )
  expect(held.map(({ text }) => text).join('')).toBe(plain.map(({ text }) => text).join(''))
  expect(generation.usage?.completionTokens).toBe(plain.length)
})

test('options at their limits', async () => {
  const extremes = [
    { repetitionPenalty: 1e300 },
    { repetitionPenalty: 1e-30 },
    { temperature: 1e-300 },
    { temperature: 1e300 },
    { topP: 1e-300 },
    { maxNewTokens: 2 ** 30, repetitionPenalty: 1.1 },
    { seed: Number.MAX_SAFE_INTEGER },
  ]
  for (const more of extremes) {
    const { tokenIds } = await decoder.generate('the cat', { maxNewTokens: 5, seed: 1, ...more }).completion()
    for (const id of tokenIds) expect(id).toBeLessThan(tokenizer.vocabSize)
  }
  // 0 in float32
  await expect(decoder.generate('the', { repetitionPenalty: 1e-300 }).text()).rejects.toMatchObject({
    code: 'ERR_VALUE',
  })
  await expect(decoder.generateBatch(['the', ''], {})).rejects.toThrow(/no tokens/)
  expect(await decoder.generateBatch([])).toEqual([])
})

test('leaving the loop frees what it held', async () => {
  for await (const piece of decoder.generate('the cat', { seed: 3 })) {
    expect(piece.tokenId).toBeGreaterThanOrEqual(0)
    break
  }
})

test('an abort ends the answer where it is', async () => {
  const controller = new AbortController()
  const generation = decoder.generate('the cat', { signal: controller.signal, maxNewTokens: 50, seed: 3 })
  let count = 0
  for await (const piece of generation) if (piece.text !== '' && ++count === 3) controller.abort()
  expect(generation.finishReason).toBe('aborted')
  await expect(decoder.generate('the cat', { signal: controller.signal }).text()).rejects.toThrow(/abort/i)
})

test('stop texts end it and are no part of it', async () => {
  const options = { temperature: 0, maxNewTokens: 30 }
  const whole = await decoder.generate('the cat', options).text()
  const middle = whole.slice(6, 9)
  const cut = decoder.generate('the cat', { ...options, stop: ['never said', middle] })
  expect(await cut.text()).toBe(whole.slice(0, whole.indexOf(middle)))
  expect(cut.finishReason).toBe('stop')
})

test('a text is cut at the context, and a prompt that fills it is refused', async () => {
  const full = Int32Array.from({ length: 60 }, (_, i) => 10 + i)
  const answer = await decoder.generate(full, { maxNewTokens: 100, seed: 2 }).completion()
  expect(answer.usage.completionTokens).toBeLessThanOrEqual(5)
  await expect(decoder.generate(new Int32Array(64)).text()).rejects.toThrow(
    /fewer than 64 tokens, received 64/,
  )
  await expect(decoder.generate('').text()).rejects.toThrow(/no tokens/)
})

test('a session answers as a fresh one would, and reads only what is new', async () => {
  const options = { temperature: 0, maxNewTokens: 6 }
  using session = decoder.session()
  let text = 'the cat'
  for (let turn = 0; turn < 3; turn++) {
    const answer = await session.generate(text, options).text()
    expect(answer).toBe(await decoder.generate(text, options).text())
    text += `${answer} on the mat.`
  }
  // something else altogether
  expect(await session.generate('sat', options).text()).toBe(await decoder.generate('sat', options).text())
  const first = session.generate('the', options)[Symbol.asyncIterator]()
  await first.next()
  await expect(session.generate('the', options).text()).rejects.toThrow(/still being read/)
  await first.return?.()
  expect(await session.generate('the', options).text()).toBe(await decoder.generate('the', options).text())
})

describe('options', () => {
  test.each([
    [{ maxNewTokens: 0 }, /maxNewTokens must be an integer/],
    [{ temperature: -1 }, /temperature must be/],
    [{ temperature: Number.NaN }, /temperature must be/],
    [{ topP: 0 }, /topP must be a number above 0 to 1/],
    [{ topK: 1.5 }, /topK must be an integer/],
    [{ repetitionPenalty: 0 }, /repetitionPenalty must be/],
    [{ stop: [''] }, /stop must be/],
    [{ maxTokens: 3 }, /unknown option 'maxTokens'; did you mean 'maxNewTokens'/],
  ])('%j is refused', (options, message) => {
    expect(() => decoder.generate('the', options as never)).toThrow(message)
  })
})

test('what may become a stop text is held back until it is none', () => {
  const filter = new StopFilter(['</s>', 'END'])
  expect(filter.push('a<')).toBe('a')
  expect(filter.push('/')).toBe('')
  expect(filter.push('b')).toBe('</b')
  expect(filter.push('EN')).toBe('')
  expect(filter.push('D and more')).toBe('')
  expect(filter.stopped).toBe(true)
  const open = new StopFilter(['END'])
  expect(open.push('xEN')).toBe('x')
  expect(open.end()).toBe('EN')
})
