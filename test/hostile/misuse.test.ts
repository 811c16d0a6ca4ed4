// The public floors used wrongly: every number that is none, every option that is none, aborts at any moment,
// two at once, too late. Each is a typed error, and what was used goes on working.

import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  AdamW,
  Decoder,
  exportOnnx,
  FuselmError,
  loadModel,
  nn,
  quantize,
  saveModel,
  schedule,
  TextDataset,
  Tokenizer,
  Trainer,
  tensor,
} from 'fuselm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { expectNoLeaks } from '../unit/leaks.ts'

const SHAPE = {
  hiddenSize: 16,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  intermediateSize: 24,
  maxPositionEmbeddings: 64,
}
let folder: string
let tokenizer: Tokenizer
let dataset: TextDataset
let decoder: Decoder
let runs = 0
const texts = ['abc abd. the cat sat on the mat. '.repeat(40)]

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-misuse-'))
  tokenizer = await Tokenizer.train({ texts, vocabSize: 280 })
  dataset = await TextDataset.from(texts, { tokenizer, contextLength: 16 })
  decoder = Decoder.create(SHAPE, { tokenizer, seed: 1 })
  await decoder.save(join(folder, 'model'))
})
afterAll(async () => {
  decoder.dispose()
  await dataset.close()
  rmSync(folder, { recursive: true })
})
expectNoLeaks()

/** What a call throws, now or later. */
async function errorOf(call: () => unknown): Promise<unknown> {
  try {
    await call()
    return undefined
  } catch (error) {
    return error
  }
}

const drain = async (items: AsyncIterable<unknown>): Promise<void> => {
  for await (const _ of items) return
}
const out = (): string => join(folder, `run-${runs++}`)
const trainer = (more: object): Trainer =>
  new Trainer(decoder, { train: dataset, out: out(), steps: 2, batchSize: 2, ...more })

const INTEGERS = [Number.NaN, -1, 1e300, Number.POSITIVE_INFINITY, 0.5, 1n, '2', {}, true] as const
const NUMBERS = [Number.NaN, -1, Number.POSITIVE_INFINITY, 1n, '2', {}, true] as const

