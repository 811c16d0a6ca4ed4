// A model as a Hugging Face folder: config.json and model.safetensors.

import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type SafetensorsDType, SafetensorsFile } from '../io/safetensors.ts'
import { writeAtomic, writeSafetensors } from '../io/safetensors-write.ts'
import type { Module } from '../nn/module.ts'
import { cast, copyInto } from '../ops/copy.ts'
import { FormatError } from '../runtime/errors.ts'
import { type DType, itemSizes } from '../tensor/dtype.ts'
import { sameShape } from '../tensor/layout.ts'
import { noGrad } from '../tensor/mode.ts'
import { Tensor } from '../tensor/tensor.ts'
import { Llama, type ModelOptions } from './llama.ts'
import { fromHuggingFaceConfig, toHuggingFaceConfig } from './llama-config.ts'

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

/** model.embedTokens.weight -> model.embed_tokens.weight */
function huggingFaceName(path: string): string {
  return path.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}

function namedWeights(model: Module): Map<string, Tensor> {
  return new Map([...model.stateDict()].map(([path, tensor]) => [huggingFaceName(path), tensor]))
}

/** The bytes of a contiguous tensor, in its own dtype, once all work enqueued before has run. */
async function readBytes(tensor: Tensor): Promise<Uint8Array> {
  const size = itemSizes[tensor.dtype]
  const { storage } = tensor
  return new Uint8Array(await storage.readQueue.read(storage, tensor.offset * size, tensor.size * size))
}

/**
 * Writes `config.json` and `model.safetensors` (tied weights once, without `lm_head`), each
 * atomically.
 * @throws the system's error when the folder cannot be written
 */
export async function saveLlama(model: Llama, folder: string): Promise<void> {
  await mkdir(folder, { recursive: true })
  const tensors = [...namedWeights(model)].map(([name, tensor]) => ({
    name,
    dtype: FILE_DTYPES[floatDType(tensor)],
    shape: tensor.shape,
    data: () => readBytes(tensor),
  }))
  await writeSafetensors(join(folder, WEIGHTS), tensors)
  const dtype = model.model.embedTokens.weight.dtype === 'bf16' ? 'bfloat16' : 'float32'
  const text = `${JSON.stringify(toHuggingFaceConfig(model.config, dtype), null, 2)}\n`
  await writeAtomic(join(folder, CONFIG), (write) => write(new TextEncoder().encode(text)))
}

/**
 * Loads a folder that {@link saveLlama} or Hugging Face's `save_pretrained` wrote. Weights of another
 * float dtype are converted.
 * @param options dtype: that of the file's embedding when not said
 * @throws ConfigError, FormatError naming the file and tensor
 */
export async function loadLlama(folder: string, options: Omit<ModelOptions, 'seed'> = {}): Promise<Llama> {
  const configPath = join(folder, CONFIG)
  let json: unknown
  try {
    json = JSON.parse(await readFile(configPath, 'utf8'))
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    throw new FormatError(`${configPath}: expected JSON, found ${error.message}`)
  }
  const config = fromHuggingFaceConfig(json)
  const file = await SafetensorsFile.open(join(folder, WEIGHTS))
  try {
    const dtype = options.dtype ?? dtypeOf(file, 'model.embed_tokens.weight')
    const model = new Llama(config, { ...options, dtype })
    try {
      await loadWeights(file, namedWeights(model))
      return model
    } catch (error) {
      model.dispose()
      throw error
    }
  } finally {
    await file.close()
  }
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

async function loadWeights(file: SafetensorsFile, weights: ReadonlyMap<string, Tensor>): Promise<void> {
  for (const [name, entry] of file.tensors) {
    // some writers keep the tied head, or the old rotary buffers
    if (weights.has(name) || name === 'lm_head.weight' || name.endsWith('.rotary_emb.inv_freq')) continue
    throw new FormatError(`${file.path}: unknown tensor ${name} ${entry.dtype}[${entry.shape}]`)
  }
  for (const [name, target] of weights) {
    const entry = file.tensors.get(name)
    if (entry === undefined) throw new FormatError(`${file.path}: expected a tensor ${name}, found none`)
    if (!sameShape(entry.shape, target.shape)) {
      throw new FormatError(`${file.path}: ${name} must be [${target.shape}], found [${entry.shape}]`)
    }
    await upload(file, name, target)
  }
}

async function upload(file: SafetensorsFile, name: string, target: Tensor): Promise<void> {
  const dtype = dtypeOf(file, name)
  const { activeQueue } = target.device
  const bytes = await file.read(name)
  const direct = dtype === target.dtype
  const staging = direct
    ? null
    : new Tensor(activeQueue.alloc(bytes.length), target.shape, target.strides, 0, dtype)
  const storage = (staging ?? target).storage
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
    activeQueue.write(storage, at, bytes.subarray(at, at + CHUNK_BYTES), true)
    await activeQueue.ready()
  }
  if (staging !== null) {
    noGrad(() => {
      const converted = cast(staging, target.dtype)
      copyInto(target, converted)
      converted.dispose()
    })
    staging.dispose()
  }
}
