// Folders of adapters that are not what they say: a typed error that names file and place, nothing left
// allocated, and the model answers as before.

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  FuselmError,
  Llama,
  LoraAdapter,
  loadAdapter,
  noGrad,
  SafetensorsFile,
  scope,
  tensor,
  writeSafetensors,
} from '../../lib/index.ts'
import { expectNoLeaks } from '../unit/leaks.ts'

const SHAPE = {
  vocabSize: 30,
  hiddenSize: 16,
  intermediateSize: 24,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  maxPositionEmbeddings: 16,
}
const PREFIX = 'base_model.model.model.layers.0.self_attn.q_proj.'

let folder: string
let config: Record<string, unknown>
let weights: Map<string, { dtype: 'F32'; shape: readonly number[]; data: Uint8Array }>
let model: Llama

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fuselm-hostile-'))
  model = new Llama(SHAPE, { seed: 1 })
  using adapter = new LoraAdapter(model, { rank: 4, targets: ['q_proj', 'v_proj'] })
  await adapter.save(folder)
  config = JSON.parse(await readFile(join(folder, 'adapter_config.json'), 'utf8'))
  const file = await SafetensorsFile.open(join(folder, 'adapter_model.safetensors'))
  weights = new Map()
  for (const [name, { shape }] of file.tensors) {
    weights.set(name, { dtype: 'F32', shape, data: await file.read(name) })
  }
  await file.close()
})
afterAll(async () => {
  model.dispose()
  await rm(folder, { recursive: true })
})
expectNoLeaks()

async function write(
  changes: Record<string, unknown>,
  edit: (weights: Map<string, Entry>) => void = () => undefined,
): Promise<void> {
  const edited: Map<string, Entry> = new Map(weights)
  edit(edited)
  await writeFile(join(folder, 'adapter_config.json'), JSON.stringify({ ...config, ...changes }))
  const inputs = [...edited].map(([name, { dtype, shape, data }]) => ({
    name,
    dtype,
    shape,
    data: async () => data,
  }))
  await writeSafetensors(join(folder, 'adapter_model.safetensors'), inputs)
}
type Entry = { dtype: 'F32'; shape: readonly number[]; data: Uint8Array }

async function logits(): Promise<ArrayLike<number>> {
  const made = noGrad(() => scope(() => model.forward(tensor([1, 2, 3], { shape: [1, 3], dtype: 'i32' }))))
  const values = await made.toArray()
  made.dispose()
  return values
}

async function expectRefused(code: string, message: RegExp): Promise<void> {
  const before = await logits()
  const began = performance.now()
  const error: unknown = await loadAdapter(model, folder).then(
    (adapter) => adapter.dispose(),
    (reason: unknown) => reason,
  )
  expect(performance.now() - began).toBeLessThan(1000)
  expect(error).toBeInstanceOf(FuselmError)
  expect((error as FuselmError).code).toBe(code)
  expect((error as FuselmError).message).toMatch(message)
  expect((error as FuselmError).message).toContain(folder)
  expect(await logits()).toEqual(before)
}

test('the folder as it is loads', async () => {
  await write({})
  const adapter = await loadAdapter(model, folder)
  expect(adapter.terms).toHaveLength(4)
  adapter.dispose()
})

