// The weights of a model, to and from the tensors of files.

import type { SafetensorsEntry } from '../io/safetensors.ts'
import type { SafetensorsInput } from '../io/safetensors-write.ts'
import { PartReader } from '../io/tensors.ts'
import { converts, FILE_DTYPES, Uploader } from '../io/upload.ts'
import type { ParameterDType } from '../nn/init.ts'
import { Linear, type WeightSource } from '../nn/layers.ts'
import { type FiledLinear, type WeightFile, type WeightReader, weightFormat } from '../nn/weight-format.ts'
import { empty } from '../ops/create.ts'
import { ConfigError, FormatError } from '../runtime/errors.ts'
import { sameShape } from '../tensor/layout.ts'
import { noGrad } from '../tensor/mode.ts'
import { keep } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { CausalLm } from './causal-lm.ts'
import { type FileWeight, familyOf, type ModelFamily } from './family.ts'

const HEAD = 'lm_head'

/** A model's Linears by the names that files give them: those of their weights without the end. */
function linearsByName(model: CausalLm, weights: readonly FileWeight[]): Map<string, FiledLinear> {
  const filed = new Map(weights.map((weight) => [weight.tensor, weight]))
  const linears = new Map<string, FiledLinear>()
  for (const linear of model.namedModules().values()) {
    if (!(linear instanceof Linear)) continue
    const [first = linear.weight] = linear.source?.parameters() ?? []
    const found = filed.get(first)
    if (found === undefined) continue
    const { name, transposed = false } = found
    linears.set(name.replace(/\.(weight|source\.\w+)$/, ''), { linear, transposed })
  }
  return linears
}

export interface StoredWeights {
  readonly inputs: SafetensorsInput[]
  /** Those that the inputs read. */
  readonly tensors: readonly Tensor[]
  /** What config.json says of weights that are not dense. */
  readonly quantization: Record<string, unknown> | null
}

/**
 * What files of the model hold.
 * @throws ConfigError for weights that no file holds
 */
export function storedWeights(model: CausalLm): StoredWeights {
  const family = familyOf(model.modelType)
  const weights = family.weights(model)
  const linears = [...linearsByName(model, weights)]
  const others = linears.filter(([, { linear }]) => linear.source !== null)
  const inside = new Set(others.flatMap(([, { linear }]) => linear.source?.parameters() ?? []))
  const reader = new PartReader()
  const inputs: SafetensorsInput[] = []
  const tensors: Tensor[] = []
  const add = (
    name: string,
    tensor: Tensor,
    { shape = tensor.shape, transposed = false }: { shape?: readonly number[]; transposed?: boolean },
  ): void => {
    tensors.push(tensor)
    inputs.push({
      name,
      dtype: FILE_DTYPES[tensor.dtype],
      shape: transposed ? shape.toReversed() : shape,
      data: () => (transposed && tensor.rank === 2 ? readTransposed(reader, tensor) : reader.read(tensor)),
    })
  }
  for (const { name, tensor, transposed = false } of weights) {
    if (!inside.has(tensor)) add(name, tensor, { transposed })
  }
  if (others.length === 0) return { inputs, tensors, quantization: null }
  const method = others[0]?.[1].linear.source?.format ?? null
  for (const [name, { linear, transposed }] of others) {
    const { source } = linear
    if (method === null || source?.format !== method) {
      throw new ConfigError(`saveModel: the weights of ${name} are of a kind that this folder cannot hold`)
    }
    for (const [suffix, { tensor, shape = tensor.shape }] of source.stored()) {
      add(`${name}.${suffix}`, tensor, { shape, transposed })
    }
  }
  const dense = linears.filter(([, { linear }]) => linear.source === null).map(([name]) => name)
  // a tied output layer is a Linear to readers, and dense
  if (!linears.some(([name]) => name === HEAD)) dense.push(HEAD)
  return { inputs, tensors, quantization: weightFormat(method).config(new Map(others), dense) }
}

async function* readTransposed(reader: PartReader, tensor: Tensor): AsyncGenerator<Uint8Array> {
  const view = noGrad(() => tensor.transpose())
  try {
    yield* reader.read(view)
  } finally {
    view.dispose()
  }
}

/** The file's name of each weight, by the family's. */
export function fileNames(file: WeightFile, family: ModelFamily): Map<string, string> {
  const names = new Map<string, string>()
  for (const name of file.tensors.keys()) {
    const own = family.fileName === undefined ? name : family.fileName(name)
    if (own !== null) names.set(own, name)
  }
  return names
}

/** The model's dtype by a tensor of its file; half floats become f32, which holds them all. */
export function dtypeOf(file: WeightFile, name: string): ParameterDType {
  switch (file.tensors.get(name)?.dtype) {
    case 'BF16':
      return 'bf16'
    case 'F64':
      return 'f64'
    default:
      return 'f32' // what is no float is refused, by name, when it is loaded
  }
}

export interface LoadProgress {
  /** Of the files, read so far. */
  readonly loadedBytes: number
  readonly totalBytes: number
}

