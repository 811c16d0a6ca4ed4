// ONNX folders, run by onnxruntime: logits of a first piece, and of further tokens over the cache that it
// gave, with left padding, are those of the model that was exported.

import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-node'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Graph } from '../../lib/export/graph.ts'
import { numberToHalf } from '../../lib/export/weights.ts'
import {
  type CausalLm,
  Decoder,
  Device,
  type ExportOnnxOptions,
  exportOnnx,
  Gpt2,
  Llama,
  type LlamaOptions,
  noGrad,
  ops,
  quantizeLinears,
  scope,
  type Tensor,
  Tokenizer,
  tensor,
} from '../../lib/index.ts'
import { halfToNumber } from '../../lib/io/upload.ts'
import { relativeL2 } from '../models/parity.ts'
import { random } from '../ops/random.ts'
import { expectNoLeaks } from '../unit/leaks.ts'

// a development dependency of 288 MB: a checkout that was installed before it came runs the rest
const require = createRequire(import.meta.url)
const installed = ((): boolean => {
  try {
    return existsSync(require.resolve('onnxruntime-node'))
  } catch {
    return false
  }
})()
if (!installed && process.env['CI'] !== undefined) throw new Error('onnxruntime-node is missing; npm ci')
if (!installed) console.warn('onnxruntime-node is not installed (npm ci): nothing runs the exported graphs')
const runtime = (): typeof import('onnxruntime-node') => require('onnxruntime-node')

const device = Device.open({ threads: 1 }).makeDefault()
const VOCABULARY = 270
const SIZE = { hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 2, numAttentionHeads: 4 }
let out: string
let shell: Decoder
beforeAll(async () => {
  out = await mkdtemp(join(tmpdir(), 'fuselm-onnx-'))
  const tokenizer = await Tokenizer.train({ texts: ['one two one two three'], vocabSize: 262 })
  shell = Decoder.create(SIZE, { tokenizer })
})
afterAll(async () => {
  shell.dispose()
  await rm(out, { recursive: true })
  await device.close()
})

const { normal } = random('vectors of an export')

/** Vectors that begin at 0 or 1 would hide a bias or a norm that is left out. */
function roughened<M extends CausalLm>(model: M): M {
  for (const parameter of model.parameters()) {
    if (parameter.rank !== 1) continue
    const noise = Float32Array.from({ length: parameter.size }, () => 0.3 * normal())
    noGrad(() => scope(() => ops.copyInto(parameter, parameter.add(tensor(noise)))))
  }
  return model
}

const llama =
  (options: Partial<LlamaOptions> = {}, dtype: 'f32' | 'bf16' = 'f32') =>
  (): CausalLm => {
    const shape = { ...SIZE, vocabSize: VOCABULARY, numKeyValueHeads: 2, maxPositionEmbeddings: 64 }
    return roughened(new Llama({ ...shape, initializerRange: 0.2, ...options }, { seed: 7, dtype }))
  }
const gpt2 =
  (options = {}) =>
  (): CausalLm => {
    const shape = { vocabSize: VOCABULARY, nEmbd: 32, nLayer: 2, nHead: 4, nPositions: 64 }
    return roughened(new Gpt2({ ...shape, initializerRange: 0.2, ...options }, { seed: 8 }))
  }
const int8 =
  (model: () => CausalLm, group = 0) =>
  (): CausalLm => {
    const made = model()
    quantizeLinears(made, { group })
    return made
  }

const LENGTH = 14
/** Pieces that the rows are fed in. */
const PIECES = [9, 3, 1, 1]
const PADDING = [0, 5]
const tokens = PADDING.map((padding, row) =>
  Array.from({ length: LENGTH - padding }, (_, i) => (i * 37 + row * 11) % VOCABULARY),
)

/** Logits of each row alone, without padding. */
async function ownLogits(model: CausalLm, position: number): Promise<number[][]> {
  return Promise.all(
    tokens.map(async (ids) => {
      const row = (values: number[]) => tensor(values, { shape: [1, ids.length], dtype: 'i32' })
      const places = ids.map((_, i) => position + i)
      const y = noGrad(() => scope(() => model.forward(row(ids), { positions: row(places) })))
      const values = [...(await y.toArray())]
      y.dispose()
      return values
    }),
  )
}