describe('adapter_config.json', () => {
  test.each<[string, Record<string, unknown>, string, RegExp]>([
    ['r 0', { r: 0 }, 'ERR_FORMAT', /r: expected an integer from 1/],
    ['r negative', { r: -4 }, 'ERR_FORMAT', /r: expected an integer from 1 .* found -4/],
    ['r huge', { r: 2 ** 31 }, 'ERR_FORMAT', /r: expected an integer/],
    ['r larger than the file', { r: 1_000_000 }, 'ERR_FORMAT', /expected \[1000000,16\] .* found \[4,16\]/],
    ['r a text', { r: '4' }, 'ERR_FORMAT', /r: expected .* found "4"/],
    ['r a fraction', { r: 4.5 }, 'ERR_FORMAT', /r: expected/],
    ['no r', { r: undefined }, 'ERR_FORMAT', /r: expected .* found nothing/],
    ['alpha 0', { lora_alpha: 0 }, 'ERR_FORMAT', /lora_alpha: expected a number above 0/],
    ['alpha null', { lora_alpha: null }, 'ERR_FORMAT', /lora_alpha/],
    ['dropout 1', { lora_dropout: 1 }, 'ERR_FORMAT', /lora_dropout: expected in \[0, 1\)/],
    ['no targets', { target_modules: null }, 'ERR_FORMAT', /target_modules: expected a list/],
    ['targets of numbers', { target_modules: [1] }, 'ERR_FORMAT', /target_modules: expected a list/],
    ['targets that match nothing', { target_modules: ['query'] }, 'ERR_CONFIG', /match no linear layer.*q_proj/],
    ['an expression that matches nothing', { target_modules: 'q_proj' }, 'ERR_CONFIG', /match no linear/],
    ['a broken expression', { target_modules: '(q_proj' }, 'ERR_CONFIG', /targets: expression .*expected/],
    ['an endless expression', { target_modules: '(a|a|[a-z_.0-9]+)+$%' }, 'ERR_CONFIG', /expression/],
    ['a pattern that is a list', { rank_pattern: [1] }, 'ERR_FORMAT', /rank_pattern: expected an object/],
    ['a pattern of rank 0', { rank_pattern: { q_proj: 0 } }, 'ERR_FORMAT', /rank_pattern "q_proj"/],
    ['a pattern with another rank', { rank_pattern: { q_proj: 8 } }, 'ERR_FORMAT', /expected \[8,16\]/],
    ['another kind of PEFT', { peft_type: 'IA3' }, 'ERR_CONFIG', /peft_type must be "LORA", found "IA3"/],
    ['no kind', { peft_type: undefined }, 'ERR_CONFIG', /peft_type/],
    ['DoRA', { use_dora: true }, 'ERR_CONFIG', /use_dora true is a variant/],
    ['biases', { bias: 'all' }, 'ERR_CONFIG', /bias "all" is a variant/],
    ['a beginning that changes the base', { init_lora_weights: 'pissa' }, 'ERR_CONFIG', /"pissa" is a variant/],
    ['replicated layers', { layer_replication: [[0, 2]] }, 'ERR_CONFIG', /layer_replication/],
    ['some layers', { layers_to_transform: [0] }, 'ERR_CONFIG', /layers_to_transform/],
    ['what nobody knows yet', { use_moon: 1 }, 'ERR_CONFIG', /use_moon 1 is a variant/],
    ['a module that is not there', { modules_to_save: ['score'] }, 'ERR_CONFIG', /modulesToSave "score"/],
    ['a list', [] as unknown as Record<string, unknown>, 'ERR_FORMAT', /expected an object/],
  ])('%s', async (_, changes, code, message) => {
    await write(Array.isArray(changes) ? {} : changes)
    if (Array.isArray(changes)) await writeFile(join(folder, 'adapter_config.json'), '[]')
    await expectRefused(code, message)
  })

  test.each(['', '{', 'NaN', '{"r": NaN, "lora_alpha": 8}', '\u0000'])('text %j', async (text) => {
    await write({})
    await writeFile(join(folder, 'adapter_config.json'), text)
    await expectRefused('ERR_FORMAT', /adapter_config\.json/)
  })

  test('keys that pollute', async () => {
    await write({})
    const text = JSON.stringify({ ...config, rank_pattern: {} }).replace(
      '"rank_pattern":{}',
      '"rank_pattern":{"__proto__":{"polluted":1}},"__proto__":{"polluted":1}',
    )
    await writeFile(join(folder, 'adapter_config.json'), text)
    await expectRefused('ERR_FORMAT', /rank_pattern "__proto__"/)
    expect(({} as Record<string, unknown>)['polluted']).toBe(undefined)
  })
})