/** What a load is told besides the file. */
export interface LoadWeightsOptions {
  /** Of Linears' weights that are not dense in the file. */
  readonly reader?: WeightReader | null
  /** Gives Linears other weights than the file's dense ones, which stay the caller's. */
  readonly replace?: ((weight: Tensor) => WeightSource) | null | undefined
  /** Linears have no memory of their own: they are given weights, not written into. */
  readonly deferred?: boolean
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined
}

/**
 * Gives a model the weights of files. All names and shapes are checked before. Weights of deferred Linears
 * are on their device before the next are read, so that memory never holds more dense ones than it must.
 * @throws FormatError naming file and tensor; the signal's reason
 */
export async function loadWeights(
  file: WeightFile,
  model: CausalLm,
  { reader = null, replace = null, deferred = false, signal, onProgress }: LoadWeightsOptions = {},
): Promise<void> {
  const family = familyOf(model.modelType)
  const names = fileNames(file, family)
  const weights = family.weights(model)
  const linears = new Map(
    [...linearsByName(model, weights).values()].map(({ linear }) => [linear.weight, linear]),
  )
  const wanted = checkNames(file, { weights, names, linears, suffixes: reader?.suffixes ?? [] })

  const { device } = model.inputEmbedding
  const totalBytes = [...file.tensors.values()].reduce((sum, { byteLength }) => sum + byteLength, 0)
  let loadedBytes = 0
  const counted: WeightFile = {
    path: file.path,
    tensors: file.tensors,
    fileOf: (name) => file.fileOf(name),
    async readPart(name, begin, target) {
      signal?.throwIfAborted()
      await file.readPart(name, begin, target)
      loadedBytes += target.length
      onProgress?.({ loadedBytes, totalBytes })
    },
  }
  const uploader = new Uploader()
  const upload = (name: string, target: Tensor, transposed: boolean): Promise<void> => {
    checkFloat(file, name, target)
    const { dtype } = entryOf(file, name)
    const read = (begin: number, part: Uint8Array): Promise<void> => counted.readPart(name, begin, part)
    return uploader.load(target, { dtype, transposed, read })
  }
  // in the order of the files, so that the disk is read forwards and each shard opened once
  for (const name of file.tensors.keys()) {
    const weight = wanted.get(name)
    if (weight === undefined) continue
    const { name: own, tensor, transposed = false } = weight
    const linear = deferred ? linears.get(tensor) : undefined
    if (linear === undefined) {
      await upload(name, tensor, transposed)
      continue
    }
    const nameOf = (suffix: string): string | undefined => names.get(own.replace(/weight$/, suffix))
    const { shape } = tensor
    const source = await reader?.read({ file: counted, uploader, nameOf, shape, transposed, device })
    if (source) linear.replaceWeight(source)
    else {
      const dtype = replace === null ? tensor.dtype : dtypeOf(file, name)
      const dense = keep(empty(tensor.shape, { dtype, device }))
      try {
        await upload(name, dense, transposed)
        if (replace !== null) linear.replaceWeight(replace(dense))
        else linear.giveWeight(dense)
      } finally {
        if (linear.weight !== dense) dense.dispose()
      }
    }
    if (replace !== null) await device.activeQueue.fence()
  }
}

function entryOf(file: WeightFile, name: string): SafetensorsEntry {
  return file.tensors.get(name) as SafetensorsEntry
}

function checkFloat(file: WeightFile, name: string, target: Tensor): void {
  const { dtype } = entryOf(file, name)
  if (converts(dtype, target.dtype)) return
  throw new FormatError(`${file.fileOf(name)}: ${name} must be a float, found ${dtype}`)
}

/**
 * The weights by the names of the file.
 * @throws FormatError for a tensor that is missing, not known, or of another shape
 */
function checkNames(
  file: WeightFile,
  places: {
    readonly weights: readonly FileWeight[]
    readonly names: ReadonlyMap<string, string>
    readonly linears: ReadonlyMap<Tensor, Linear>
    readonly suffixes: readonly string[]
  },
): Map<string, FileWeight> {
  const { weights, names, linears, suffixes } = places
  // some writers keep the tied head
  const known = new Set([`${HEAD}.weight`])
  for (const { name: own, tensor } of weights) {
    known.add(own)
    if (!linears.has(tensor)) continue
    for (const suffix of suffixes) known.add(own.replace(/weight$/, suffix))
  }
  for (const [own, name] of names) {
    if (known.has(own)) continue
    const { dtype, shape } = entryOf(file, name)
    throw new FormatError(`${file.fileOf(name)}: unknown tensor ${name} ${dtype}[${shape}]`)
  }
  const wanted = new Map<string, FileWeight>()
  for (const weight of weights) {
    const { name: own, tensor, transposed = false } = weight
    const name = names.get(own)
    if (name === undefined) throw new FormatError(`${file.path}: expected a tensor ${own}, found none`)
    const found = entryOf(file, name)
    const shape = transposed ? tensor.shape.toReversed() : tensor.shape
    if (!sameShape(found.shape, shape)) {
      throw new FormatError(`${file.fileOf(name)}: ${name} must be [${shape}], found [${found.shape}]`)
    }
    // a reader decides about its own
    if (suffixes.length === 0 || !linears.has(tensor)) checkFloat(file, name, tensor)
    wanted.set(name, weight)
  }
  return wanted
}
