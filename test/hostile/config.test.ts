// config.json files that are wrong: each a typed error that names the key, before anything large is made.

import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Decoder, Device, FuselmError, loadModel, Tokenizer } from 'fuselm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { expectNoLeaks } from '../unit/leaks.ts'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-config-'))
})
afterAll(() => rmSync(folder, { recursive: true }))
expectNoLeaks()

const golden = (path: string): string => fileURLToPath(new URL(`../golden/${path}`, import.meta.url))
const models = {
  llama: 'families/llama-bias',
  mistral: 'families/mistral',
  qwen2: 'families/qwen2',
  qwen3: 'families/qwen3',
  gpt2: 'parity/gpt2/model',
}
let made = 0

/** A folder of the model with another config.json: a text, or keys that differ. */
function withConfig(model: keyof typeof models, config: string | Uint8Array | Record<string, unknown>): string {
  const path = join(folder, String(made++))
  cpSync(golden(models[model]), path, { recursive: true })
  const file = join(path, 'config.json')
  const whole = typeof config === 'string' || config instanceof Uint8Array
  const text = whole
    ? config
    : JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), ...config }, (_, value) =>
        value === Number.POSITIVE_INFINITY ? 'INFINITY' : value,
      ).replaceAll('"INFINITY"', '1e999')
  writeFileSync(file, text)
  return path
}

/**
 * The error of loading; nothing much is allocated on the way.
 * (Processor time bounds hanging only: ten times what a slow machine takes.)
 */
async function refused(path: string): Promise<{ code: string; message: string }> {
  const { cachedBytes, liveBytes } = Device.default().memory()
  const before = { held: cachedBytes + liveBytes, rss: process.memoryUsage().rss, cpu: process.cpuUsage() }
  let error: unknown
  try {
    ;(await loadModel(path)).dispose()
  } catch (thrown) {
    error = thrown
  }
  const after = Device.default().memory()
  expect(after.cachedBytes + after.liveBytes - before.held).toBeLessThan(64 * 2 ** 20)
  expect(process.memoryUsage().rss - before.rss).toBeLessThan(96 * 2 ** 20)
  const { user, system } = process.cpuUsage(before.cpu)
  expect(user + system).toBeLessThan(10e6)
  expect(error, 'a model that loads').toBeInstanceOf(FuselmError)
  const { message } = error as FuselmError
  expect(message.length).toBeLessThan(1024)
  return error as FuselmError
}

const DIMENSIONS = {
  llama: [
    'vocab_size',
    'hidden_size',
    'intermediate_size',
    'num_hidden_layers',
    'num_attention_heads',
    'num_key_value_heads',
    'head_dim',
    'max_position_embeddings',
  ],
  gpt2: ['vocab_size', 'n_positions', 'n_embd', 'n_layer', 'n_head', 'n_inner'],
} as const
const BAD = [0, -1, 1.5, 2 ** 31, 2 ** 53, 1e300, Number.POSITIVE_INFINITY, '64', true, [64], { a: 1 }]

describe.each(Object.entries(DIMENSIONS))('%s', (model, keys) => {
  test.each(keys)('%s: only whole numbers in range', async (key) => {
    for (const value of BAD) {
      const error = await refused(withConfig(model as keyof typeof models, { [key]: value }))
      expect(error.code, JSON.stringify(value)).toBe('ERR_CONFIG')
      // heads of 1.5 make head sizes that are wrong, too: some key is named
      expect(error.message, JSON.stringify(value)).toMatch(/config.*: \w+ (must|x)/)
    }
  })

  test.each(keys)('%s: other than the weights have', async (key) => {
    if (/position|num_attention_heads|n_head/.test(key)) return // no weight tells
    for (const value of [2 ** 12, 2 ** 20]) {
      const error = await refused(withConfig(model as keyof typeof models, { [key]: value }))
      expect(error.code, String(value)).toMatch(/ERR_(CONFIG|FORMAT)/)
    }
  })
})