type Call = (value: never) => unknown
const numbers: [string, readonly unknown[], Call][] = [
  ['Tokenizer.train vocabSize', [...INTEGERS, 2 ** 32], (v) => Tokenizer.train({ texts, vocabSize: v })],
  ['Tokenizer.train minFrequency', [...INTEGERS, 2 ** 32], (v) =>
    Tokenizer.train({ texts, vocabSize: 280, minFrequency: v })],
  ['TextDataset.from contextLength', [...INTEGERS, 2 ** 32], (v) =>
    TextDataset.from(texts, { tokenizer, contextLength: v })],
  ['TextDataset.from seed', [...INTEGERS, 2 ** 32], (v) =>
    TextDataset.from(texts, { tokenizer, contextLength: 8, seed: v })],
  ['TextDataset.from holdOut', [...NUMBERS, 0.6], (v) =>
    TextDataset.from(texts, { tokenizer, contextLength: 8, holdOut: v })],
  ['TextDataset.open contextLength', [...INTEGERS, 2 ** 32], (v) =>
    TextDataset.open(join(folder, 'none'), { contextLength: v, layout: 'stream' })],
  ['TextDataset.open seed', [...INTEGERS, 2 ** 32], (v) =>
    TextDataset.open(join(folder, 'none'), { contextLength: 8, layout: 'stream', seed: v })],
  ['TextDataset.open padTokenId', [...INTEGERS, 2 ** 32], (v) =>
    TextDataset.open(join(folder, 'none'), { contextLength: 8, layout: 'stream', padTokenId: v })],
  ['batch index', INTEGERS, (v) => dataset.batch(v, 1)],
  ['batch count', [...INTEGERS, 2 ** 32], (v) => dataset.batch(0, v)],
  ['batches size', [...INTEGERS, 2 ** 32], (v) => drain(dataset.batches(v))],
  ['batches from', INTEGERS, (v) => drain(dataset.batches(1, { from: v }))],
  ['once size', [...INTEGERS, 0, 2 ** 32], (v) => drain(dataset.once(v))],
  ['once maxRows', INTEGERS, (v) => drain(dataset.once(1, { maxRows: v }))],
  ['Decoder.create hiddenSize', [...INTEGERS, 2 ** 32], (v) =>
    Decoder.create({ ...SHAPE, hiddenSize: v }, { tokenizer })],
  ['Decoder.create vocabSize', [...INTEGERS, 2 ** 32], (v) =>
    Decoder.create({ ...SHAPE, vocabSize: v }, { tokenizer })],
  ['Decoder.create seed', [...INTEGERS, 2 ** 64], (v) => Decoder.create(SHAPE, { tokenizer, seed: v })],
  ['Decoder.create embeddingStd', [...NUMBERS, 0], (v) => Decoder.create(SHAPE, { tokenizer, embeddingStd: v })],
  ['addAdapter rank', [...INTEGERS, 0, 2 ** 32], (v) => decoder.addAdapter('wrong', { rank: v })],
  ['addAdapter alpha', [...NUMBERS, 0], (v) => decoder.addAdapter('wrong', { alpha: v })],
  ['addAdapter dropout', [...NUMBERS, 1], (v) => decoder.addAdapter('wrong', { dropout: v })],
  ['addAdapter seed', [...INTEGERS, 2 ** 64], (v) => decoder.addAdapter('wrong', { seed: v })],
  ['session capacity', [...INTEGERS, 0, 2 ** 32], (v) => decoder.session({ capacity: v })],
  ['evaluate batchSize', [...INTEGERS, 0, 2 ** 32], (v) => decoder.evaluate(dataset, { batchSize: v })],
  ['evaluate maxRows', [...INTEGERS, 0], (v) => decoder.evaluate(dataset, { maxRows: v })],
  ['generate maxNewTokens', [...INTEGERS, 0, 2 ** 32], (v) => decoder.generate('abc', { maxNewTokens: v })],
  ['generate temperature', NUMBERS, (v) => decoder.generate('abc', { temperature: v })],
  ['generate topK', [...INTEGERS, 2 ** 32], (v) => decoder.generate('abc', { topK: v })],
  ['generate topP', [...NUMBERS, 0, 2], (v) => decoder.generate('abc', { topP: v })],
  ['generate repetitionPenalty', [...NUMBERS, 0], (v) => decoder.generate('abc', { repetitionPenalty: v })],
  ['generate seed', INTEGERS, (v) => decoder.generate('abc', { seed: v })],
  ['generateBatch seed', INTEGERS, (v) => decoder.generateBatch(['abc'], { seed: v })],
  ['AdamW learningRate', NUMBERS, (v) => adamW({ learningRate: v })],
  ['AdamW weightDecay', NUMBERS, (v) => adamW({ weightDecay: v })],
  ['AdamW eps', NUMBERS, (v) => adamW({ eps: v })],
  ['AdamW clipNorm', NUMBERS, (v) => adamW({ clipNorm: v })],
  ['AdamW betas', [...NUMBERS, 1, [0.9], [0.9, 1], [0.9, Number.NaN], [0.9, 0.9, 0.9]], (v) => adamW({ betas: v })],
  ['schedule steps', [...INTEGERS, 0], (v) => schedule({ learningRate: 1, steps: v, warmup: 0 })],
  ['schedule warmup', INTEGERS, (v) => schedule({ learningRate: 1, steps: 9, warmup: v })],
  ['schedule learningRate', NUMBERS, (v) => schedule({ learningRate: v, steps: 9, warmup: 0 })],
  ['KvCache capacity', [...INTEGERS, 0, 2 ** 32], (v) => decoder.model.makeCache({ capacity: v })],
  ['KvCache batch', [...INTEGERS, 0, 2 ** 32], (v) => decoder.model.makeCache({ batch: v })],
  ['KvCache padding', INTEGERS, (v) => decoder.model.makeCache({ padding: [v] })],
  ...(
    [
      ['batchSize', [...INTEGERS, 0, 2 ** 32]],
      ['accumulate', [...INTEGERS, 0, 2 ** 32]],
      ['steps', [...INTEGERS, 0, 2 ** 32]],
      ['clipNorm', NUMBERS],
      ['dropout', [...NUMBERS, 1]],
      ['recompute', [Number.NaN, -1, 0.5, 1e300, 1n, '2', {}]],
      ['seed', [...INTEGERS, 2 ** 32]],
      ['saveEvery', [Number.NaN, -1, 1.5, 1e300, 2 ** 32, 1n, '2', {}, true]],
      ['evalEvery', [Number.NaN, -1, 1.5, 1e300, 2 ** 32, 1n, '2', {}, true]],
      ['evalRows', [...INTEGERS, 0, 2 ** 32]],
      ['keepLast', [...INTEGERS, 0, 2 ** 32]],
      ['maxSkipped', [...INTEGERS, 0, 2 ** 32]],
    ] as const
  ).map(([key, values]): [string, readonly unknown[], Call] => [
    `Trainer ${key}`,
    values,
    (v) => trainer({ [key]: v }),
  ]),
  ['Trainer epochs', [...NUMBERS, 0, 1e300], (v) => trainer({ steps: undefined, epochs: v })],
  ['Trainer minutes', [...NUMBERS, 0], (v) => trainer({ steps: undefined, minutes: v })],
  ['Trainer learningRate', NUMBERS, (v) => trainer({ optimizer: { learningRate: v } })],
  ['Trainer weightDecay', NUMBERS, (v) => trainer({ optimizer: { weightDecay: v } })],
  ['Trainer eps', NUMBERS, (v) => trainer({ optimizer: { eps: v } })],
  ['Trainer betas', [1, [0.9], [0.9, 1], [Number.NaN, 0.9], ['0.9', '0.9']], (v) =>
    trainer({ optimizer: { betas: v } })],
  ['Trainer warmup', INTEGERS, (v) => trainer({ schedule: { warmup: v } })],
  ['Trainer floor', [...NUMBERS, 2], (v) => trainer({ schedule: { floor: v } })],
  ['Trainer patience', [...INTEGERS, 0], (v) =>
    trainer({ validation: dataset, earlyStopping: { patience: v } })],
]