/** The same of padded rows over a cache, piece by piece, as generation reads them. */
async function cachedLogits(model: CausalLm): Promise<number[][]> {
  using cache = model.makeCache({ batch: 2, capacity: LENGTH, padding: PADDING })
  const rows = tokens.map((ids, r) => [...new Array<number>(PADDING[r] ?? 0).fill(0), ...ids])
  const found = tokens.map(() => [] as number[])
  let begin = 0
  for (const length of PIECES) {
    const piece = rows.flatMap((row) => row.slice(begin, begin + length))
    const ids = (): Tensor => tensor(piece, { shape: [2, length], dtype: 'i32' })
    using y = noGrad(() => scope(() => model.forward(ids(), { cache })))
    const values = [...(await y.toArray())]
    for (const [r, row] of found.entries()) {
      const from = Math.max(0, (PADDING[r] ?? 0) - begin)
      row.push(...values.slice((r * length + from) * VOCABULARY, (r + 1) * length * VOCABULARY))
    }
    begin += length
  }
  return found
}

/** Logits of the real tokens, by row, of padded rows that were fed in pieces. */
async function ortLogits(
  path: string,
  {
    half = false,
    level = 'all',
    position = 0,
  }: { half?: boolean; level?: 'basic' | 'all'; position?: number },
): Promise<number[][]> {
  const ort = runtime()
  const session = await ort.InferenceSession.create(path, { graphOptimizationLevel: level })
  const rows = tokens.map((ids, r) => [...new Array<number>(PADDING[r] ?? 0).fill(0), ...ids])
  const i64 = (values: number[][]): OrtTensor =>
    new ort.Tensor('int64', BigInt64Array.from(values.flat(), BigInt), [2, values[0]?.length ?? 0])
  const empty = (name: string): OrtTensor => {
    const input = session.inputMetadata.find((input) => input.name === name)
    if (!input?.isTensor) throw new Error(`${name} is no tensor`)
    const dims = [2, Number(input.shape[1]), 0, Number(input.shape[3])]
    return half
      ? new ort.Tensor('float16', new Uint16Array(0), dims)
      : new ort.Tensor('float32', new Float32Array(0), dims)
  }
  const past = new Map(
    session.inputNames.filter((name) => name.startsWith('past')).map((name) => [name, empty(name)]),
  )
  const found = tokens.map(() => [] as number[])
  let begin = 0
  for (const length of PIECES) {
    const end = begin + length
    const mask = rows.map((_, r) => Array.from({ length: end }, (_, i) => Number(i >= (PADDING[r] ?? 0))))
    const feeds: InferenceSession.FeedsType = {
      input_ids: i64(rows.map((row) => row.slice(begin, end))),
      attention_mask: i64(mask),
      position_ids: i64(
        PADDING.map((padding) =>
          Array.from({ length }, (_, i) => position + Math.max(0, begin + i - padding)),
        ),
      ),
      ...Object.fromEntries(past),
    }
    const result = await session.run(feeds)
    const logits = result['logits'] as OrtTensor
    expect(logits.dims).toEqual([2, length, VOCABULARY])
    const values = logits.data as Float32Array
    for (const [r, row] of found.entries()) {
      for (let i = Math.max(begin, PADDING[r] ?? 0); i < end; i++) {
        const at = (r * length + i - begin) * VOCABULARY
        row.push(...values.subarray(at, at + VOCABULARY))
      }
    }
    expect(values.every(Number.isFinite), 'logits of padding, too').toBe(true)
    for (const name of past.keys()) {
      past.set(name, result[name.replace('past_key_values', 'present')] as OrtTensor)
    }
    begin = end
  }
  await session.release()
  return found
}

interface Case {
  readonly model: () => CausalLm
  readonly options?: ExportOnnxOptions
  readonly file?: string
  /** Of each row's first token. */
  readonly position?: number
  /** Held to what a cache makes of the pieces: they are not those of the whole. */
  readonly pieces?: true
  /** Relative to the norm of all logits. */
  readonly limit?: number
}