const wrong: [string, keyof typeof models, Record<string, unknown>, RegExp][] = [
  ['heads that do not divide the hidden size', 'llama', { num_attention_heads: 3, head_dim: null }, /must/],
  ['more key-value heads than heads', 'llama', { num_key_value_heads: 8 }, /numKeyValueHeads must be/],
  ['key-value heads that do not divide heads', 'llama', { num_key_value_heads: 3 }, /numKeyValueHeads must divide/],
  ['a billion layers', 'llama', { num_hidden_layers: 1e9 }, /numHiddenLayers must be .* to 4096/],
  ['more layers than there are', 'llama', { num_hidden_layers: 4096 }, /expected|more than/],
  ['fewer layers than there are', 'llama', { num_hidden_layers: 1 }, /unknown tensor model\.layers\.1/],
  ['theta 0', 'llama', { rope_parameters: { rope_theta: 0 } }, /ropeTheta must be a positive number, received 0/],
  ['theta of the older spelling', 'llama', { rope_parameters: null, rope_theta: -1 }, /ropeTheta/],
  ['a text as theta', 'qwen2', { rope_parameters: { rope_theta: '10000' } }, /ropeTheta/],
  ['an endless epsilon', 'llama', { rms_norm_eps: Number.POSITIVE_INFINITY }, /rmsNormEps/],
  ['an unknown scaling', 'llama', { rope_scaling: { type: 'magic' } }, /rope_type must be one of/],
  ['a scaling that is a list', 'llama', { rope_scaling: [1] }, /rope_scaling must be an object/],
  ['a scaling of 0', 'llama', { rope_scaling: { type: 'linear', factor: 0 } }, /factor must be a positive number/],
  ['a scaling per kind of layer', 'llama', { rope_scaling: null, rope_parameters: { full: {} } }, /the same for all/],
  ['an unknown architecture', 'llama', { model_type: 'gemma4' }, /model_type must be one of .* received "gemma4"/],
  ['an architecture from the prototype', 'llama', { model_type: '__proto__' }, /model_type must be one of/],
  ['an architecture that is no text', 'llama', { model_type: ['llama'] }, /model_type must be one of/],
  ['no architecture', 'llama', { model_type: null }, /model_type must be one of/],
  ['an unknown activation', 'llama', { hidden_act: 'mish' }, /hidden_act must be one of .* received "mish"/],
  ['an activation from the prototype', 'gpt2', { activation_function: 'toString' }, /activationFunction must be/],
  ['an unknown feature', 'llama', { attention_sinks: 4 }, /attention_sinks is not known here/],
  ['a window of 0', 'mistral', { sliding_window: 0 }, /slidingWindow must be a whole number/],
  ['windows of some layers', 'qwen2', { use_sliding_window: true, layer_types: ['full_attention', 'sliding_attention'] }, /layer_types/],
  ['a bias that is a text', 'llama', { attention_bias: 'yes' }, /attentionBias must be a boolean/],
  ['biases that the file has not', 'qwen3', { attention_bias: true }, /expected a tensor .*bias, found none/],
  ['a head that is tied and is not', 'llama', { tie_word_embeddings: 'no' }, /tieWordEmbeddings must be a boolean/],
  ['a quantization that is a number', 'llama', { quantization_config: 8 }, /quantization_config must be an object/],
]

