// GPT-2 beside transformers' own; test/golden/parity/make_gpt2.py made the values and the folder.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Gpt2, loadModel, noGrad, saveModel, scope, tensor, writeSafetensors } from '../../lib/index.ts'
import { readSafetensors } from '../ops/runner/golden.ts'
import { describeParity, LOGITS_LIMIT, parityGolden, relativeL2 } from './parity.ts'

const golden = parityGolden('gpt2')
describeParity('gpt2', golden)

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fuselm-gpt2-'))
})
afterAll(() => rm(folder, { recursive: true }))

describe('gpt2', () => {
  test('left padding: the real tokens get the logits that transformers gives them', async () => {
    using model = await loadModel(`${golden.folder}/model`, { dtype: 'f32' })
    const [, steps = 0] = golden.shape('left_padded.ids')
    const PADDING = 20
    const row = (f: (t: number) => number) =>
      tensor(
        Array.from({ length: steps }, (_, t) => f(t)),
        { shape: [1, steps], dtype: 'i32' },
      )
    const logits = noGrad(() =>
      scope(() =>
        model
          .forward(
            row((t) => golden.values('left_padded.ids')[t] ?? 0),
            {
              positions: row((t) => Math.max(0, t - PADDING)),
              first: row(() => PADDING),
            },
          )
          .slice(1, PADDING),
      ),
    )
    expect(relativeL2(await logits.toArray(), golden.values('left_padded.logits'))).toBeLessThan(
      LOGITS_LIMIT.f32,
    )
    logits.dispose()
  })

  test('a saved folder holds what save_pretrained wrote: names, shapes, bits, configuration', async () => {
    using model = await loadModel(`${golden.folder}/model`)
    await saveModel(model, folder)
    const theirs = readSafetensors(`${golden.folder}/model/model.safetensors`).tensors
    const ours = readSafetensors(join(folder, 'model.safetensors')).tensors
    expect([...ours.keys()].sort()).toEqual([...theirs.keys()].sort())
    for (const [name, { shape, values }] of theirs) {
      expect(ours.get(name)?.shape, name).toEqual(shape)
      const own = ours.get(name)?.values ?? new Float64Array()
      expect(own.length === values.length && own.every((v, i) => Object.is(v, values[i])), name).toBe(true)
    }
    const config = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8')) as object
    const expected = JSON.parse(await readFile(`${golden.folder}/model/config.json`, 'utf8')) as object
    // null is Hugging Face's way to say 4 n_embd
    expect({ ...config, n_inner: null, dtype: 'bfloat16' }).toMatchObject(
      Object.fromEntries(Object.entries(expected).filter(([key]) => Object.hasOwn(config, key))),
    )
    expect(Object.keys(config)).toEqual(Object.keys(config).sort())
  })

  test('token by token over a cache: the logits of the whole forward', async () => {
    using model = await loadModel(`${golden.folder}/model`, { dtype: 'f32' })
    const STEPS = 12
    const ids = (from: number, to: number) =>
      tensor(golden.values('ids').subarray(from, to), { shape: [1, to - from], dtype: 'i32' })
    using cache = model.makeCache({ capacity: STEPS })
    const found: number[] = []
    for (const [from, to] of [
      [0, 5],
      [5, 6],
      [6, 9],
      [9, STEPS],
    ] as const) {
      const logits = noGrad(() => scope(() => model.forward(ids(from, to), { cache })))
      found.push(...(await logits.toArray()))
      logits.dispose()
    }
    const expected = golden.values('logits').subarray(0, STEPS * 512)
    expect(relativeL2(found, expected)).toBeLessThan(LOGITS_LIMIT.f32)
  })

  test("OpenAI's spelling loads: no prefix, saved masks", async () => {
    const { tensors } = readSafetensors(`${golden.folder}/model/model.safetensors`)
    const renamed = [...tensors].map(([name, { shape, values }]) => ({
      name: name.replace('transformer.', ''),
      dtype: 'F32' as const,
      shape,
      data: new Uint8Array(Float32Array.from(values).buffer),
    }))
    const mask = { dtype: 'U8' as const, shape: [1, 1, 4, 4], data: new Uint8Array(16) }
    await writeSafetensors(join(folder, 'model.safetensors'), [
      ...renamed,
      { name: 'h.0.attn.bias', ...mask },
    ])
    await writeFile(join(folder, 'config.json'), await readFile(`${golden.folder}/model/config.json`))
    const [a, b] = [await loadModel(folder), await loadModel(`${golden.folder}/model`, { dtype: 'f32' })]
    const state = b.stateDict()
    for (const [name, t] of a.stateDict()) {
      expect(await t.toArray(), name).toEqual(await state.get(name)?.toArray())
    }
    a.dispose()
    b.dispose()
  })

  test('configurations that cannot be are refused by key', async () => {
    const base = JSON.parse(await readFile(`${golden.folder}/model/config.json`, 'utf8')) as object
    const load = async (changes: object) => {
      await writeFile(join(folder, 'config.json'), JSON.stringify({ ...base, ...changes }))
      const model = await loadModel(folder)
      model.dispose()
    }
    const cases: [object, RegExp][] = [
      [{ n_head: 5 }, /nHead must be a divisor of nEmbd \(64\), received 5/],
      [{ n_layer: 0 }, /nLayer must be a whole number from 1 to 4096, received 0/],
      [{ n_embd: '64' }, /nEmbd must be a whole number .* received "64"/],
      [{ activation_function: 'mish' }, /activationFunction must be one of gelu_new.* received "mish"/],
      [{ layer_norm_epsilon: -1 }, /layerNormEpsilon must be a positive number, received -1/],
      [{ add_cross_attention: true }, /add_cross_attention is not known here/],
      [{ quantization_config: { bits: 4 } }, /quant_method must be one of compressed-tensors, received none/],
      [{ model_type: 'gpt9' }, /model_type must be one of gpt2, llama.*, received "gpt9"/],
      [{ n_positions: 8 }, /wpe.weight must be \[8,64\], found \[80,64\]/],
    ]
    for (const [changes, message] of cases) await expect(load(changes)).rejects.toThrow(message)
  })

  test('a sequence longer than the position table is refused', () => {
    using model = new Gpt2({ vocabSize: 8, nEmbd: 8, nLayer: 1, nHead: 2, nPositions: 4 })
    const ids = tensor(new Int32Array(5), { shape: [1, 5], dtype: 'i32' })
    expect(() => model.forward(ids)).toThrow(/ids must be \[B, T\] with T at most nPositions \(4\)/)
    ids.dispose()
  })

  test('initial weights: 0.02, less where layers add to the stream; biases zero, norms one', async () => {
    using model = new Gpt2({ vocabSize: 512, nEmbd: 128, nLayer: 8, nHead: 4 }, { seed: 3 })
    const deviation = async (name: string): Promise<number> => {
      const values = Array.from((await model.stateDict().get(name)?.toArray()) ?? [])
      return Math.sqrt(values.reduce((s, v) => s + v * v, 0) / values.length)
    }
    expect(await deviation('transformer.h.0.attn.cAttn.weight')).toBeCloseTo(0.02, 3)
    expect(await deviation('transformer.h.3.attn.cProj.weight')).toBeCloseTo(0.02 / 4, 4)
    expect(await deviation('transformer.h.3.mlp.cProj.weight')).toBeCloseTo(0.02 / 4, 4)
    expect(await deviation('transformer.h.3.mlp.cProj.bias')).toBe(0)
    expect(await deviation('transformer.h.3.ln1.weight')).toBe(1)
  })
})
