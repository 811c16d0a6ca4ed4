// A model as a Hugging Face folder: config.json and its weights, in one file or in shards.

import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { makeFolder, writeTogether } from '../io/atomic.ts'
import { isWeightsFile, WeightFiles, weightFiles } from '../io/shards.ts'
import { readJsonObject } from '../io/small-file.ts'
import type { WeightSource } from '../nn/layers.ts'
import { type WeightReader, weightFormat } from '../nn/weight-format.ts'
import { ConfigError } from '../runtime/errors.ts'
import { checkInteger, checkOptions, checkPath, shown } from '../runtime/options.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { CausalLm, type ModelOptions } from './causal-lm.ts'
import { familyOf } from './family.ts'
import { dtypeOf, fileNames, type LoadProgress, loadWeights, storedWeights } from './weights.ts'

const CONFIG = 'config.json'
const DEFAULT_SHARD_BYTES = 5e9

export interface SaveModelOptions {
  /**
   * Most bytes of tensors in one file; more go into shards (`model-00001-of-00002.safetensors`) with an
   * index. A tensor is never cut. Default 5e9.
   */
  readonly maxShardBytes?: number
}

export interface LoadModelOptions extends Omit<ModelOptions, 'seed' | 'deferLinears' | 'mostElements'> {
  /**
   * Gives each Linear other weights than the files' dense ones [out, in], which are freed then: memory never
   * holds all of them.
   */
  readonly replace?: (weight: Tensor) => WeightSource
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: LoadProgress) => void
}

/**
 * Writes `config.json` and the weights (tied ones once, without `lm_head`), as Hugging Face's
 * `from_pretrained` reads them. Nothing in the folder changes before all of it is on disk; weights of an
 * earlier save that have other names are deleted then. int8 weights stand as compressed-tensors has them.
 * @throws ConfigError for a mixture of features that no Hugging Face architecture has, weights that its
 *   layout cannot hold, or that change while they are saved; the system's error when the folder cannot be written
 */
export async function saveModel(
  model: CausalLm,
  folder: string,
  options: SaveModelOptions = {},
): Promise<void> {
  checkOptions('saveModel', options, ['maxShardBytes'])
  const { maxShardBytes = DEFAULT_SHARD_BYTES } = options
  checkInteger('saveModel', 'maxShardBytes', maxShardBytes, 1, Number.MAX_SAFE_INTEGER)
  if (!(model instanceof CausalLm))
    throw new ConfigError(`saveModel: expected a model, received ${shown(model)}`)
  checkPath('saveModel', 'folder', folder)
  const { inputs, tensors, quantization } = storedWeights(model)
  const versions = tensors.map(({ storage }) => storage.version)
  const dtype = tensors.some((tensor) => tensor.dtype === 'bf16') ? 'bfloat16' : 'float32'
  const config = configText(model, dtype, quantization === null ? {} : { quantization_config: quantization })
  await makeFolder(folder)
  const files = [
    ...weightFiles(inputs, maxShardBytes),
    {
      name: CONFIG,
      body: async (write: (bytes: Uint8Array) => Promise<void>) => {
        // the last file: a model that is half of one step and half of the next must not take the old one's place
        if (tensors.some(({ storage }, i) => storage.version !== versions[i])) {
          throw new ConfigError(
            'saveModel: the weights changed while they were saved; save between two steps',
          )
        }
        await write(new TextEncoder().encode(config))
      },
    },
  ]
  const names = new Set(files.map(({ name }) => name))
  const obsolete = (await readdir(folder)).filter((name) => isWeightsFile(name) && !names.has(name))
  await writeTogether(folder, files, { obsolete })
}

/**
 * The text of config.json.
 * @param dtype of its files, as Hugging Face names it
 */
export function configText(
  model: CausalLm,
  dtype: string,
  further: Readonly<Record<string, unknown>>,
): string {
  const entries = { ...familyOf(model.modelType).writeConfig(model), torch_dtype: dtype, ...further }
  const keys = Object.entries(entries).sort(([a], [b]) => (a < b ? -1 : 1))
  return `${JSON.stringify(Object.fromEntries(keys), null, 2)}\n`
}

/**
 * Loads a folder that {@link saveModel} or Hugging Face's `save_pretrained` wrote; config.json says
 * which family it is. Weights of another float dtype are converted.
 * @param options dtype: that of the file's embedding when not said
 * @throws ConfigError naming an architecture or feature that is not known, FormatError naming file and
 *   tensor; the signal's reason
 */
export async function loadModel(folder: string, options: LoadModelOptions = {}): Promise<CausalLm> {
  const { replace, signal, onProgress, ...modelOptions } = options
  checkPath('loadModel', 'folder', folder)
  const json = new Map(Object.entries(await readJsonObject(join(folder, CONFIG))))
  const family = familyOf(json.get('model_type'))
  const quantization = json.get('quantization_config')
  json.delete('quantization_config')
  const reader = weightReader(quantization ?? null)
  const file = await WeightFiles.open(folder)
  try {
    const dtype =
      options.dtype ?? dtypeOf(file, fileNames(file, family).get(family.dtypeOf) ?? family.dtypeOf)
    const model = family.create(json, {
      ...modelOptions,
      dtype,
      deferLinears: true,
      mostElements: elementsOf(file),
    })
    try {
      await loadWeights(file, model, { reader, replace, deferred: true, signal, onProgress })
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
  const file = await WeightFiles.open(folder)
  try {
    await loadWeights(file, model)
  } finally {
    await file.close()
  }
}

function elementsOf({ tensors }: WeightFiles): number {
  let sum = 0
  for (const { shape } of tensors.values()) sum += shape.reduce((product, size) => product * size, 1)
  return sum
}

function weightReader(quantization: unknown): WeightReader | null {
  if (quantization === null) return null
  if (typeof quantization !== 'object' || Array.isArray(quantization)) {
    throw new ConfigError('config.json: quantization_config must be an object')
  }
  const json = new Map<string, unknown>(Object.entries(quantization as object))
  return weightFormat(json.get('quant_method')).reader(json)
}
