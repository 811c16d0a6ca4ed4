// Hostile int8 folders: valid ones, one thing wrong. Each ends in a typed error that names the place, and
// leaves nothing behind.

import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ConfigError, FormatError, loadModel } from '../../lib/index.ts'
import { parseSafetensors, type SafetensorsTensor } from '../../lib/io/safetensors.ts'
import { writeSafetensors } from '../../lib/io/safetensors-write.ts'
import { expectNoLeaks } from '../unit/leaks.ts'

const golden = fileURLToPath(new URL('../golden/int8/', import.meta.url))
const SCALE = 'model.layers.0.mlp.up_proj.weight_scale'
const WEIGHT = 'model.layers.0.mlp.up_proj.weight'

let out: string
beforeAll(async () => {
  out = await mkdtemp(join(tmpdir(), 'fuselm-hostile-int8-'))
})
afterAll(() => rm(out, { recursive: true }))

type Tensors = Map<string, SafetensorsTensor>
type Json = Record<string, any> // biome-ignore lint/suspicious/noExplicitAny: a file that is about to be broken

async function broken(
  name: string,
  change: { tensors?: (tensors: Tensors) => void; config?: (config: Json) => void },
): Promise<string> {
  const folder = await mkdtemp(join(out, 'case-'))
  const config = JSON.parse(await readFile(join(golden, name, 'config.json'), 'utf8')) as Json
  change.config?.(config['quantization_config'] as Json)
  await writeFile(join(folder, 'config.json'), JSON.stringify(config))
  const parsed = parseSafetensors(await readFile(join(golden, name, 'model.safetensors')))
  const tensors = new Map(parsed.tensors)
  change.tensors?.(tensors)
  await writeSafetensors(
    join(folder, 'model.safetensors'),
    [...tensors].map(([name, tensor]) => ({ name, ...tensor, data: Uint8Array.from(tensor.data) })),
  )
  return folder
}

/** Scales of the file with one value changed; float32 in `channel`, bfloat16 in `group`. */
const scale = (place: number, value: number) => (tensors: Tensors) => {
  const entry = tensors.get(SCALE) as SafetensorsTensor
  const data = Uint8Array.from(entry.data)
  const view = new DataView(data.buffer)
  if (entry.dtype === 'F32') view.setFloat32(4 * place, value, true)
  else {
    const bits = new DataView(new ArrayBuffer(4))
    bits.setFloat32(0, value)
    view.setUint16(2 * place, bits.getUint16(0), true)
  }
  tensors.set(SCALE, { ...entry, data })
}

const resized = (name: string, shape: number[], dtype: SafetensorsTensor['dtype'], bytes: number) => (tensors: Tensors) => {
  const count = shape.reduce((product, n) => product * n, 1)
  tensors.set(name, { dtype, shape, data: new Uint8Array(count * bytes).fill(1) })
}

const args = (change: object) => (config: Json) => Object.assign(config['config_groups'].group_0.weights, change)
const scheme = (change: object) => (config: Json) => Object.assign(config['config_groups'].group_0, change)