describe('refused', () => {
  test.each(wrong)('%s', async (_, model, config, message) => {
    const error = await refused(withConfig(model, config))
    expect(error).toMatchObject({
      code: expect.stringMatching(/ERR_(CONFIG|FORMAT)/),
      message: expect.stringMatching(message),
    })
  })

  test.each<[string, string | Uint8Array, RegExp]>([
    ['empty', '', /config\.json: expected JSON/],
    ['cut', '{"model_type": "llama", "hidden_si', /config\.json: expected JSON/],
    ['null', 'null', /config\.json: expected an object, found null/],
    ['a list', '[]', /config\.json: expected an object, found \[\]/],
    ['a text', '"llama"', /config\.json: expected an object, found "llama"/],
    ['bytes that are not UTF-8', Buffer.from('{"model_type":"llama\xff"}', 'latin1'), /config\.json: expected UTF-8/],
    ['two objects', '{}{}', /config\.json: expected JSON/],
    ['depth', `{"model_type":"llama","x":${'['.repeat(200_000)}${']'.repeat(200_000)}}`, /received|expected|must/],
    ['a value of a megabyte', `{"model_type":"${'x'.repeat(1 << 20)}"}`, /model_type must be one of/],
    ['a key of a megabyte', `{"model_type":"llama","${'x'.repeat(1 << 20)}":1}`, /./],
  ])('a file that is %s', async (_, text, message) => {
    const path = withConfig('llama', text)
    expect((await refused(path)).message).toMatch(message)
  })

  test('deep values of known keys', async () => {
    const text = readFileSync(join(golden(models.mistral), 'config.json'), 'utf8')
    const deep = `${'['.repeat(200_000)}${']'.repeat(200_000)}`
    for (const key of ['vocab_size', 'hidden_act', 'rope_scaling', 'sliding_window', 'model_type', 'layer_types']) {
      const { [key]: _, ...rest } = JSON.parse(text)
      const path = withConfig('mistral', `${JSON.stringify(rest).slice(0, -1)},"${key}":${deep}}`)
      expect((await refused(path)).code, key).toMatch(/ERR_(CONFIG|FORMAT)/)
    }
  })

  test('keys named __proto__ and constructor touch nothing', async () => {
    const text = readFileSync(join(golden(models.llama), 'config.json'), 'utf8').trim()
    const path = withConfig('llama', `${text.slice(0, -1)},"__proto__":{"polluted":1},"constructor":{"prototype":1}}`)
    await refused(path)
    expect(({} as { polluted?: number }).polluted).toBeUndefined()
  })

  test('a FIFO, without waiting for a writer; a file of a gigabyte', async () => {
    const path = withConfig('llama', '{}')
    rmSync(join(path, 'config.json'))
    execFileSync('mkfifo', [join(path, 'config.json')])
    expect((await refused(path)).message).toMatch(/config\.json: expected a regular file/)
    rmSync(join(path, 'config.json'))
    writeFileSync(join(path, 'config.json'), '{')
    truncateSync(join(path, 'config.json'), 2 ** 30) // sparse
    expect((await refused(path)).message).toMatch(/config\.json: expected at most \d+ bytes, found 1073741824/)
  })

  test('none', async () => {
    const path = withConfig('llama', '{}')
    rmSync(join(path, 'config.json'))
    await expect(loadModel(path)).rejects.toMatchObject({ code: 'ENOENT' })
  })
})

describe('a decoder', () => {
  let tokenizer: Tokenizer
  beforeAll(async () => {
    tokenizer = await Tokenizer.train({ texts: ['abc abd. '.repeat(50)], vocabSize: 270 })
  })

  test('whose tokenizer has more entries than its embedding', async () => {
    const path = withConfig('llama', {})
    await tokenizer.save(path)
    await expect(Decoder.load(path)).rejects.toMatchObject({
      code: 'ERR_FORMAT',
      message: expect.stringMatching(/a tokenizer of at most 64 entries, .* found \d+/),
    })
  })

  test('with a generation_config.json that is none, or names ends that are none', async () => {
    const path = withConfig('gpt2', {})
    await tokenizer.save(path)
    for (const [text, message] of [
      ['[', /generation_config\.json: expected JSON/],
      ['[]', /generation_config\.json: expected an object/],
      ['{"eos_token_id": -2}', /generation_config\.json: eos_token_id/],
      ['{"eos_token_id": [1, "2"]}', /generation_config\.json: eos_token_id/],
      ['{"eos_token_id": 1e9}', /generation_config\.json: eos_token_id/],
      ['{"temperature": -1}', /generation_config\.json: temperature: expected a number from 0, found -1/],
      ['{"temperature": "1"}', /generation_config\.json: temperature: .* found "1"/],
      ['{"top_p": 1.5}', /generation_config\.json: top_p: expected a number from 0 to 1, found 1.5/],
      ['{"top_k": 2.5}', /generation_config\.json: top_k: expected an integer from -1, found 2.5/],
      ['{"min_p": 2}', /generation_config\.json: min_p: expected a number from 0 to 1, found 2/],
      ['{"repetition_penalty": 0}', /generation_config\.json: repetition_penalty: .* above 0, found 0/],
      ['{"max_new_tokens": 1e400}', /generation_config\.json: max_new_tokens: expected an integer from 1/],
      ['{"do_sample": 1}', /generation_config\.json: do_sample: expected true or false, found 1/],
    ] as const) {
      writeFileSync(join(path, 'generation_config.json'), text)
      await expect(Decoder.load(path), text).rejects.toMatchObject({
        code: 'ERR_FORMAT',
        message: expect.stringMatching(message),
      })
    }
    writeFileSync(join(path, 'generation_config.json'), '{"eos_token_id": [1, 2], "temperature": 0.5}')
    ;(await Decoder.load(path)).dispose()
  })
})
