// What a session, and the device, are worth after an answer was left, aborted or failed.

import { Decoder, Device, noGrad, ops, scope, Tokenizer, tensor } from 'fuselm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { expectNoLeaks } from '../unit/leaks.ts'

let tokenizer: Tokenizer
let decoder: Decoder
let windowed: Decoder

const SHAPE = {
  hiddenSize: 32,
  numHiddenLayers: 3,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  intermediateSize: 64,
  maxPositionEmbeddings: 2048,
  initializerRange: 0.4,
}

beforeAll(async () => {
  tokenizer = await Tokenizer.train({ texts: ['the cat sat on the mat. '.repeat(30)], vocabSize: 290 })
  decoder = Decoder.create(SHAPE, { tokenizer, dtype: 'f32', seed: 5 })
  const mistral = { ...SHAPE, architecture: 'mistral', slidingWindow: 40, tieWordEmbeddings: true }
  windowed = Decoder.create(mistral, { tokenizer, dtype: 'f32', seed: 6 })
})
afterAll(() => {
  decoder.dispose()
  windowed.dispose()
})
expectNoLeaks()

const prompt = (length: number): Int32Array => Int32Array.from({ length }, (_, i) => 10 + ((i * 37) % 250))
const greedy = { temperature: 0, maxNewTokens: 8 }
const answerOf = async (ids: Int32Array, of = decoder): Promise<readonly number[]> =>
  (await of.generate(ids, greedy).completion()).tokenIds

describe.each([
  ['full attention', () => decoder],
  ['a sliding window', () => windowed],
] as const)('a session with %s', (_, of) => {
  test('that was left in the middle keeps what it has read', async () => {
    using session = of().session()
    const ids = prompt(150)
    const seen: number[] = []
    for await (const { tokenId } of session.generate(ids, greedy)) {
      seen.push(tokenId)
      if (seen.length === 4) break
    }
    // the last token was drawn and may not have been read
    expect(session.length).toBeGreaterThanOrEqual(ids.length + 3)
    const next = Int32Array.of(...ids, ...seen, 20, 21)
    expect((await session.generate(next, greedy).completion()).tokenIds).toEqual(await answerOf(next, of()))
  })

  test('that was aborted in an answer goes on by itself', async () => {
    using session = of().session()
    const ids = prompt(150)
    const controller = new AbortController()
    const generation = session.generate(ids, { temperature: 0, signal: controller.signal })
    let count = 0
    for await (const _piece of generation) if (++count === 3) controller.abort()
    expect(generation.finishReason).toBe('aborted')
    expect(session.length).toBeGreaterThanOrEqual(ids.length + 2)
    expect((await session.generate(ids, greedy).completion()).tokenIds).toEqual(await answerOf(ids, of()))
  })
})

test.each([
  ['full attention', () => decoder],
  ['a sliding window', () => windowed],
] as const)('a session with %s takes memory as it grows, and keeps what it has read', async (_, of) => {
  const device = Device.default()
  const before = device.memory().enqueuedBytes
  using session = of().session()
  const small = device.memory().enqueuedBytes - before
  let ids = prompt(900)
  for (const more of [0, 300, 500]) {
    ids = Int32Array.of(...ids, ...prompt(more))
    const known = session.length
    const { tokenIds } = await session.generate(ids, greedy).completion()
    expect(tokenIds).toEqual(await answerOf(ids, of()))
    expect(session.length).toBeGreaterThanOrEqual(Math.max(known, ids.length))
    ids = Int32Array.of(...ids, ...tokenIds)
  }
  const grown = device.memory().enqueuedBytes - before
  // 2048 positions where there were 1024; a window has all its slots from the beginning
  if (of() === decoder) expect(grown / small).toBeCloseTo(2, 1)
  else expect(grown).toBe(small)
})