const LONG = Array.from({ length: 4 }, (_, i) => 2 + i)
const cases: Record<string, Case> = {
  'llama, tied': { model: llama() },
  'llama, untied, biases, as many groups as heads': {
    model: llama({ tieWordEmbeddings: false, attentionBias: true, mlpBias: true, numKeyValueHeads: 4 }),
  },
  'gelu, heads of another size, half of them turned': {
    model: llama({ hiddenAct: 'gelu_pytorch_tanh', headDim: 12, partialRotaryFactor: 0.5 }),
  },
  mistral: { model: llama({ slidingWindow: 4, hiddenAct: 'gelu' }) },
  qwen2: { model: llama({ attentionBias: true, attentionOutputBias: false }) },
  qwen3: { model: llama({ qkNorm: true, headDim: 16 }) },
  'rotary scaling llama3': {
    model: llama({
      ropeScaling: {
        ropeType: 'llama3',
        factor: 8,
        lowFreqFactor: 1,
        highFreqFactor: 4,
        originalMaxPositionEmbeddings: 16,
      },
    }),
  },
  'rotary scaling yarn': {
    model: llama({ ropeScaling: { ropeType: 'yarn', factor: 4, originalMaxPositionEmbeddings: 16 } }),
  },
  'rotary scaling longrope, short': {
    model: llama({
      ropeScaling: {
        ropeType: 'longrope',
        shortFactor: [1, 1.5, 2, 3],
        longFactor: LONG,
        originalMaxPositionEmbeddings: 32,
      },
    }),
  },
  // a phase of 2^18 in float32 is off by a hundredth of a radian
  'far positions': { model: llama({ maxPositionEmbeddings: 2 ** 19 }), position: 2 ** 18 },
  'rotary scaling longrope, long': {
    model: llama({
      ropeScaling: {
        ropeType: 'longrope',
        shortFactor: [1, 1.5, 2, 3],
        longFactor: LONG,
        originalMaxPositionEmbeddings: 8,
      },
    }),
    position: 8,
  },
  'rotary scaling dynamic, from within the trained context past it': {
    model: llama({ maxPositionEmbeddings: 10, ropeScaling: { ropeType: 'dynamic', factor: 3 } }),
    pieces: true,
  },
  gpt2: { model: gpt2() },
  'gpt2, untied, quick gelu, scores by layer': {
    model: gpt2({
      tieWordEmbeddings: false,
      activationFunction: 'quick_gelu',
      scaleAttnByInverseLayerIdx: true,
    }),
  },
  'bf16 as f32': { model: llama({}, 'bf16'), limit: 2e-2 }, // our own activations are bf16
  'bf16 as f16': {
    model: llama({}, 'bf16'),
    options: { dtype: 'f16' },
    file: 'model_fp16.onnx',
    limit: 2e-2,
  },
  'f32 as f16': { model: llama(), options: { dtype: 'f16' }, file: 'model_fp16.onnx', limit: 5e-3 },
  'gpt2 as f16': { model: gpt2(), options: { dtype: 'f16' }, file: 'model_fp16.onnx', limit: 5e-3 },
  'int8, a scale per row': { model: int8(llama({ tieWordEmbeddings: false })), file: 'model_int8.onnx' },
  'int8, blocks of 32': { model: int8(llama({ tieWordEmbeddings: false }), 32), file: 'model_int8.onnx' },
  'int8, a shorter last block': {
    model: int8(llama({ intermediateSize: 80 }), 32),
    file: 'model_int8.onnx',
  },
  'gpt2 int8': { model: int8(gpt2(), 32), file: 'model_int8.onnx' },
  'weights in a file of their own': { model: llama(), options: { externalData: true } },
}

describe('onnxruntime gives the logits of the model', () => {
  expectNoLeaks()

  test.runIf(installed).each(Object.entries(cases))(
    '%s',
    async (_, { model: make, options, file = 'model.onnx', position = 0, pieces, limit = 2e-6 }) => {
      const folder = await mkdtemp(join(out, 'case-'))
      using model = make()
      await exportOnnx(shell.withModel(model), folder, options)
      const expected = pieces ? await cachedLogits(model) : await ownLogits(model, position)
      const path = join(folder, 'onnx', file)
      // beyond `basic` onnxruntime quantises the activations of int8 products, too
      const int8 = file === 'model_int8.onnx'
      const found = await ortLogits(path, {
        half: options?.dtype === 'f16',
        level: int8 ? 'basic' : 'all',
        position,
      })
      const error = (rows: number[][]): number =>
        Math.max(...expected.map((row, r) => relativeL2(rows[r] ?? [], row)))
      expect(found.map((row) => row.length)).toEqual(expected.map((row) => row.length))
      expect(error(found)).toBeLessThan(limit)
      if (int8) expect(error(await ortLogits(path, {}))).toBeLessThan(0.05)
      // in the numbers people compare: 1e-4 of a logit
      const largest = Math.max(
        ...expected.flatMap((row, r) => row.map((v, i) => Math.abs(v - (found[r]?.[i] ?? Number.NaN)))),
      )
      if (limit < 1e-5) expect(largest).toBeLessThan(1e-4)
      if (pieces) expect(error(await ownLogits(model, position))).toBeGreaterThan(1e-3)
    },
  )
})