function adamW(options: object): void {
  const parameter = tensor([1], { dtype: 'f32', requiresGrad: true })
  try {
    new AdamW({ parameters: [parameter], ...options }).dispose()
  } finally {
    parameter.dispose()
  }
}

describe('numbers', () => {
  test.each(numbers)('%s', async (name, values, call) => {
    for (const value of values) {
      const error = await errorOf(() => call(value as never))
      const shown = `${name} = ${typeof value === 'bigint' ? `${value}n` : JSON.stringify(value)}: ${error}`
      expect(error, shown).toBeInstanceOf(FuselmError)
      expect((error as FuselmError).code, shown).toMatch(/^ERR_(VALUE|CONFIG|SHAPE)$/)
    }
  })
})

const unknown: [string, string, string, (options: never) => unknown][] = [
  ['Tokenizer.train', 'vocabsize', 'vocabSize', (o) => Tokenizer.train({ texts, vocabSize: 280, ...(o as object) })],
  ['Tokenizer.load', 'singal', 'signal', (o) => Tokenizer.load(join(folder, 'model'), o)],
  ['Tokenizer.encode', 'addSpecialToken', 'addSpecialTokens', (o) => tokenizer.encode('abc', o)],
  ['Tokenizer.encodeAsync', 'splitSpecialToken', 'splitSpecialTokens', (o) => tokenizer.encodeAsync('abc', o)],
  ['Tokenizer.decode', 'skipSpecialToken', 'skipSpecialTokens', (o) => tokenizer.decode([1], o)],
  ['Tokenizer.applyChatTemplate', 'addGeneration', 'addGenerationPrompt', (o) =>
    tokenizer.withChatTemplate('x').applyChatTemplate([], o)],
  ['TextDataset.from', 'contextlength', 'contextLength', (o) =>
    TextDataset.from(texts, { tokenizer, contextLength: 8, ...(o as object) })],
  ['TextDataset.open', 'Layout', 'layout', (o) =>
    TextDataset.open('x', { contextLength: 8, layout: 'stream', ...(o as object) })],
  ['Decoder.create', 'dType', 'dtype', (o) => Decoder.create(SHAPE, { tokenizer, ...(o as object) })],
  ['Decoder.create', 'hiddensize', 'hidden_size', (o) => Decoder.create({ ...SHAPE, ...(o as object) }, { tokenizer })],
  ['Decoder.addAdapter', 'Rank', 'rank', (o) => decoder.addAdapter('wrong', o)],
  ['Decoder.load', 'Signal', 'signal', (o) => Decoder.load(join(folder, 'model'), o)],
  ['Decoder.evaluate', 'batchsize', 'batchSize', (o) => decoder.evaluate(dataset, o)],
  ['Decoder.generate', 'maxTokens', 'maxNewTokens', (o) => decoder.generate('abc', o)],
  ['Decoder.generateBatch', 'temprature', 'temperature', (o) => decoder.generateBatch(['abc'], o)],
  ['Decoder.session', 'Capacity', 'capacity', (o) => decoder.session(o)],
  ['Trainer', 'batchsize', 'batchSize', (o) => trainer(o)],
  ['Trainer.run', 'singal', 'signal', (o) => drain(trainer({}).run(o))],
  ['Trainer.finish', 'singal', 'signal', (o) => trainer({}).finish(o)],
  ['AdamW', 'learningrate', 'learningRate', (o) => adamW(o as object)],
  ['schedule', 'warmUp', 'warmup', (o) => schedule({ learningRate: 1, steps: 9, warmup: 1, ...(o as object) })],
  ['KvCache', 'capcity', 'capacity', (o) => decoder.model.makeCache(o)],
]

