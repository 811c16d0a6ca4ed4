// int8 weights as files and as an option: folders by compressed-tensors' own compressor
// (test/golden/int8/make.py), the way back, quantising while loading.

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  type CausalLm,
  Decoder,
  Device,
  Gpt2,
  Int8Weight,
  ISA_LEVELS,
  Llama,
  type LoadProgress,
  loadModel,
  nn,
  noGrad,
  quantize,
  quantizeLinears,
  saveModel,
  scope,
  type Tensor,
  Tokenizer,
  tensor,
} from '../../lib/index.ts'
import { linear } from '../../lib/ops/linear.ts'
import { readSafetensors } from '../ops/runner/golden.ts'
import { expectNoLeaks } from '../unit/leaks.ts'
import { LOGITS_LIMIT, relativeL2 } from './parity.ts'

const golden = fileURLToPath(new URL('../golden/int8/', import.meta.url))
const device = Device.open({ threads: 2 }).makeDefault()
let out: string
beforeAll(async () => {
  out = await mkdtemp(join(tmpdir(), 'fuselm-int8-'))
})
afterAll(async () => {
  await rm(out, { recursive: true })
  await device.close()
})

const json = async (path: string): Promise<Record<string, unknown>> =>
  JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>
const read = async (t: Tensor): Promise<number[]> => {
  const values = [...(await t.toArray())]
  t.dispose()
  return values
}
const sources = (model: nn.Module): Map<string, Int8Weight> => {
  const linears = [...model.namedModules()].filter(([, found]) => found instanceof nn.Linear)
  return new Map(linears.map(([path, found]) => [path, (found as nn.Linear).source as Int8Weight]))
}
const SIZE = {
  vocabSize: 64,
  hiddenSize: 64,
  intermediateSize: 96,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  tieWordEmbeddings: false,
}

const LLAMA_PARTS = [
  ['model.layers.0.selfAttn.kProj', 'model.layers.0.self_attn.k_proj'],
  ['model.layers.1.mlp.downProj', 'model.layers.1.mlp.down_proj'],
] as const
// a square one: the wrong way round it would fit
const GPT2_PARTS = [['transformer.h.0.attn.cProj', 'transformer.h.0.attn.c_proj']] as const

describe.each([
  ['channel', LLAMA_PARTS],
  ['group', LLAMA_PARTS],
  ['gpt2-channel', GPT2_PARTS],
  ['gpt2-blocks', GPT2_PARTS],
] as const)('a folder of compressed-tensors, %s', (name, parts) => {
  expectNoLeaks()
  const { tensors } = readSafetensors(`${golden}${name}/expected.safetensors`)
  const ids = tensors.get('ids')

  test('logits are those of transformers, weights stand for the same numbers', async () => {
    using model = await loadModel(golden + name, { dtype: 'f32' })
    const logits = noGrad(() =>
      scope(() => model.forward(tensor(ids?.values ?? [], { shape: ids?.shape ?? [], dtype: 'i32' }))),
    )
    const error = relativeL2(await read(logits), tensors.get('logits')?.values ?? [])
    expect(error).toBeLessThan(LOGITS_LIMIT.f32)
    const weights = sources(model)
    for (const [path, key] of parts) {
      // Conv1D's matrix lies the other way round
      const own = (weights.get(path) as Int8Weight).dequantize()
      const dense = name.startsWith('gpt2') ? own.transpose() : own
      expect(await read(dense)).toEqual([...(tensors.get(`dequantized.${key}.weight`)?.values ?? [])])
      own.dispose()
    }
  })

  test('saved again, it is the same folder', async () => {
    const folder = join(out, name)
    using model = await loadModel(golden + name)
    await saveModel(model, folder)
    const theirs = readSafetensors(`${golden}${name}/model.safetensors`).tensors
    const ours = readSafetensors(join(folder, 'model.safetensors')).tensors
    expect([...ours.keys()].sort()).toEqual([...theirs.keys()].sort())
    for (const [path, { shape, values }] of theirs) {
      expect(ours.get(path), path).toMatchObject({ shape })
      expect(relativeL2(ours.get(path)?.values ?? [], values), path).toBe(0)
    }
    const [config, expected] = await Promise.all(
      [folder, golden + name].map(
        async (path) =>
          (await json(join(path, 'config.json')))['quantization_config'] as Record<string, unknown>,
      ),
    )
    for (const [key, value] of Object.entries(config ?? {})) expect(value, key).toEqual(expected?.[key])
    using again = await loadModel(folder)
    expect([...again.stateDict().keys()]).toEqual([...model.stateDict().keys()])
  })
})