describe('the folder', () => {
  const json = async (path: string): Promise<unknown> => JSON.parse(await readFile(path, 'utf8'))

  test('is what transformers.js reads: one of each kind of weights in it', async () => {
    const folder = join(out, 'folder')
    using dense = llama()()
    using small = int8(llama())()
    const { files } = await exportOnnx(shell.withModel(dense), folder)
    await exportOnnx(shell.withModel(dense), folder, { dtype: 'f16' })
    await exportOnnx(shell.withModel(small), folder)
    expect(files).toEqual([join(folder, 'onnx', 'model.onnx')])
    expect((await readdir(folder)).sort()).toEqual([
      'config.json',
      'generation_config.json',
      'onnx',
      'tokenizer.json',
      'tokenizer_config.json',
    ])
    const names = ['model.onnx', 'model_fp16.onnx', 'model_int8.onnx']
    expect((await readdir(join(folder, 'onnx'))).sort()).toEqual(names)
    const sizes = await Promise.all(names.map(async (name) => (await stat(join(folder, 'onnx', name))).size))
    expect((sizes[1] ?? 0) / (sizes[0] ?? 1)).toBeLessThan(0.62)
    expect((sizes[2] ?? 0) / (sizes[0] ?? 1)).toBeLessThan(0.62) // the embedding stays float
    const config = await json(join(folder, 'config.json'))
    expect(config).toMatchObject({ model_type: 'llama', num_key_value_heads: 2, hidden_size: 32 })
    expect(config).not.toHaveProperty('quantization_config')
    const { bosTokenId, eosTokenId, padTokenId } = shell.tokenizer
    expect(await json(join(folder, 'generation_config.json'))).toEqual({
      bos_token_id: bosTokenId,
      eos_token_id: eosTokenId,
      pad_token_id: padTokenId,
    })
    await Tokenizer.load(folder)
  })

  test('says where weights lie that have a file of their own', async () => {
    const folder = join(out, 'external')
    using model = llama()()
    const { files } = await exportOnnx(shell.withModel(model), folder, { externalData: true })
    expect(files).toEqual(['model.onnx_data', 'model.onnx'].map((name) => join(folder, 'onnx', name)))
    expect((await stat(files[1] ?? '')).size).toBeLessThan(60_000)
    expect(await json(join(folder, 'config.json'))).toMatchObject({
      'transformers.js_config': { use_external_data_format: { 'model.onnx': true } },
    })
  })

  test('weights of 2 GB have one, unasked', () => {
    const graph = new Graph()
    const read = async function* (): AsyncGenerator<Uint8Array> {}
    graph.initializer({ name: 'w', type: 'i8', shape: [2 ** 31], byteLength: 2 ** 31, read })
    expect(graph.files('model.onnx').map(({ name }) => name)).toEqual(['model.onnx_data', 'model.onnx'])
    expect(() => graph.files('model.onnx', { external: false })).toThrow(/externalData must be true/)
  })

  test('what cannot be exported is refused, and nothing is written', async () => {
    const folder = join(out, 'refused')
    using small = int8(llama())()
    await expect(exportOnnx(shell.withModel(small), folder, { dtype: 'f16' })).rejects.toThrow(/must be f32/)
    await expect(exportOnnx(shell, folder, { dtype: 'bf16' as 'f16' })).rejects.toThrow(/received "bf16"/)
    await expect(exportOnnx(shell, folder, { external: true } as object)).rejects.toThrow(/external/)
    expect(existsSync(folder)).toBe(false)
  })
})

test('half floats are rounded to nearest even', () => {
  // every half, and the middle between it and the next, which goes to the even one
  for (let bits = 0; bits < 0x7bff; bits++) {
    const [here, next] = [halfToNumber(bits), halfToNumber(bits + 1)]
    if (numberToHalf(here) !== bits || numberToHalf(-here) !== (bits | 0x8000)) throw new Error(`${bits}`)
    const middle = (here + next) / 2
    if (numberToHalf(middle) !== (bits % 2 === 0 ? bits : bits + 1)) throw new Error(`middle above ${bits}`)
    if (numberToHalf(middle * (1 + 2 ** -20)) !== bits + 1) throw new Error(`above the middle above ${bits}`)
  }
  expect([65504, 65519, 65520, 1e30, Number.POSITIVE_INFINITY].map(numberToHalf)).toEqual([
    0x7bff, 0x7bff, 0x7c00, 0x7c00, 0x7c00,
  ])
  expect(halfToNumber(numberToHalf(Number.NaN))).toBeNaN()
})
