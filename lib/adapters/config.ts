// What an adapter is: its options, checked, and PEFT's adapter_config.json.

import { ConfigError, FormatError } from '../runtime/errors.ts'
import { checkInteger, checkOptions } from '../runtime/options.ts'

/** Modules by name (`q_proj`, or a whole path), or one regular expression for whole paths, or `all-linear`. */
export type Targets = readonly string[] | string

export interface LoraOptions {
  /** r, the columns of the low-rank term. Default 16. */
  readonly rank?: number
  /** The term counts alpha / r times (rsLoRA: alpha / sqrt r). Default 2 r. */
  readonly alpha?: number
  /** Of what the term sees of x, in training; in [0, 1). Default 0. */
  readonly dropout?: number
  /**
   * Which modules get a term, as PEFT names them: a list of names (`q_proj`, or a whole path), a regular
   * expression for whole paths, or `all-linear`: all but the output layer. Default `all-linear`.
   */
  readonly targets?: Targets
  /** Scale alpha / sqrt r, which keeps large ranks learning. Default false. */
  readonly rsLora?: boolean
  /** Another rank for modules whose path ends in a name, or matches an expression. */
  readonly rankPattern?: Readonly<Record<string, number>>
  /** Another alpha, in the same way. */
  readonly alphaPattern?: Readonly<Record<string, number>>
  /** Linears and embeddings (`lm_head`, `embed_tokens`) that are trained whole, as copies of their own. */
  readonly modulesToSave?: readonly string[]
  /** Of the first values of A. Default 0. */
  readonly seed?: number
}

/** Options with defaults filled in. */
export type LoraConfig = Readonly<Required<Omit<LoraOptions, 'seed'>>>

const MOST = 2 ** 20 // no weight has a side longer than that
const OPTIONS: readonly (keyof LoraOptions)[] = [
  'rank',
  'alpha',
  'dropout',
  'targets',
  'rsLora',
  'rankPattern',
  'alphaPattern',
  'modulesToSave',
  'seed',
]

/** @throws ConfigError, ValueError naming the option */
export function completeLoraOptions(where: string, options: LoraOptions): LoraConfig {
  checkOptions(where, options, OPTIONS)
  const { rank = 16, dropout = 0, targets = 'all-linear', rsLora = false } = options
  const { rankPattern = {}, alphaPattern = {}, modulesToSave = [] } = options
  checkInteger(where, 'rank', rank, 1, MOST)
  const { alpha = 2 * rank } = options
  const fail = (name: string, expected: string, value: unknown): never => {
    throw new ConfigError(`${where}: ${name} must be ${expected}, received ${JSON.stringify(value)}`)
  }
  if (!isPositive(alpha)) fail('alpha', 'a number above 0', String(alpha))
  if (!(dropout >= 0 && dropout < 1)) fail('dropout', 'in [0, 1)', String(dropout))
  if (!(typeof targets === 'string' ? targets !== '' : isNames(targets) && targets.length > 0)) {
    fail('targets', 'names of modules, one expression, or all-linear', targets)
  }
  if (!isNames(modulesToSave)) fail('modulesToSave', 'names of modules', modulesToSave)
  for (const [name, value] of Object.entries(rankPattern)) {
    checkInteger(where, `rankPattern ${JSON.stringify(name)}`, value, 1, MOST)
  }
  for (const [name, value] of Object.entries(alphaPattern)) {
    if (!isPositive(value)) fail(`alphaPattern ${JSON.stringify(name)}`, 'a number above 0', String(value))
  }
  return { rank, alpha, dropout, targets, rsLora, rankPattern, alphaPattern, modulesToSave }
}

function isPositive(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value > 0
}

function isNames(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((name) => typeof name === 'string' && name !== '')
}

/** Of adapter_config.json: keys that say nothing of what is computed. */
const NEUTRAL = new Set([
  'auto_mapping',
  'base_model_name_or_path',
  'ephemeral_gpu_offload',
  'fan_in_fan_out', // how the base lies in memory: ours is [out, in] whatever the file says
  'inference_mode',
  'layers_pattern', // beside layers_to_transform alone
  'megatron_core',
  'peft_version',
  'qalora_group_size',
  'revision',
  'runtime_config',
  'task_type',
])
/** Ways to begin that leave the base as it was. */
const PLAIN_BEGINNINGS: readonly unknown[] = [true, false, null, undefined, 'gaussian', 'eva', 'orthogonal']

