// A model as a Hugging Face folder: config.json and its weights, in one file or in shards.

import { mkdir, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writeTogether } from '../io/atomic.ts'
import { isWeightsFile, WeightFiles, weightFiles } from '../io/shards.ts'
import { PartReader } from '../io/tensors.ts'
import { converts, FILE_DTYPES, Uploader } from '../io/upload.ts'
import type { ParameterDType } from '../nn/init.ts'
import { ConfigError, FormatError } from '../runtime/errors.ts'
import { checkInteger, checkOptions } from '../runtime/options.ts'
import { sameShape } from '../tensor/layout.ts'
import { noGrad } from '../tensor/mode.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { CausalLm, ModelOptions } from './causal-lm.ts'
import { type FileWeight, familyOf, type ModelFamily } from './family.ts'

const CONFIG = 'config.json'
const DEFAULT_SHARD_BYTES = 5e9

export interface SaveModelOptions {
  /**
   * Most bytes of tensors in one file; more go into shards (`model-00001-of-00002.safetensors`) with an
   * index. A tensor is never cut. Default 5e9.
   */
  readonly maxShardBytes?: number
}

/**
 * Writes `config.json` and the weights (tied ones once, without `lm_head`), as Hugging Face's
 * `from_pretrained` reads them. Nothing in the folder changes before all of it is on disk; weights of an
 * earlier save that have other names are deleted then.
 * @throws ConfigError for a mixture of features that no Hugging Face architecture has, or weights that
 *   change while they are saved; the system's error when the folder cannot be written
 */
export async function saveModel(
  model: CausalLm,
  folder: string,
  options: SaveModelOptions = {},
): Promise<void> {
  checkOptions('saveModel', options, ['maxShardBytes'])
  const { maxShardBytes = DEFAULT_SHARD_BYTES } = options
  checkInteger('saveModel', 'maxShardBytes', maxShardBytes, 1, Number.MAX_SAFE_INTEGER)
  const family = familyOf(model.modelType)
  const weights = family.weights(model)
  const versions = weights.map(({ tensor }) => tensor.storage.version)
  const dtype = weights.some(({ tensor }) => tensor.dtype === 'bf16') ? 'bfloat16' : 'float32'
  const keys = Object.entries({ ...family.writeConfig(model), torch_dtype: dtype })
  await mkdir(folder, { recursive: true })
  const reader = new PartReader()
  const tensors = weights.map(({ name, tensor, transposed = false }) => ({
    name,
    dtype: FILE_DTYPES[tensor.dtype],
    shape: transposed ? tensor.shape.toReversed() : tensor.shape,
    data: () => (transposed ? readTransposed(reader, tensor) : reader.read(tensor)),
  }))
  const config = Object.fromEntries(keys.sort(([a], [b]) => (a < b ? -1 : 1)))
  const text = new TextEncoder().encode(`${JSON.stringify(config, null, 2)}\n`)
  const files = [
    ...weightFiles(tensors, maxShardBytes),
    {
      name: CONFIG,
      body: async (write: (bytes: Uint8Array) => Promise<void>) => {
        // the last file: a model that is half of one step and half of the next must not take the old one's place
        if (weights.some(({ tensor }, i) => tensor.storage.version !== versions[i])) {
          throw new ConfigError(
            'saveModel: the weights changed while they were saved; save between two steps',
          )
        }
        await write(text)
      },
    },
  ]
  const names = new Set(files.map(({ name }) => name))
  const obsolete = (await readdir(folder)).filter((name) => isWeightsFile(name) && !names.has(name))
  await writeTogether(folder, files, { obsolete })
}

async function* readTransposed(reader: PartReader, tensor: Tensor): AsyncGenerator<Uint8Array> {
  const view = noGrad(() => tensor.transpose())
  try {
    yield* reader.read(view)
  } finally {
    view.dispose()
  }
}

/**
 * Loads a folder that {@link saveModel} or Hugging Face's `save_pretrained` wrote; config.json says
 * which family it is. Weights of another float dtype are converted.
 * @param options dtype: that of the file's embedding when not said
 * @throws ConfigError naming an architecture or feature that is not known, FormatError naming file and
 *   tensor
 */
