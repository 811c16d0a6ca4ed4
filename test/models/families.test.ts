// Folders that transformers made of every architecture that loads (test/golden/families/make.py): logits,
// the way back, and what is refused.
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Llama, type LlamaOptions, loadModel, noGrad, saveModel, scope, tensor } from '../../lib/index.ts'
import { readSafetensors } from '../ops/runner/golden.ts'
import { LOGITS_LIMIT, relativeL2 } from './parity.ts'

const golden = fileURLToPath(new URL('../golden/families/', import.meta.url))
const names = (await readdir(golden, { withFileTypes: true }))
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name)

let out: string
beforeAll(async () => {
  out = await mkdtemp(join(tmpdir(), 'fuselm-families-'))
})
afterAll(() => rm(out, { recursive: true }))

async function json(path: string): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>
}

test('there are folders', () => {
  expect(names.length).toBeGreaterThanOrEqual(7)
})

describe.each(names)('%s', (name) => {
  const { tensors } = readSafetensors(`${golden}${name}/expected.safetensors`)
  const ids = tensors.get('ids')
  const logits = tensors.get('logits')

  test.each(['f32', 'bf16'] as const)('logits in %s are those of transformers', async (dtype) => {
    using model = await loadModel(golden + name, { dtype })
    const found = noGrad(() =>
      scope(() => model.forward(tensor(ids?.values ?? [], { shape: ids?.shape ?? [], dtype: 'i32' }))),
    )
    expect(relativeL2(await found.toArray(), logits?.values ?? [])).toBeLessThan(LOGITS_LIMIT[dtype])
    found.dispose()
  })

  test('token by token over a cache: the same', async () => {
    using model = await loadModel(golden + name, { dtype: 'f32' })
    using cache = model.makeCache({ capacity: 24, batch: 2 })
    const [batch = 0, steps = 0, vocabulary = 0] = logits?.shape ?? []
    const found = new Float64Array(batch * steps * vocabulary)
    for (let t = 0; t < steps; t++) {
      const step = Array.from({ length: batch }, (_, b) => ids?.values[b * steps + t] ?? 0)
      const row = noGrad(() =>
        scope(() => model.forward(tensor(step, { shape: [batch, 1], dtype: 'i32' }), { cache })),
      )
      const values = await row.toArray()
      for (let b = 0; b < batch; b++) {
        found.set(values.subarray(b * vocabulary, (b + 1) * vocabulary), (b * steps + t) * vocabulary)
      }
      row.dispose()
    }
    expect(relativeL2(found, logits?.values ?? [])).toBeLessThan(LOGITS_LIMIT.f32)
  })

  test('saved, it is what save_pretrained wrote: architecture, configuration, weights', async () => {
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
    const [config, expected] = [
      await json(join(folder, 'config.json')),
      await json(`${golden}${name}/config.json`),
    ]
    expect([config['model_type'], config['architectures']]).toEqual([
      expected['model_type'],
      expected['architectures'],
    ])
    // what both say, they say alike; a switch that is off needs no number beside it
    for (const [key, value] of Object.entries(config)) {
      if (key in expected && key !== 'max_window_layers') expect(value, key).toEqual(expected[key])
    }
    using again = await loadModel(folder)
    expect(again.config).toEqual(model.config)
  })
})

describe('what cannot be', () => {
  async function load(name: string, changes: object): Promise<void> {
    const folder = await mkdtemp(join(out, 'bad-'))
    await writeFile(
      join(folder, 'config.json'),
      JSON.stringify({ ...(await json(`${golden}${name}/config.json`)), ...changes }),
    )
    await writeFile(join(folder, 'model.safetensors'), await readFile(`${golden}${name}/model.safetensors`))
    const model = await loadModel(folder)
    model.dispose()
  }

  test.each<[string, object, RegExp]>([
    ['qwen2', { hidden_act: 'relu2' }, /hidden_act must be one of silu.*received "relu2"/],
    ['qwen2', { num_experts: 8 }, /num_experts is not known here and may change the model, received 8/],
    ['qwen2', { quantization_config: {} }, /quant_method must be one of compressed-tensors, received none/],
    ['qwen2', { attention_bias: true }, /attention_bias is not known here/],
    [
      'qwen2-window',
      { layer_types: ['full_attention', 'sliding_attention'] },
      /layer_types must give all layers/,
    ],
    ['qwen2-window', { layer_types: null, max_window_layers: 1 }, /max_window_layers must give all layers/],
    ['llama-bias', { pretraining_tp: 2 }, /pretraining_tp must be 1, received 2/],
    ['llama-bias', { attention_bias: 'yes' }, /attentionBias must be a boolean, received "yes"/],
    ['llama-bias', { attention_bias: false }, /unknown tensor model.layers.0.self_attn.._proj.bias/],
    ['qwen3', { model_type: 'qwen2' }, /unknown tensor .*_norm.weight/],
    ['llama-gelu', { head_dim: 16 }, /k_proj.weight must be \[32,32\], found \[24,32\]|must be \[/],
    ['mistral', { model_type: 'mixtral' }, /model_type must be one of .*mistral.*received "mixtral"/],
  ])('%s with %j is refused by name', async (name, changes, message) => {
    await expect(load(name, changes)).rejects.toThrow(message)
  })

  test('a mixture that no architecture has trains, but is not saved', async () => {
    const size: LlamaOptions = {
      vocabSize: 8,
      hiddenSize: 8,
      intermediateSize: 8,
      numHiddenLayers: 1,
      numAttentionHeads: 2,
    }
    using model = new Llama({ ...size, qkNorm: true, mlpBias: true })
    await expect(saveModel(model, join(out, 'mixture'))).rejects.toThrow(
      /no architecture of llama, mistral.*"qkNorm":true/,
    )
    expect(() => new Llama({ ...size, hiddenAct: 'relu' as 'gelu' })).toThrow(
      /hiddenAct must be one of silu, gelu/,
    )
  })
})