describe('unknown options', () => {
  test.each(unknown)('%s: %s', async (_, key, near, call) => {
    const error = await errorOf(() => call({ [key]: 1 } as never))
    expect(error).toMatchObject({ code: 'ERR_CONFIG', message: expect.stringContaining(`did you mean '${near}'?`) })
  })
})

describe('arguments of another kind', () => {
  test.each<[string, () => unknown]>([
    ['a prompt that is a number', () => decoder.generate(3 as never).text()],
    ['a prompt that is null', () => decoder.generate(null as never).text()],
    ['ids past the vocabulary', () => decoder.generate(Int32Array.of(1, 99999)).text()],
    ['negative ids', () => decoder.generate(Int32Array.of(-5)).text()],
    ['messages that are none', () => decoder.generate([{ role: 1 }] as never).text()],
    ['prompts that are no list', () => decoder.generateBatch('abc' as never)],
    ['a signal that is none', () => decoder.generate('abc', { signal: {} as never }).text()],
    ['a signal that is none, for a run', () => trainer({}).finish({ signal: 'x' as never })],
    ['a text that is none', () => tokenizer.encode(3 as never)],
    ['texts that are none', () => tokenizer.encodeAsync([3] as never)],
    ['no tokenizer', () => Decoder.create(SHAPE, {} as never)],
    ['no tokenizer for a dataset', () => TextDataset.from(texts, { contextLength: 8 } as never)],
    ['rows that are none', () => TextDataset.from(3 as never, { tokenizer, contextLength: 8 })],
    ['files that are none', () => TextDataset.fromFiles([3] as never, { tokenizer, contextLength: 8 })],
    ['an unknown layout', () => TextDataset.from(texts, { tokenizer, contextLength: 8, layout: 'rows' as never })],
    ['an unknown dtype', () => Decoder.create(SHAPE, { tokenizer, dtype: 'f8' as never })],
    ['an unknown decay', () => trainer({ schedule: { decay: 'exponential' } })],
    ['no dataset', () => new Trainer(decoder, { out: out(), steps: 1 } as never)],
    ['no model', () => new Trainer({} as never, { train: dataset, out: out(), steps: 1 })],
    ['a folder that is a number', () => Decoder.load(3 as never)],
    ['a pattern that is a number', () => decoder.freeze(3 as never)],
    ['special tokens that are none', () => Tokenizer.train({ texts, vocabSize: 280, specialTokens: [1] as never })],
    ['ids that are no integers', () => decoder.generate([1, 2.5]).text()],
    ['ids and words', () => decoder.generate([1, 'two'] as never).text()],
    ['no ids', () => decoder.generate([]).text()],
    ['options that are null', () => decoder.generate('abc', null as never).text()],
    ['no shape of a decoder', () => Decoder.create(undefined as never, { tokenizer })],
    ['an architecture that is none', () => Decoder.create({ ...SHAPE, architecture: 'lama' }, { tokenizer })],
    ['no options for a decoder', () => (Decoder.create as (shape: object) => unknown)(SHAPE)],
    ['no options for a trainer', () => new (Trainer as unknown as new (model: Decoder) => Trainer)(decoder)],
    ['no options for an optimizer', () => new (AdamW as unknown as new () => AdamW)()],
    ['parameters that are none', () => new AdamW({ parameters: undefined as never })],
    ['no options for a schedule', () => (schedule as () => unknown)()],
    ['a text to evaluate on', () => decoder.evaluate('abc' as never)],
    ['nowhere to save', () => decoder.save(undefined as never)],
    ['nowhere to export', () => exportOnnx(decoder, undefined as never)],
    ['nothing to export', () => exportOnnx(undefined as never, 'x')],
    ['nothing to quantise', () => quantize(decoder.model as never)],
    ['a model that is none', () => saveModel(undefined as never, 'x')],
    ['no folder of a model', () => loadModel(undefined as never)],
    ['no folder of an adapter', () => decoder.loadAdapter(undefined as never)],
    ['no folder of a tokenizer', () => Tokenizer.load(undefined as never)],
    ['ids that are a text', () => tokenizer.decode('abc' as never)],
    ['padding of another length', () => decoder.model.makeCache({ batch: 2, padding: [0] })],
  ])('%s', async (_, call) => {
    const error = await errorOf(call)
    expect(error).toBeInstanceOf(FuselmError)
    // what was used wrongly goes on
    expect((await decoder.generate('abc', { maxNewTokens: 2, temperature: 0 }).completion()).text).toBeTypeOf('string')
  })
})

