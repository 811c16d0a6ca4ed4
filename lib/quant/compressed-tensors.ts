// int8 weights in a model's folder: the `int-quantized` layout of compressed-tensors, which transformers
// and vLLM read. An int8 `weight` [out, in] beside a `weight_scale` [out, 1] or [out, groups], and
// `quantization_config` in config.json.
// Source: https://github.com/vllm-project/compressed-tensors (quant_config.py, quant_scheme.py, quant_args.py)

import { halfToNumber } from '../io/upload.ts'
import type { Linear } from '../nn/layers.ts'
import { registerWeightFormat, type WeightReader } from '../nn/weight-format.ts'
import { empty } from '../ops/create.ts'
import { scalesShape } from '../ops/int8.ts'
import { ConfigError, FormatError } from '../runtime/errors.ts'
import { fromBf16Bits } from '../tensor/dtype.ts'
import { sameShape } from '../tensor/layout.ts'
import { keep } from '../tensor/scope.ts'
import { Int8Weight } from './int8.ts'

const FORMAT = 'int-quantized'
/** The same tensors under the name of the layout that it is a case of. */
const FORMATS = [FORMAT, 'naive-quantized']
const GROUPS = [32, 64, 128]
const SCALE = 'weight_scale'
const SCALE_DTYPES = ['F32', 'BF16', 'F16']

interface Scheme {
  readonly group: number
  readonly activations: 'float' | 'int8'
}

/** One place of a quantization_config, with what messages call it. */
class Place {
  readonly #json: ReadonlyMap<string, unknown>
  readonly #path: string

  constructor(json: unknown, path: string) {
    if (typeof json !== 'object' || json === null || Array.isArray(json)) {
      throw new ConfigError(`config.json: ${path} must be an object, received ${JSON.stringify(json)}`)
    }
    this.#json = new Map(Object.entries(json))
    this.#path = path
  }

  get(key: string): unknown {
    return this.#json.get(key) ?? null
  }

  has(key: string): boolean {
    return this.get(key) !== null
  }

  at(key: string): Place {
    return new Place(this.get(key), `${this.#path}.${key}`)
  }

