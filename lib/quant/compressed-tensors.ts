// int8 weights in a model's folder: the `int-quantized` layout of compressed-tensors, which transformers
// and vLLM read. An int8 `weight` [out, in] beside a `weight_scale` [out, 1] or [out, groups], and
// `quantization_config` in config.json.
//
// Hugging Face's GPT-2 has Conv1D, whose matrix is [in, out] and of which compressed-tensors knows nothing. There a
// scale per row of ours stands as [1, out], and one per group as blocks of [group, 1]: what transformers
// multiplies back when it is told to dequantise, and refuses to run otherwise.
// Source: https://github.com/vllm-project/compressed-tensors (quant_config.py, quant_scheme.py, quant_args.py)

import { halfToNumber } from '../io/upload.ts'
import { type FiledLinear, registerWeightFormat, type WeightReader } from '../nn/weight-format.ts'
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
  /** The group is a block [group, 1] of a matrix that lies transposed. */
  readonly blocks: boolean
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

  /** n of a `block_structure` [n, 1]. @throws ConfigError for another */
  columnBlock(): number {
    const found = this.get('block_structure')
    const n = GROUPS.find((size) => JSON.stringify(found) === JSON.stringify([size, 1]))
    if (n !== undefined) return n
    throw new ConfigError(
      `config.json: ${this.#path}.block_structure must be [n, 1] with n one of ${GROUPS.join(', ')}, received ${JSON.stringify(found)}`,
    )
  }
}

/** What both weights and activations must say of themselves. @returns their group, 0 for a row */
function readArguments(
  place: Place,
  dynamic: readonly (boolean | null)[],
  strategies: readonly string[],
): Pick<Scheme, 'group' | 'blocks'> {
  place.oneOf('num_bits', [8, null])
  place.oneOf('type', ['int', null])
  place.oneOf('symmetric', [true, null])
  place.oneOf('dynamic', dynamic)
  place.oneOf('actorder', [null, 'weight', 'static'])
  const strategy = place.oneOf('strategy', strategies)
  if (strategy === 'group') return { group: place.oneOf('group_size', GROUPS), blocks: false }
  place.oneOf('group_size', [null, -1])
  return strategy === 'block' ? { group: place.columnBlock(), blocks: true } : { group: 0, blocks: false }
}

function readScheme(place: Place): Scheme {
  place.oneOf('format', [null, ...FORMATS])
  place.oneOf('output_activations', [null])
  const weights = readArguments(place.at('weights'), [false, null], ['channel', 'group', 'block'])
  if (!place.has('input_activations')) return { ...weights, activations: 'float' }
  readArguments(place.at('input_activations'), [true], ['token', 'group'])
  return { ...weights, activations: 'int8' }
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
  const groupsOf = (transposed: boolean): number[] => {
    const fitting = schemes.filter(({ group, blocks }) => group === 0 || blocks === transposed)
    return [...new Set(fitting.map(({ group }) => group))]
  }

  return {
    suffixes: [SCALE],
    async read({ file, uploader, nameOf, shape, transposed, device }) {
      const weight = nameOf('weight') as string
      const path = file.fileOf(weight)
      if (file.tensors.get(weight)?.dtype !== 'I8') return null // a dense one among them
      const name = nameOf(SCALE)
      const entry = name === undefined ? undefined : file.tensors.get(name)
      if (name === undefined || entry === undefined) {
        throw new FormatError(`${path}: expected a ${SCALE} beside ${weight}, found none`)
      }
      const [rows = 0, columns = 0] = shape
      const fileShape = (group: number): number[] => {
        const own = group === 0 ? [rows, 1] : scalesShape(rows, columns, group)
        return transposed ? own.reverse() : own
      }
      const groups = groupsOf(transposed)
      // which Linear has which scheme is told by its scales: targets may be patterns
      const group = groups.find((size) => sameShape(entry.shape, fileShape(size)))
      if (group === undefined || !SCALE_DTYPES.includes(entry.dtype)) {
        const shapes = groups.map((size) => `[${fileShape(size)}]`).join(' or ')
        const expected =
          groups.length === 0
            ? `of a scheme for matrices [${transposed ? 'in, out' : 'out, in'}], and config.json has none`
            : `${shapes} in ${SCALE_DTYPES.join(', ')}`
        throw new FormatError(`${path}: ${name} must be ${expected}, found ${entry.dtype}[${entry.shape}]`)
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
          transposed: transposed && group !== 0,
          async read(begin, part) {
            await file.readPart(name, begin, part)
            checkScales(`${path}: ${name}`, dtype, part, begin)
          },
        })
        await uploader.load(matrix.values, {
          dtype: 'I8',
          transposed,
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

/** @param strategy and what belongs to it */
function writeArguments(strategy: Record<string, unknown>, dynamic: boolean): Record<string, unknown> {
  return { dynamic, group_size: null, num_bits: 8, symmetric: true, type: 'int', ...strategy }
}

/** Linears whose weights one scheme describes. */
interface Kind extends Scheme {
  readonly names: string[]
  /** Their classes in Hugging Face's code. */
  readonly classes: Set<string>
}

function kindsOf(linears: ReadonlyMap<string, FiledLinear>): Kind[] {
  const kinds = new Map<string, Kind>()
  for (const [name, { linear, transposed }] of linears) {
    const { group, activations, values } = linear.source as Int8Weight
    const columns = values.shape[1] ?? 0
    if (group !== 0 && columns % group !== 0) {
      throw new ConfigError(
        `saveModel: ${name} has rows of ${columns} weights in groups of ${group}, and the layout has no shorter last group; quantise with a group that divides it`,
      )
    }
    const blocks = transposed && group !== 0
    const key = `${group} ${blocks} ${activations}`
    const kind = kinds.get(key) ?? { group, blocks, activations, names: [], classes: new Set() }
    kinds.set(key, kind)
    kind.names.push(name)
    kind.classes.add(transposed ? 'Conv1D' : 'Linear')
  }
  return [...kinds.values()]
}

function config(
  linears: ReadonlyMap<string, FiledLinear>,
  dense: readonly string[],
): Record<string, unknown> {
  const kinds = kindsOf(linears)
  if (new Set(kinds.map(({ activations }) => activations)).size > 1) {
    throw new ConfigError('saveModel: int8 weights of a model must agree on activations, found both kinds')
  }
  const schemes = kinds.map(({ group, blocks, activations, names, classes }, i) => {
    const grouped = { strategy: 'group', group_size: group }
    const weights =
      group === 0
        ? { strategy: 'channel' }
        : blocks
          ? { strategy: 'block', block_structure: [group, 1] }
          : grouped
    const scheme = {
      format: FORMAT,
      input_activations:
        activations === 'int8' ? writeArguments(group === 0 ? { strategy: 'token' } : grouped, true) : null,
      output_activations: null,
      targets: kinds.length === 1 ? [...classes].sort() : names,
      weights: writeArguments(weights, false),
    }
    return [`group_${i}`, scheme]
  })
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