/**
 * The configuration in a file's JSON.
 * @throws FormatError naming the key, what was expected and what was found; ConfigError for a variant that
 *   is not known here
 */
export function readPeftConfig(path: string, json: Readonly<Record<string, unknown>>): LoraConfig {
  const left = new Map(Object.entries(json).filter(([key]) => !NEUTRAL.has(key)))
  const take = (key: string): unknown => {
    const value = left.get(key)
    left.delete(key)
    return value ?? undefined
  }
  const format = (key: string, expected: string, value: unknown): FormatError =>
    new FormatError(`${path}: ${key}: expected ${expected}, found ${JSON.stringify(value) ?? 'nothing'}`)
  const number = (key: string, expected: string, holds: (value: number) => boolean): number => {
    const value = take(key)
    if (typeof value === 'number' && Number.isFinite(value) && holds(value)) return value
    throw format(key, expected, value)
  }
  const flag = (key: string): boolean => {
    const value = take(key)
    if (value === undefined || typeof value === 'boolean') return value ?? false
    throw format(key, 'true or false', value)
  }
  const isRank = (value: number): boolean => Number.isInteger(value) && value >= 1 && value <= MOST
  const pattern = (key: string, expected: string, holds: (value: number) => boolean) => {
    const value = take(key) ?? {}
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw format(key, 'an object', value)
    }
    for (const [name, entry] of Object.entries(value)) {
      if (typeof entry !== 'number' || !holds(entry)) {
        throw format(`${key} ${JSON.stringify(name)}`, expected, entry)
      }
    }
    return value as Record<string, number>
  }
  const variant = (key: string, value: unknown): ConfigError =>
    new ConfigError(`${path}: ${key} ${JSON.stringify(value)} is a variant of LoRA that is not known here`)

  const type = take('peft_type')
  if (type !== 'LORA') {
    throw new ConfigError(`${path}: peft_type must be "LORA", found ${JSON.stringify(type) ?? 'nothing'}`)
  }
  const bias = take('bias')
  if (bias !== undefined && bias !== 'none') throw variant('bias', bias)
  const beginning = take('init_lora_weights')
  if (!PLAIN_BEGINNINGS.includes(beginning)) throw variant('init_lora_weights', beginning)
  const ranks = `an integer from 1 to ${MOST}`
  const targets = take('target_modules')
  if (typeof targets !== 'string' && !isNames(targets)) {
    throw format('target_modules', 'a list of names or an expression', targets)
  }
  const modulesToSave = take('modules_to_save') ?? []
  if (!isNames(modulesToSave)) throw format('modules_to_save', 'a list of names', modulesToSave)
  const config = {
    rank: number('r', ranks, isRank),
    alpha: number('lora_alpha', 'a number above 0', isPositive),
    dropout: left.has('lora_dropout') ? number('lora_dropout', 'in [0, 1)', (p) => p >= 0 && p < 1) : 0,
    targets,
    rsLora: flag('use_rslora'),
    rankPattern: pattern('rank_pattern', ranks, isRank),
    alphaPattern: pattern('alpha_pattern', 'a number above 0', isPositive),
    modulesToSave,
  }
  for (const [key, value] of left) {
    const off = value === null || value === false || (typeof value === 'object' && isEmpty(value))
    if (!off) throw variant(key, value)
  }
  return config
}

function isEmpty(value: object): boolean {
  return Object.keys(value).length === 0
}

/** adapter_config.json: what PEFT needs, keys sorted, what is exotic left out. */
export function writePeftConfig(
  config: LoraConfig,
  base: { readonly name: string | null; readonly fanInFanOut: boolean; readonly targets: Targets },
): string {
  const json = {
    alpha_pattern: config.alphaPattern,
    base_model_name_or_path: base.name,
    bias: 'none',
    fan_in_fan_out: base.fanInFanOut,
    inference_mode: true,
    lora_alpha: config.alpha,
    lora_dropout: config.dropout,
    modules_to_save: config.modulesToSave.length === 0 ? null : config.modulesToSave,
    peft_type: 'LORA',
    r: config.rank,
    rank_pattern: config.rankPattern,
    target_modules: base.targets,
    task_type: 'CAUSAL_LM',
    use_dora: false,
    use_rslora: config.rsLora,
  }
  return `${JSON.stringify(json, null, 2)}\n`
}