describe('int8 folders', () => {
  expectNoLeaks()

  test.each<[string, 'channel' | 'group', (tensors: Tensors) => void, RegExp]>([
    ['one scale short', 'channel', resized(SCALE, [95, 1], 'F32', 4), /up_proj.weight_scale must be \[96,1\] in F32.*found F32\[95,1\]/],
    ['one scale for all', 'channel', resized(SCALE, [1], 'F32', 4), /weight_scale must be \[96,1\]/],
    ['scales of another group', 'group', resized(SCALE, [96, 4], 'BF16', 2), /weight_scale must be \[96,2\]/],
    ['scales transposed', 'group', resized(SCALE, [2, 96], 'BF16', 2), /weight_scale must be \[96,2\]/],
    ['scales of whole numbers', 'channel', resized(SCALE, [96, 1], 'I32', 4), /found I32\[96,1\]/],
    ['no scales', 'channel', (tensors) => tensors.delete(SCALE), /expected a weight_scale beside .*up_proj.weight, found none/],
    ['a scale of 0', 'channel', scale(7, 0), /up_proj.weight_scale: expected positive scales, found 0 at 7/],
    ['a scale of -0', 'group', scale(0, -0), /expected positive scales, found 0 at 0/],
    ['a negative scale', 'channel', scale(95, -1), /found -1 at 95/],
    ['a scale that is no number', 'channel', scale(3, Number.NaN), /found NaN at 3/],
    ['a scale that is no number, bf16', 'group', scale(191, Number.NaN), /found NaN at 191/],
    ['an endless scale', 'group', scale(1, Number.POSITIVE_INFINITY), /found Infinity at 1/],
    ['weights of another shape', 'channel', resized(WEIGHT, [96, 63], 'I8', 1), /up_proj.weight must be \[96,64\], found \[96,63\]/],
    ['unsigned weights', 'channel', resized(WEIGHT, [96, 64], 'U8', 1), /up_proj.weight must be a float, found U8/],
    ['an int8 embedding', 'channel', resized('model.embed_tokens.weight', [64, 64], 'I8', 1), /embed_tokens.weight must be a float, found I8/],
    ['zero points', 'channel', resized(SCALE.replace('scale', 'zero_point'), [96, 1], 'I8', 1), /unknown tensor .*weight_zero_point/],
  ])('%s', async (_, name, tensors, message) => {
    const load = loadModel(await broken(name, { tensors }))
    await expect(load).rejects.toThrow(FormatError)
    await expect(load).rejects.toThrow(message)
  })

  test.each<[string, 'channel' | 'group', (config: Json) => void, RegExp]>([
    ['groups of 0', 'group', args({ group_size: 0 }), /weights.group_size must be one of 32, 64, 128, received 0/],
    ['groups of -1', 'group', args({ group_size: -1 }), /received -1/],
    ['groups of 1e300', 'group', args({ group_size: 1e300 }), /received 1e\+300/],
    ['groups that are a word', 'group', args({ group_size: '32' }), /received "32"/],
    ['a group beside rows', 'channel', args({ group_size: 32 }), /group_size must be one of null, -1/],
    ['4 bits', 'channel', args({ num_bits: 4 }), /num_bits must be one of 8/],
    ['floats', 'channel', args({ type: 'float' }), /type must be one of "int"/],
    ['zero points', 'channel', args({ symmetric: false }), /symmetric must be one of true/],
    ['one scale for all', 'channel', args({ strategy: 'tensor' }), /strategy must be one of "channel", "group", "block", received "tensor"/],
    ['another layout', 'channel', (config) => { config['format'] = 'pack-quantized' }, /format must be one of .*received "pack-quantized"/],
    ['another layout of one scheme', 'channel', scheme({ format: 'float-quantized' }), /group_0.format must be/],
    ['another method', 'channel', (config) => { config['quant_method'] = 'gptq' }, /quant_method must be one of compressed-tensors, received "gptq"/],
    ['a quantised cache', 'channel', (config) => { config['kv_cache_scheme'] = {} }, /kv_cache_scheme must be one of null/],
    ['fixed scales of activations', 'channel', scheme({ input_activations: { strategy: 'tensor', dynamic: false } }), /input_activations.dynamic must be one of true/],
    ['no scheme', 'channel', (config) => { config['config_groups'] = {} }, /must have a scheme/],
    ['schemes that are a list', 'channel', (config) => { config['config_groups'] = [] }, /config_groups must be an object/],
    ['a scheme that is a name', 'channel', (config) => { config['config_groups'] = { W8A8: ['Linear'] } }, /config_groups.W8A8 must be an object/],
    ['a scheme without weights', 'channel', scheme({ weights: null }), /group_0.weights must be an object/],
  ])('%s', async (_, name, config, message) => {
    const load = loadModel(await broken(name, { config }))
    await expect(load).rejects.toThrow(ConfigError)
    await expect(load).rejects.toThrow(message)
  })

  test('a truncated payload', async () => {
    const folder = await broken('channel', {})
    const path = join(folder, 'model.safetensors')
    const { length } = await readFile(path)
    for (const bytes of [length - 1, length - 64, Math.floor(length / 2)]) {
      await truncate(path, bytes)
      await expect(loadModel(folder)).rejects.toThrow(/truncated/)
    }
  })

  test('unbroken, they load', async () => {
    for (const name of ['channel', 'group']) (await loadModel(await broken(name, {}))).dispose()
  })
})