  entries(): [string, Place][] {
    return [...this.#json].map(([key, value]) => [key, new Place(value, `${this.#path}.${key}`)])
  }

  /** @throws ConfigError unless it is one of the values; absent is null */
  oneOf<T>(key: string, values: readonly T[]): T {
    const found = this.get(key)
    if (values.includes(found as T)) return found as T
    const shown = values.map((value) => JSON.stringify(value)).join(', ')
    throw new ConfigError(
      `config.json: ${this.#path}.${key} must be one of ${shown}, received ${JSON.stringify(found)}`,
    )
  }
}

/** What both weights and activations must say of themselves. @returns their group, 0 for a row */
function readArguments(place: Place, dynamic: readonly (boolean | null)[], whole: string): number {
  place.oneOf('num_bits', [8, null])
  place.oneOf('type', ['int', null])
  place.oneOf('symmetric', [true, null])
  place.oneOf('dynamic', dynamic)
  place.oneOf('actorder', [null, 'weight', 'static'])
  if (place.oneOf('strategy', [whole, 'group']) === 'group') return place.oneOf('group_size', GROUPS)
  place.oneOf('group_size', [null, -1])
  return 0
}

function readScheme(place: Place): Scheme {
  place.oneOf('format', [null, ...FORMATS])
  place.oneOf('output_activations', [null])
  const group = readArguments(place.at('weights'), [false, null], 'channel')
  if (!place.has('input_activations')) return { group, activations: 'float' }
  readArguments(place.at('input_activations'), [true], 'token')
  return { group, activations: 'int8' }
}

/** @throws FormatError naming the first scale that is no positive number */
function checkScales(where: string, dtype: string, part: Uint8Array, begin: number): void {
  const view = new DataView(part.buffer, part.byteOffset, part.length)
  const size = dtype === 'F32' ? 4 : 2
  const at =
    dtype === 'F32'
      ? (i: number) => view.getFloat32(4 * i, true)
      : dtype === 'F16'
        ? (i: number) => halfToNumber(view.getUint16(2 * i, true))
        : (i: number) => fromBf16Bits(view.getUint16(2 * i, true))
  for (let i = 0; i < part.length / size; i++) {
    const scale = at(i)
    if (scale > 0 && scale < Number.POSITIVE_INFINITY) continue
    throw new FormatError(`${where}: expected positive scales, found ${scale} at ${begin / size + i}`)
  }
}

function reader(json: ReadonlyMap<string, unknown>): WeightReader {
  const config = new Place(Object.fromEntries(json), 'quantization_config')
  config.oneOf('format', [null, ...FORMATS])
  config.oneOf('kv_cache_scheme', [null])
  const schemes = config
    .at('config_groups')
    .entries()
    .map(([, group]) => readScheme(group))
  if (schemes.length === 0) {
    throw new ConfigError('config.json: quantization_config.config_groups must have a scheme, received none')
  }
  const { activations } = schemes[0] as Scheme
  if (schemes.some((scheme) => scheme.activations !== activations)) {
    throw new ConfigError(
      'config.json: quantization_config.config_groups must agree on input_activations, received both kinds',
    )
  }
  const groups = [...new Set(schemes.map(({ group }) => group))]

  return {
    suffixes: [SCALE],
    async read({ file, uploader, nameOf, shape, device }) {
      const weight = nameOf('weight') as string
      const path = file.fileOf(weight)
      if (file.tensors.get(weight)?.dtype !== 'I8') return null // a dense one among them
      const name = nameOf(SCALE)
      const entry = name === undefined ? undefined : file.tensors.get(name)
      if (name === undefined || entry === undefined) {
        throw new FormatError(`${path}: expected a ${SCALE} beside ${weight}, found none`)
      }
      const [rows = 0, columns = 0] = shape
      const fileShape = (group: number): number[] =>
        group === 0 ? [rows, 1] : scalesShape(rows, columns, group)
      // which Linear has which scheme is told by its scales: targets may be patterns
      const group = groups.find((size) => sameShape(entry.shape, fileShape(size)))
      if (group === undefined || !SCALE_DTYPES.includes(entry.dtype)) {
        const shapes = groups.map((size) => `[${fileShape(size)}]`).join(' or ')
        throw new FormatError(
          `${path}: ${name} must be ${shapes} in ${SCALE_DTYPES.join(', ')}, found ${entry.dtype}[${entry.shape}]`,
        )
      }
      const { dtype } = entry
      const matrix = {
        values: keep(empty(shape, { dtype: 'i8', device })),
        scales: keep(empty(scalesShape(rows, columns, group), { dtype: 'f32', device })),
        group,
      }
      try {
        await uploader.load(matrix.scales, {
          dtype,
          async read(begin, part) {
            await file.readPart(name, begin, part)
            checkScales(`${path}: ${name}`, dtype, part, begin)
          },
        })
        await uploader.load(matrix.values, {
          dtype: 'I8',
          read: (begin, part) => file.readPart(weight, begin, part),
        })
        return new Int8Weight(matrix, { activations })
      } catch (error) {
        matrix.values.dispose()
        matrix.scales.dispose()
        throw error
      }
    },
  }
}

function writeArguments(group: number, whole: string, dynamic: boolean): Record<string, unknown> {
  return {
    dynamic,
    group_size: group === 0 ? null : group,
    num_bits: 8,
    strategy: group === 0 ? whole : 'group',
    symmetric: true,
    type: 'int',
  }
}

function config(linears: ReadonlyMap<string, Linear>, dense: readonly string[]): Record<string, unknown> {
  const kinds = new Map<string, { weight: Int8Weight; names: string[] }>()
  for (const [name, { source }] of linears) {
    const weight = source as Int8Weight
    const { group, activations } = weight
    const columns = weight.values.shape[1] ?? 0
    if (group !== 0 && columns % group !== 0) {
      throw new ConfigError(
        `saveModel: ${name} has rows of ${columns} weights in groups of ${group}, and the layout has no shorter last group; quantise with a group that divides it`,
      )
    }
    const key = `${group} ${activations}`
    const kind = kinds.get(key) ?? { weight, names: [] }
    kinds.set(key, kind)
    kind.names.push(name)
  }
  if (new Set([...kinds.values()].map(({ weight }) => weight.activations)).size > 1) {
    throw new ConfigError('saveModel: int8 weights of a model must agree on activations, found both kinds')
  }
  const schemes = [...kinds.values()].map(({ weight: { group, activations }, names }, i) => [
    `group_${i}`,
    {
      format: FORMAT,
      input_activations: activations === 'int8' ? writeArguments(group, 'token', true) : null,
      output_activations: null,
      targets: kinds.size === 1 ? ['Linear'] : names,
      weights: writeArguments(group, 'channel', false),
    },
  ])
  return {
    config_groups: Object.fromEntries(schemes),
    format: FORMAT,
    ignore: dense,
    kv_cache_scheme: null,
    quant_method: 'compressed-tensors',
    quantization_status: 'compressed',
  }
}

registerWeightFormat({ method: 'compressed-tensors', reader, config })