test.each(ISA_LEVELS)('the value -128, which others write, is multiplied right at %s', async (isa) => {
  using here = Device.open({ threads: 1, isa })
  const [rows, columns] = [19, 70]
  const values = Int8Array.from({ length: rows * columns }, (_, i) => (i % 3 === 0 ? -128 : (i % 255) - 127))
  const x = Float32Array.from({ length: 6 * columns }, (_, i) => Math.sin(i))
  for (const activations of ['float', 'int8'] as const) {
    for (const count of [1, 6]) {
      const y = noGrad(() =>
        scope(() =>
          linear(tensor(x.subarray(0, count * columns), { shape: [count, columns], device: here }), {
            kind: 'int8',
            values: tensor(values, { shape: [rows, columns], dtype: 'i8', device: here }),
            scales: tensor(new Float32Array(rows).fill(0.5), { device: here }),
            group: 0,
            activations,
          }),
        ),
      )
      const expected = Array.from({ length: count * rows }, (_, i) => {
        const [r, n] = [Math.floor(i / rows), i % rows]
        const row = x.subarray(r * columns, (r + 1) * columns)
        const step = Math.fround(Math.max(...row.map(Math.abs)) / 127)
        // ties do not occur: sines are irrational
        const quantised = (v: number): number => (activations === 'int8' ? Math.round(v / step) * step : v)
        let sum = 0
        for (let c = 0; c < columns; c++) sum += quantised(row[c] ?? 0) * (values[n * columns + c] ?? 0) * 0.5
        return sum
      })
      // float32 sums of 70 terms up to 64
      expect(relativeL2(await read(y), expected), `${activations}, ${count} rows`).toBeLessThan(1e-6)
    }
  }
})

describe('quantise', () => {
  expectNoLeaks()
  const text = 'the cat sat on the mat and the dog sat on the log. '.repeat(40)
  let decoder: Decoder
  let folder: string
  beforeAll(async () => {
    const tokenizer = await Tokenizer.train({ texts: [text], vocabSize: 280 })
    const { vocabSize: _, ...shape } = SIZE
    decoder = Decoder.create({ ...shape, intermediateSize: 128 }, { tokenizer, seed: 3, dtype: 'bf16' })
    folder = join(out, 'dense')
    await decoder.save(folder)
  })
  afterAll(() => decoder.dispose())

  const logitsOf = async (of: Decoder): Promise<number[]> =>
    read(
      noGrad(() => scope(() => of.model.forward(tensor([5, 9, 77, 31, 8], { shape: [1, 5], dtype: 'i32' })))),
    )

  test.each([0, 32, 64])('a copy, while loading and in place: the same bits, group %i', async (group) => {
    const before = await logitsOf(decoder)
    using copy = await quantize(decoder, { group })
    const expected = await logitsOf(copy)
    expect(await logitsOf(decoder)).toEqual(before)
    expect(relativeL2(expected, before)).toBeGreaterThan(0)
    expect(relativeL2(expected, before)).toBeLessThan(0.05) // bf16 activations and int8 weights

    using loaded = await Decoder.load(folder, { weights: { group } })
    expect(await logitsOf(loaded)).toEqual(expected)
    using inPlace = await loadModel(folder)
    quantizeLinears(inPlace, { group })
    expect(await logitsOf(copy.withModel(inPlace))).toEqual(expected)

    const saved = join(out, `small-${group}`)
    await copy.save(saved)
    using again = await Decoder.load(saved)
    expect(await logitsOf(again)).toEqual(expected)
    expect([...sources(again.model).values()].map((source) => source.group)).toEqual(
      new Array(15).fill(group),
    )
  })

  test('activations in int8 are remembered', async () => {
    using copy = await quantize(decoder, { activations: 'int8' })
    await copy.save(join(out, 'dynamic'))
    using again = await Decoder.load(join(out, 'dynamic'))
    expect(await logitsOf(again)).toEqual(await logitsOf(copy))
    const { quantization_config: config } = await json(join(out, 'dynamic', 'config.json'))
    expect(config).toMatchObject({
      config_groups: { group_0: { input_activations: { strategy: 'token', dynamic: true } } },
    })
  })

  test('Linears left out stay dense, and are named', async () => {
    using copy = await quantize(decoder, {
      include: (path) => path !== 'lmHead' && !path.includes('layers.1'),
    })
    await copy.save(join(out, 'some'))
    const { quantization_config: config } = await json(join(out, 'some', 'config.json'))
    const { ignore } = config as { ignore: string[] }
    expect(ignore).toContain('lm_head')
    expect(ignore).toContain('model.layers.1.mlp.up_proj')
    expect(ignore).toHaveLength(8)
    using again = await Decoder.load(join(out, 'some'))
    expect(await logitsOf(again)).toEqual(await logitsOf(copy))
  })

  test('progress reaches the size of the file; a signal ends the load', async () => {
    const seen: LoadProgress[] = []
    const loaded = await Decoder.load(folder, { weights: 'int8', onProgress: (at) => seen.push(at) })
    loaded.dispose()
    expect(seen.at(-1)?.loadedBytes).toBe(seen.at(-1)?.totalBytes)
    expect(seen.length).toBeGreaterThan(10)
    const controller = new AbortController()
    const aborted = loadModel(folder, {
      signal: controller.signal,
      onProgress: () => controller.abort(new Error('enough')),
    })
    await expect(aborted).rejects.toThrow('enough')
    await expect(Decoder.load(folder, { weights: 'int4' as 'int8' })).rejects.toThrow(/weights must be/)
    await expect(Decoder.load(folder, { weights: { group: 48 } })).rejects.toThrow(/group must be 0/)
  })

  test('what cannot be', async () => {
    using copy = await quantize(decoder)
    await expect(quantize(copy)).rejects.toThrow(/model.layers.0.selfAttn.qProj are not dense any more/)
    await expect(quantize(decoder, { include: () => false })).rejects.toThrow(/no Linear/)
    await expect(quantize(decoder, { groups: 32 } as object)).rejects.toThrow(/did you mean 'group'/)
    using ragged = new Llama({ ...SIZE, intermediateSize: 80 })
    quantizeLinears(ragged, { group: 32 })
    await expect(saveModel(ragged, join(out, 'ragged'))).rejects.toThrow(
      /down_proj has rows of 80 weights in groups of 32/,
    )
    using gpt2 = new Gpt2({ vocabSize: 64, nEmbd: 32, nInner: 80, nLayer: 1, nHead: 2 })
    quantizeLinears(gpt2, { group: 32 })
    await expect(saveModel(gpt2, join(out, 'gpt2'))).rejects.toThrow(
      /mlp.c_proj has rows of 80 weights in groups of 32/,
    )
  })
})

