// Architecture families by Hugging Face's model_type. Each family's file registers itself; nothing here
// or in folder.ts knows any of them.

import { ConfigError } from '../runtime/errors.ts'
import { checkInteger, checkName, checkOptions, nearestName, shown } from '../runtime/options.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { CausalLm, ModelOptions } from './causal-lm.ts'

/** A weight as the file has it. */
export interface FileWeight {
  readonly name: string
  readonly tensor: Tensor
  /** The file holds the matrix transposed. */
  readonly transposed?: boolean
}

export interface ModelFamily<Model extends CausalLm = CausalLm> {
  /** What config.json may say. */
  readonly modelTypes: readonly string[]
  /**
   * An untrained model as config.json describes it.
   * @throws ConfigError naming a key that is not known or cannot be
   */
  create(json: ReadonlyMap<string, unknown>, options: ModelOptions): Model
  /** config.json of the model, without `torch_dtype`. */
  writeConfig(model: Model): Record<string, unknown>
  weights(model: Model): FileWeight[]
  /** Files hold the matrices of its linear layers transposed, as [in, out]. */
  readonly transposedLinears?: true
  /** A file's tensor whose dtype is the model's, when nobody says. */
  readonly dtypeOf: string
  /** The name that `weights` uses for a tensor of a file; null for one that is no weight. */
  fileName?(name: string): string | null
}

const MODEL_OPTIONS: readonly (keyof ModelOptions)[] = [
  'dtype',
  'seed',
  'device',
  'deferLinears',
  'mostElements',
  'zeroResiduals',
  'embeddingStd',
]

const families = new Map<string, ModelFamily>()

export function registerFamily<Model extends CausalLm>(family: ModelFamily<Model>): ModelFamily<Model> {
  // a family is only ever given models of its own types
  for (const type of family.modelTypes) families.set(type, family as unknown as ModelFamily)
  return family
}

/** @throws ConfigError naming the types there are */
export function familyOf(modelType: unknown): ModelFamily {
  const family = typeof modelType === 'string' ? families.get(modelType) : undefined
  if (family !== undefined) return family
  throw new ConfigError(
    `config.json: model_type must be one of ${[...families.keys()].sort().join(', ')}, received ${shown(modelType)}`,
  )
}

/** model.embedTokens.weight -> model.embed_tokens.weight */
export function snakeCasePath(path: string): string {
  return path.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}

/**
 * An untrained model of a family.
 * @param modelType Hugging Face's name of the architecture
 * @param config its keys of config.json, in camelCase
 * @throws ConfigError naming an architecture or key that is not known or cannot be
 */
export function createModel(
  modelType: string,
  config: Readonly<Record<string, unknown>>,
  options: ModelOptions = {},
): CausalLm {
  checkOptions(`createModel: ${modelType}`, options, MODEL_OPTIONS)
  if (typeof modelType !== 'string' || !families.has(modelType)) {
    const known = [...families.keys()].sort()
    const near = nearestName(String(modelType), known)
    throw new ConfigError(
      `createModel: the architecture must be one of ${known.join(', ')}, received ${shown(modelType)}` +
        (near === undefined ? '' : `; did you mean '${near}'?`),
    )
  }
  if (options.seed !== undefined)
    checkInteger('createModel', 'seed', options.seed, 0, Number.MAX_SAFE_INTEGER)
  if (options.dtype !== undefined) checkName('createModel', 'dtype', options.dtype, ['f32', 'bf16', 'f64'])
  const json = Object.entries(config)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([key, value]) => [snakeCasePath(key), value] as const)
  return familyOf(modelType).create(new Map([['model_type', modelType], ...json]), options)
}