test('a session that finds no memory to grow goes on as it was', async () => {
  const device = Device.default()
  using session = decoder.session()
  const ids = prompt(1010)
  await session.generate(ids, greedy).completion()
  const known = session.length
  const more = Int32Array.of(...ids, ...prompt(200))
  for (const nth of [1, 3, 6]) {
    device.failAllocation(nth)
    await expect(session.generate(more, greedy).completion()).rejects.toMatchObject({
      code: 'ERR_OUT_OF_MEMORY',
    })
    device.failAllocation(0)
    expect(session.length).toBeGreaterThanOrEqual(Math.min(known, ids.length))
    await device.sync().catch(() => undefined)
  }
  expect((await session.generate(more, greedy).completion()).tokenIds).toEqual(await answerOf(more))
})

test('an abort while a long prompt is read throws its reason; the pieces that were read stand', async () => {
  using session = decoder.session()
  const ids = prompt(2000)
  const controller = new AbortController()
  const answer = session.generate(ids, { ...greedy, signal: controller.signal }).completion()
  // after the first piece, wherever that is
  setTimeout(() => controller.abort(new Error('enough')), 5)
  const outcome = await answer.then(
    () => 'finished',
    (error: Error) => error.message,
  )
  // a fast machine may have been done
  if (outcome !== 'finished') {
    expect(outcome).toBe('enough')
    expect(session.length % 128).toBe(0)
  }
  expect((await session.generate(ids, greedy).completion()).tokenIds).toEqual(await answerOf(ids))
})

test('memory that runs out anywhere in an answer is an error of that answer alone', async () => {
  const device = Device.default()
  using session = decoder.session()
  const ids = prompt(140)
  const expected = await answerOf(ids)
  const next = Int32Array.of(...ids, ...expected.slice(0, 3), 30)
  const after = await answerOf(next)
  let failures = 0
  for (let nth = 1; nth < 400; nth = Math.ceil(nth * 1.3)) {
    device.failAllocation(nth)
    const outcome = await session
      .generate(ids, greedy)
      .completion()
      .then(
        ({ tokenIds }) => tokenIds,
        (error: { code: string }) => error.code,
      )
    device.failAllocation(0)
    if (outcome === 'ERR_OUT_OF_MEMORY') failures++
    else expect(outcome).toEqual(expected)
    expect((await session.generate(next, greedy).completion()).tokenIds).toEqual(after)
    await device.sync().catch(() => undefined) // of commands that nobody read
  }
  expect(failures).toBeGreaterThan(5)
})

test('an abort cancels what is queued, in a batch too', async () => {
  const controller = new AbortController()
  controller.abort(new Error('never'))
  const options = { signal: controller.signal }
  await expect(decoder.generateBatch(['the', 'cat'], options)).rejects.toThrow('never')
  const later = new AbortController()
  const batch = decoder.generateBatch([prompt(1900), prompt(30)], { signal: later.signal })
  later.abort(new Error('enough'))
  await expect(batch).rejects.toThrow('enough')
  await Device.default().sync() // cancelled commands are no failures
})

test('a session disposed of while its answer is read ends that with a DisposedError', async () => {
  const session = decoder.session()
  const reading = (async () => {
    for await (const _ of session.generate(prompt(20), { maxNewTokens: 50 })) session.dispose()
  })()
  await expect(reading).rejects.toMatchObject({ code: 'ERR_DISPOSED' })
  session.dispose()
  await expect(session.generate('the').text()).rejects.toMatchObject({ code: 'ERR_DISPOSED' })
})

test('generation does not wait for what other queues have before them', async () => {
  const device = Device.default()
  const work = noGrad(() =>
    scope(() => {
      const x = tensor(new Float32Array(1 << 20), { shape: [1024, 1024] })
      let y = x
      for (let i = 0; i < 30; i++) y = ops.matmul(x, y)
      return y
    }),
  )
  let done = false
  const worked = device.queue.fence().then(() => {
    done = true
  })
  using session = decoder.session()
  for (let turn = 0; turn < 2; turn++) await session.generate('the cat', greedy).completion()
  await decoder.generate('the cat', greedy).completion()
  expect(done).toBe(false)
  await worked
  work.dispose()
})