describe('adapter_model.safetensors', () => {
  const f32 = (...shape: number[]): Entry => ({
    dtype: 'F32',
    shape,
    data: new Uint8Array(4 * shape.reduce((a, b) => a * b, 1)),
  })

  test.each<[string, (weights: Map<string, Entry>) => void, RegExp]>([
    ['one half missing', (w) => w.delete(`${PREFIX}lora_B.weight`), /q_proj\.lora_B\.weight.*found none/],
    ['A for another base', (w) => w.set(`${PREFIX}lora_A.weight`, f32(4, 32)), /expected \[4,16\].*\[4,32\].*base/],
    ['B for another base', (w) => w.set(`${PREFIX}lora_B.weight`, f32(8, 4)), /expected \[16,4\].*\[8,4\]/],
    ['A and B of other ranks', (w) => w.set(`${PREFIX}lora_A.weight`, f32(2, 16)), /expected \[4,16\]/],
    [
      'a layer that the base has not',
      (w) => w.set(`${PREFIX.replace('layers.0', 'layers.7')}lora_A.weight`, f32(4, 16)),
      /expected no tensor .*layers\.7/,
    ],
    [
      'a layer that is not targeted',
      (w) => w.set(`${PREFIX.replace('q_proj', 'o_proj')}lora_A.weight`, f32(4, 16)),
      /expected no tensor .*o_proj/,
    ],
    ['a name without the prefix', (w) => w.set('q_proj.lora_A.weight', f32(4, 16)), /expected no tensor/],
    ['magnitudes of DoRA', (w) => w.set(`${PREFIX}lora_magnitude_vector`, f32(16)), /expected no tensor/],
    ['nothing', (w) => w.clear(), /found none/],
  ])('%s', async (_, edit, message) => {
    await write({}, edit)
    await expectRefused('ERR_FORMAT', message)
  })

  test('cut short, at every 97th byte', async () => {
    await write({})
    const path = join(folder, 'adapter_model.safetensors')
    const whole = await readFile(path)
    for (let length = 0; length < whole.length; length += 97) {
      await writeFile(path, whole.subarray(0, length))
      await expectRefused('ERR_FORMAT', /adapter_model\.safetensors/)
    }
  })

  test('a base of another embedding than the one it was saved with', async () => {
    const embedding = 'base_model.model.model.embed_tokens.'
    await write({ target_modules: ['q_proj', 'v_proj', 'embed_tokens'] }, (w) => {
      w.set(`${embedding}lora_embedding_A`, f32(4, 30))
      w.set(`${embedding}lora_embedding_B`, f32(16, 4))
      w.set(`${embedding}base_layer.weight`, f32(30, 16))
    })
    await expectRefused('ERR_FORMAT', /base_layer\.weight.*expected the weights of this base model, found others/)
  })
})

describe('options', () => {
  test.each<[Record<string, unknown>, string, RegExp]>([
    [{ rank: 0 }, 'ERR_VALUE', /rank must be an integer from 1/],
    [{ rank: -1 }, 'ERR_VALUE', /rank/],
    [{ rank: 2 ** 40 }, 'ERR_VALUE', /rank/],
    [{ rank: 4n }, 'ERR_VALUE', /rank .* received 4n/],
    [{ alpha: Number.NaN }, 'ERR_CONFIG', /alpha must be a number above 0, received "NaN"/],
    [{ alpha: Number.POSITIVE_INFINITY }, 'ERR_CONFIG', /alpha/],
    [{ alpha: -1 }, 'ERR_CONFIG', /alpha/],
    [{ dropout: 1 }, 'ERR_CONFIG', /dropout must be in \[0, 1\)/],
    [{ dropout: Number.NaN }, 'ERR_CONFIG', /dropout/],
    [{ targets: [] }, 'ERR_CONFIG', /targets must be/],
    [{ targets: ['nothing'] }, 'ERR_CONFIG', /match no linear layer or embedding.*q_proj/],
    [{ target: ['q_proj'] }, 'ERR_CONFIG', /unknown option 'target'; did you mean 'targets'/],
    [{ modulesToSave: ['norm'] }, 'ERR_CONFIG', /modulesToSave "norm" is no linear layer/],
    [{ rankPattern: { q_proj: 0 } }, 'ERR_VALUE', /rankPattern "q_proj"/],
    [{ seed: -1 }, 'ERR_VALUE', /seed/],
  ])('%o', (options, code, message) => {
    let error: unknown
    try {
      new LoraAdapter(model, options).dispose()
    } catch (caught) {
      error = caught
    }
    expect(error).toBeInstanceOf(FuselmError)
    expect((error as FuselmError).message).toMatch(message)
    expect((error as FuselmError).code).toBe(code)
  })
})
