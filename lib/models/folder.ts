// A model as a Hugging Face folder: config.json and model.safetensors.

import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type SafetensorsDType, SafetensorsFile } from '../io/safetensors.ts'
import { writeAtomic, writeSafetensors } from '../io/safetensors-write.ts'
import { cast, contiguous, copyInto } from '../ops/copy.ts'
import { ConfigError, FormatError } from '../runtime/errors.ts'
import { type DType, itemSizes } from '../tensor/dtype.ts'
import { contiguousStrides, sameShape } from '../tensor/layout.ts'
import { noGrad } from '../tensor/mode.ts'
import { scope } from '../tensor/scope.ts'
import { Tensor } from '../tensor/tensor.ts'
import type { CausalLm, ModelOptions } from './causal-lm.ts'
import { type FileWeight, familyOf, type ModelFamily } from './family.ts'

const FILE_DTYPES = { f32: 'F32', bf16: 'BF16', f64: 'F64' } as const satisfies Partial<
  Record<DType, SafetensorsDType>
>
type FloatDType = keyof typeof FILE_DTYPES

const WEIGHTS = 'model.safetensors'
const CONFIG = 'config.json'
const CHUNK_BYTES = 4 * 2 ** 20 // an upload is copied; small ones keep the event loop free

function floatDType(tensor: Tensor): FloatDType {
  return tensor.dtype === 'bf16' || tensor.dtype === 'f64' ? tensor.dtype : 'f32'
}

/** The bytes of a contiguous tensor, in its own dtype, once all work enqueued before has run. */
async function readBytes(tensor: Tensor, transposed: boolean): Promise<Uint8Array> {
  const dense = transposed ? noGrad(() => scope(() => contiguous(tensor.transpose()))) : tensor
  const size = itemSizes[dense.dtype]
  const { storage } = dense
  const bytes = storage.readQueue.read(storage, dense.offset * size, dense.size * size)
  if (dense !== tensor) dense.dispose()
  return new Uint8Array(await bytes)
}

/**
 * Writes `config.json` and `model.safetensors` (tied weights once, without `lm_head`), each
 * atomically, as Hugging Face's `from_pretrained` reads them.
 * @throws ConfigError for a mixture of features that no Hugging Face architecture has; the system's
 *   error when the folder cannot be written
 */
export async function saveModel(model: CausalLm, folder: string): Promise<void> {
  const family = familyOf(model.modelType)
  const weights = family.weights(model)
  const dtype = weights.some(({ tensor }) => tensor.dtype === 'bf16') ? 'bfloat16' : 'float32'
  const keys = Object.entries({ ...family.writeConfig(model), torch_dtype: dtype })
  await mkdir(folder, { recursive: true })
  const tensors = weights.map(({ name, tensor, transposed = false }) => ({
    name,
    dtype: FILE_DTYPES[floatDType(tensor)],
    shape: transposed ? tensor.shape.toReversed() : tensor.shape,
    data: () => readBytes(tensor, transposed),
  }))
  await writeSafetensors(join(folder, WEIGHTS), tensors)
  const config = Object.fromEntries(keys.sort(([a], [b]) => (a < b ? -1 : 1)))
  const text = `${JSON.stringify(config, null, 2)}\n`
  await writeAtomic(join(folder, CONFIG), (write) => write(new TextEncoder().encode(text)))
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
  const file = await SafetensorsFile.open(join(folder, WEIGHTS))
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
  const file = await SafetensorsFile.open(join(folder, WEIGHTS))
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
function fileNames(file: SafetensorsFile, family: ModelFamily): Map<string, string> {
  const names = new Map<string, string>()
  for (const name of file.tensors.keys()) {
    const own = family.fileName === undefined ? name : family.fileName(name)
    if (own !== null) names.set(own, name)
  }
  return names
}

function dtypeOf(file: SafetensorsFile, name: string): FloatDType {
  const dtype = file.tensors.get(name)?.dtype
  const found = (Object.keys(FILE_DTYPES) as FloatDType[]).find((key) => FILE_DTYPES[key] === dtype)
  if (found === undefined) {
    throw new FormatError(
      `${file.path}: ${name} must be F32, BF16 or F64, found ${dtype ?? 'no such tensor'}`,
    )
  }
  return found
}

async function loadWeights(
  file: SafetensorsFile,
  weights: readonly FileWeight[],
  names: ReadonlyMap<string, string>,
): Promise<void> {
  const known = new Set(weights.map(({ name }) => name))
  for (const [own, name] of names) {
    // some writers keep the tied head
    if (known.has(own) || own === 'lm_head.weight') continue
    const entry = file.tensors.get(name)
    throw new FormatError(`${file.path}: unknown tensor ${name} ${entry?.dtype}[${entry?.shape}]`)
  }
  for (const { name: own, tensor, transposed = false } of weights) {
    const name = names.get(own)
    const entry = name === undefined ? undefined : file.tensors.get(name)
    if (name === undefined || entry === undefined) {
      throw new FormatError(`${file.path}: expected a tensor ${own}, found none`)
    }
    const shape = transposed ? tensor.shape.toReversed() : tensor.shape
    if (!sameShape(entry.shape, shape)) {
      throw new FormatError(`${file.path}: ${name} must be [${shape}], found [${entry.shape}]`)
    }
    await upload(file, name, tensor, transposed)
  }
}

async function upload(
  file: SafetensorsFile,
  name: string,
  target: Tensor,
  transposed: boolean,
): Promise<void> {
  const dtype = dtypeOf(file, name)
  const { activeQueue } = target.device
  const bytes = await file.read(name)
  const direct = dtype === target.dtype && !transposed
  const shape = transposed ? target.shape.toReversed() : target.shape
  const staging = direct
    ? null
    : new Tensor(activeQueue.alloc(bytes.length), shape, contiguousStrides(shape), 0, dtype)
  const storage = (staging ?? target).storage
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
    activeQueue.write(storage, at, bytes.subarray(at, at + CHUNK_BYTES), true)
    await activeQueue.ready()
  }
  if (staging !== null) {
    noGrad(() =>
      scope(() => copyInto(target, cast(transposed ? staging.transpose() : staging, target.dtype))),
    )
    staging.dispose()
  }
}