export async function loadModel(folder: string, options: Omit<ModelOptions, 'seed'> = {}): Promise<CausalLm> {
  const json = await readConfig(join(folder, CONFIG))
  const family = familyOf(json.get('model_type'))
  const file = await WeightFiles.open(folder)
  try {
    const names = fileNames(file, family)
    const dtype = options.dtype ?? dtypeOf(file, names.get(family.dtypeOf) ?? family.dtypeOf)
    const model = family.create(json, { ...options, dtype })
    try {
      await loadWeights(file, family.weights(model), names)
      return model
    } catch (error) {
      model.dispose()
      throw error
    }
  } finally {
    await file.close()
  }
}

/**
 * Overwrites a model's weights with those of a folder that {@link saveModel} wrote for one of its shape.
 * @throws FormatError naming file and tensor
 */
export async function loadModelInto(model: CausalLm, folder: string): Promise<void> {
  const family = familyOf(model.modelType)
  const file = await WeightFiles.open(folder)
  try {
    await loadWeights(file, family.weights(model), fileNames(file, family))
  } finally {
    await file.close()
  }
}

async function readConfig(path: string): Promise<ReadonlyMap<string, unknown>> {
  let json: unknown
  try {
    json = JSON.parse(await readFile(path, 'utf8'))
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    throw new FormatError(`${path}: expected JSON, found ${error.message}`)
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new ConfigError('config.json: expected an object')
  }
  return new Map(Object.entries(json))
}

/** The file's name of each weight, by the family's. */
function fileNames(file: WeightFiles, family: ModelFamily): Map<string, string> {
  const names = new Map<string, string>()
  for (const name of file.tensors.keys()) {
    const own = family.fileName === undefined ? name : family.fileName(name)
    if (own !== null) names.set(own, name)
  }
  return names
}

/** The model's dtype by a tensor of its file; half floats become f32, which holds them all. */
function dtypeOf(file: WeightFiles, name: string): ParameterDType {
  switch (file.tensors.get(name)?.dtype) {
    case 'BF16':
      return 'bf16'
    case 'F64':
      return 'f64'
    default:
      return 'f32' // what is no float is refused, by name, when it is loaded
  }
}

async function loadWeights(
  file: WeightFiles,
  weights: readonly FileWeight[],
  names: ReadonlyMap<string, string>,
): Promise<void> {
  const known = new Set(weights.map(({ name }) => name))
  for (const [own, name] of names) {
    // some writers keep the tied head
    if (known.has(own) || own === 'lm_head.weight') continue
    const entry = file.tensors.get(name)
    throw new FormatError(`${file.fileOf(name)}: unknown tensor ${name} ${entry?.dtype}[${entry?.shape}]`)
  }
  const wanted = new Map<string, FileWeight>()
  for (const weight of weights) {
    const { name: own, tensor, transposed = false } = weight
    const name = names.get(own)
    const entry = name === undefined ? undefined : file.tensors.get(name)
    if (name === undefined || entry === undefined) {
      throw new FormatError(`${file.path}: expected a tensor ${own}, found none`)
    }
    const shape = transposed ? tensor.shape.toReversed() : tensor.shape
    if (!sameShape(entry.shape, shape)) {
      throw new FormatError(`${file.fileOf(name)}: ${name} must be [${shape}], found [${entry.shape}]`)
    }
    if (!converts(entry.dtype, tensor.dtype)) {
      throw new FormatError(`${file.fileOf(name)}: ${name} must be a float, found ${entry.dtype}`)
    }
    wanted.set(name, weight)
  }
  // in the order of the files, so that the disk is read forwards and each shard opened once
  const uploader = new Uploader()
  for (const [name, { dtype }] of file.tensors) {
    const weight = wanted.get(name)
    if (weight === undefined) continue
    const { tensor, transposed = false } = weight
    const read = (begin: number, part: Uint8Array): Promise<void> => file.readPart(name, begin, part)
    await uploader.load(tensor, { dtype, transposed, read })
  }
}