test('token ids are a prompt as a list, too: an answer goes back in', async () => {
  const ids = tokenizer.encode('abc abd')
  const greedy = { maxNewTokens: 3, temperature: 0 }
  const { tokenIds } = await decoder.generate(ids, greedy).completion()
  const next = [...ids, ...tokenIds]
  const answer = await decoder.generate(next, greedy).completion()
  expect(answer).toEqual(await decoder.generate(Int32Array.from(next), greedy).completion())
})

describe('memory of others', () => {
  const detached = <T extends Float32Array | Int32Array>(values: T): T => {
    structuredClone(values.buffer, { transfer: [values.buffer as ArrayBuffer] })
    return values
  }

  test('detached buffers, and values that are no numbers', async () => {
    for (const call of [
      () => tensor(detached(new Float32Array(4)), { shape: [4] }),
      () => tensor(detached(new Float32Array(4))),
      () => tensor(null as never),
      () => tensor('abc' as never),
      () => tensor({ length: 1e300 } as never),
      () => tensor([1n] as never),
      () => tensor([1, 2], { shape: [Number.NaN] }),
      () => tensor([1, 2], { shape: [2 ** 40, 2 ** 40] }),
      () => tensor([1, 2], { dtype: 'f8' as never }),
      () => decoder.generate(detached(Int32Array.of(1, 2))).text(),
    ]) {
      const error = await errorOf(call)
      expect(error, String(call)).toBeInstanceOf(FuselmError)
    }
  })

  test('a buffer transferred after it was given, and a shared one that changes', async () => {
    const later = new Float32Array(100_000).fill(3)
    const shared = new Float32Array(new SharedArrayBuffer(400_000)).fill(2)
    const [first, second] = [tensor(later), tensor(shared)]
    detached(later)
    shared.fill(9)
    expect((await first.toArray())[99_999]).toBe(3)
    expect((await second.toArray())[99_999]).toBe(2)
    first.dispose()
    second.dispose()
  })
})