describe('GPT-2', () => {
  expectNoLeaks()
  const ids = [5, 9, 7, 31, 8]
  const logitsOf = async (of: CausalLm): Promise<number[]> =>
    read(noGrad(() => scope(() => of.forward(tensor(ids, { shape: [1, ids.length], dtype: 'i32' })))))

  test.each([
    [0, true, 'float'],
    [32, true, 'float'],
    [64, false, 'float'],
    [0, false, 'int8'],
    [32, true, 'int8'],
  ] as const)('saved and loaded: the same bits, group %i, tied %s, activations %s', async (...kind) => {
    const [group, tieWordEmbeddings, activations] = kind
    const folder = join(out, `gpt2-${kind.join('-')}`)
    const shape = { vocabSize: 64, nEmbd: 64, nLayer: 2, nHead: 4, nPositions: 32, initializerRange: 0.2 }
    using model = new Gpt2({ ...shape, tieWordEmbeddings }, { dtype: 'bf16', seed: 2 })
    quantizeLinears(model, { group, activations })
    const expected = await logitsOf(model)
    await saveModel(model, folder)
    using again = await loadModel(folder)
    expect(await logitsOf(again)).toEqual(expected)
    const found = [...sources(again).values()]
    expect(found).toHaveLength(tieWordEmbeddings ? 8 : 9)
    for (const weight of found) expect(weight).toMatchObject({ group, activations })
    // and from there, once more, the same files
    await saveModel(again, join(folder, 'again'))
    for (const file of ['config.json', 'model.safetensors']) {
      expect(await readFile(join(folder, 'again', file))).toEqual(await readFile(join(folder, file)))
    }
  })

  test('groups of another kind are refused: along outputs, or of another width', async () => {
    using model = new Gpt2({ vocabSize: 64, nEmbd: 64, nLayer: 1, nHead: 4, nPositions: 32 })
    quantizeLinears(model, { group: 32 })
    const folder = join(out, 'gpt2-refused')
    await saveModel(model, folder)
    const path = join(folder, 'config.json')
    const plain = await readFile(path, 'utf8')
    for (const [weights, message] of [
      [
        { strategy: 'block', block_structure: [32, 32] },
        /weights.block_structure must be \[n, 1\] .* \[32,32\]/,
      ],
      [{ strategy: 'block', block_structure: '32' }, /weights.block_structure must be/],
      [{ strategy: 'block', block_structure: [64, 1] }, /c_attn.weight_scale must be \[1,192\] .*\[2,192\]/],
      [
        { strategy: 'group', group_size: 32 },
        /c_attn.weight_scale must be of a scheme for matrices \[in, out\]/,
      ],
    ] as const) {
      const config = JSON.parse(plain)
      const scheme = config.quantization_config.config_groups.group_0
      scheme.weights = { ...scheme.weights, block_structure: null, ...weights }
      await writeFile(path, JSON.stringify(config))
      await expect(loadModel(folder), JSON.stringify(weights)).rejects.toThrow(message)
    }
  })
})

test('quantising while loading never holds the dense model', async () => {
  const [folder, size] = [join(out, 'large'), { ...SIZE, hiddenSize: 256, intermediateSize: 1024 }]
  const dense = new Llama({ ...size, numHiddenLayers: 6, vocabSize: 256 }, { dtype: 'f32' })
  await saveModel(dense, folder)
  const denseBytes = dense.parameters().reduce((sum, { size }) => sum + 4 * size, 0)
  dense.dispose()
  using here = Device.open({ threads: 1 })
  using model = await loadModel(folder, { device: here, replace: (weight) => new Int8Weight(weight) })
  await here.sync()
  const { liveBytes, peakBytes } = here.memory()
  expect(liveBytes).toBeLessThan(0.3 * denseBytes)
  // beside what stays: the largest matrix, 1024 x 256 in float32
  expect(peakBytes - liveBytes).toBeLessThan(1.5 * 4 * 1024 * 256)
  expect(model.parameterCount()).toBeGreaterThan(6e6)
})