describe('aborts', () => {
  const long = Array.from({ length: 300 }, (_, i) => `words ${i} and more of them. `.repeat(60))
  const calls: [string, (signal: AbortSignal) => Promise<unknown>][] = [
    ['Tokenizer.train', (signal) => Tokenizer.train({ texts: long, vocabSize: 400, signal })],
    ['Tokenizer.load', (signal) => Tokenizer.load(join(folder, 'model'), { signal })],
    ['Tokenizer.encodeAsync', (signal) => tokenizer.encodeAsync(long, { signal })],
    ['TextDataset.from', async (signal) =>
      (await TextDataset.from(long, { tokenizer, contextLength: 16, signal })).close()],
    ['Decoder.load', async (signal) => (await Decoder.load(join(folder, 'model'), { signal })).dispose()],
    ['Decoder.evaluate', (signal) => decoder.evaluate(dataset, { signal, batchSize: 1 })],
    ['Decoder.generate', (signal) => decoder.generate('abc', { signal, seed: 1 }).completion()],
    ['Decoder.generateBatch', (signal) => decoder.generateBatch(['abc', 'abd'], { signal, seed: 1 })],
    ['Trainer.finish', (signal) => trainer({ steps: 30, saveEvery: 0 }).finish({ signal })],
  ]

  test.each(calls)('%s: before', async (_, call) => {
    const reason = new Error('before')
    expect(await errorOf(() => call(AbortSignal.abort(reason)))).toBe(reason)
  })

  test.each(calls)('%s: during', async (name, call) => {
    for (const delay of [0, 3, 15]) {
      const controller = new AbortController()
      const reason = new Error(`${name} during`)
      setTimeout(() => controller.abort(reason), delay)
      const error = await errorOf(() => call(controller.signal))
      // a fast machine may have been done; an answer that had begun ends where it is
      if (error !== undefined) expect(error).toBe(reason)
    }
  })

  test.each(calls)('%s: after', async (_, call) => {
    const controller = new AbortController()
    await call(controller.signal)
    controller.abort(new Error('after'))
    await new Promise((resolve) => setImmediate(resolve))
  })
})

describe('two at once', () => {
  test('two runs of one model are refused, or none is harmed', async () => {
    using model = Decoder.create(SHAPE, { tokenizer, seed: 2 })
    const make = (): Trainer => new Trainer(model, { train: dataset, out: out(), steps: 5, batchSize: 2 })
    const results = await Promise.allSettled([make().finish(), make().finish()])
    for (const result of results) {
      if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(FuselmError)
    }
    expect(results.some(({ status }) => status === 'fulfilled')).toBe(true)
  })

  test('many answers of one model', async () => {
    const options = { maxNewTokens: 6, temperature: 0 }
    const expected = await decoder.generate('abc', options).text()
    const answers = Array.from({ length: 8 }, () => decoder.generate('abc', options).text())
    expect(await Promise.all(answers)).toEqual(new Array(8).fill(expected))
  })
})

describe('too late', () => {
  test('twice is once', async () => {
    const model = Decoder.create(SHAPE, { tokenizer, seed: 3 })
    const session = model.session()
    const optimizer = new AdamW({ parameters: model.model.namedParameters() })
    const own = await TextDataset.from(texts, { tokenizer, contextLength: 8 })
    for (let time = 0; time < 2; time++) {
      session.dispose()
      optimizer.dispose()
      model.dispose()
      await own.close()
    }
  })

  test('everything of a decoder that is disposed of', async () => {
    const model = Decoder.create(SHAPE, { tokenizer, seed: 4 })
    const session = model.session()
    model.dispose()
    const path = join(folder, 'late')
    for (const call of [
      () => model.generate('abc').text(),
      () => model.generateBatch(['abc']),
      () => session.generate('abc').text(),
      () => model.session(),
      () => model.evaluate(dataset),
      () => model.save(path),
      () => exportOnnx(model, path),
      () => model.addAdapter('late'),
      () => model.loadAdapter(path),
      () => new Trainer(model, { train: dataset, out: out(), steps: 1 }).finish(),
    ]) {
      const error = await errorOf(call)
      expect(error, String(call)).toMatchObject({ code: 'ERR_DISPOSED' })
    }
    session.dispose()
    expect(existsSync(join(path, 'model.safetensors'))).toBe(false)
  })

  test('a dataset that is closed', async () => {
    const own = await TextDataset.from(texts, { tokenizer, contextLength: 8 })
    await own.close()
    for (const call of [
      () => own.batch(0, 1),
      () => drain(own.once(1)),
      () => decoder.evaluate(own),
      () => new Trainer(decoder, { train: own, out: out(), steps: 1 }).finish(),
    ]) {
      expect(await errorOf(call), String(call)).toMatchObject({ code: 'ERR_DISPOSED' })
    }
  })

  test('a module, and what it was made of', () => {
    const cache = decoder.model.makeCache({ capacity: 4 })
    expect(cache).toBeInstanceOf(nn.KvCache)
    cache.dispose()
    cache.dispose()
    expect(() => cache.truncate(0)).toThrow(/used after dispose/)
    expect(() => cache.recover(0)).toThrow(/used after dispose/)
  })
})
