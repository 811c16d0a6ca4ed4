// What a training run is told, with its defaults; what of it a resumed run may change.

import { LoraAdapter } from '../adapters/adapter.ts'
import { TextDataset } from '../data/dataset.ts'
import { checkBetas } from '../optim/adam-w.ts'
import { DECAYS, type Decay, schedule } from '../optim/schedule.ts'
import { ConfigError } from '../runtime/errors.ts'
import { checkGiven, checkInteger, checkName, checkNumber, checkOptions, shown } from '../runtime/options.ts'

export interface TrainerOptions {
  readonly train: TextDataset
  /**
   * Trains this adapter of the model alone. Checkpoints then hold the adapter, never the base; generation gets
   * each of them.
   */
  readonly adapter?: LoraAdapter | null
  /** Judged every `evalEvery` steps and at the end. */
  readonly validation?: TextDataset | null
  /** Folder of the run: checkpoints, metrics and, at the end, the model. */
  readonly out: string
  /** Rows of a micro-batch. Default 8. */
  readonly batchSize?: number
  /** Micro-batches of a step. Default 1. */
  readonly accumulate?: number
  /** Optimizer steps in all. One of `steps`, `epochs` and `minutes`. */
  readonly steps?: number
  /** Times through the training rows. */
  readonly epochs?: number
  /**
   * About how long, evaluations included where `evalOnStart` has timed one: the number of steps is fixed
   * from the speed of the first ones, and saved.
   */
  readonly minutes?: number
  readonly optimizer?: OptimizerOptions
  readonly schedule?: TrainerSchedule
  /** Largest norm of all gradients together; 0 is no clipping. Default 1. */
  readonly clipNorm?: number
  /** Probability of dropout, in [0, 1). Default 0. */
  readonly dropout?: number
  /** Layers whose activations are computed again in backward: true, or one of every n. Default false. */
  readonly recompute?: boolean | number
  /** Of dropout. (The order of rows is the dataset's.) Default 0. */
  readonly seed?: number
  /** Steps between checkpoints; below 1, a share of all steps; 0 is none but the last. Default 200. */
  readonly saveEvery?: number
  /** Steps between evaluations; below 1, a share of all steps; 0 is one at the end. Default 200. */
  readonly evalEvery?: number
  /** Evaluates also before the first step. Default false. */
  readonly evalOnStart?: boolean
  /** Most rows of an evaluation, spread evenly over the validation set. Default all. */
  readonly evalRows?: number
  /** Checkpoints kept besides the best. Default 2. */
  readonly keepLast?: number
  /** Keeps the checkpoint of the lowest validation loss. Default false. */
  readonly keepBest?: boolean
  /**
   * What `out`, and the model in memory, hold at the end: `'last'`, or `'best'`: the weights of the lowest
   * validation loss, whose checkpoint is then kept (`load_best_model_at_end` of transformers). Default `'last'`.
   */
  readonly finalModel?: 'last' | 'best'
  /** Stops after so many evaluations without a new lowest loss. Default none. */
  readonly earlyStopping?: { readonly patience: number } | null
  /** Continued after each evaluation, where the model has a tokenizer. */
  readonly samplePrompts?: readonly string[]
  /** Steps in a row without finite gradients before the run gives up. Default 10. */
  readonly maxSkipped?: number
  /** Goes on from the newest complete checkpoint in `out`, where there is one. Default false. */
  readonly resume?: boolean
  /** Clears an earlier run from `out`. Default false: a folder in use is refused. */
  readonly overwrite?: boolean
  /**
   * What else makes this run what it is (a version of the data, of the code), as JSON holds it: to go on with
   * the run it must be the same, as all options must that decide numbers. What may change: `steps` and `epochs`,
   * upwards; `saveEvery`, `keepLast`, `keepBest`, `finalModel`, `samplePrompts`, `recompute`, `maxSkipped`; and, without early
   * stopping, `evalEvery` and `evalOnStart`. Default `{}`.
   */
  readonly identity?: Readonly<Record<string, unknown>>
}

export interface OptimizerOptions {
  /** Default 3e-4. */
  readonly learningRate?: number
  /** Default 0.01. */
  readonly weightDecay?: number
  /** Default [0.9, 0.95]. */
  readonly betas?: readonly [number, number]
  /** Default 1e-8. */
  readonly eps?: number
}

export interface TrainerSchedule {
  /** Steps of rise. Default a twentieth of all, at most 100; 20 with `minutes`. */
  readonly warmup?: number
  /** Default `cosine`. */
  readonly decay?: Decay
  /** Share of the peak at the end. Default 0.1. */
  readonly floor?: number
}

/** Options with defaults filled in. `steps` is null until `minutes` has been measured. */
export interface TrainerSettings
  extends Required<Omit<TrainerOptions, 'steps' | 'epochs' | 'minutes' | 'schedule'>> {
  readonly optimizer: Required<OptimizerOptions>
  /** `warmup` null: by the number of steps. */
  readonly schedule: Required<Omit<TrainerSchedule, 'warmup'>> & { readonly warmup: number | null }
  readonly steps: number | null
  readonly minutes: number | null
}

const OPTIONS: readonly (keyof TrainerOptions)[] = [
  'train',
  'adapter',
  'validation',
  'out',
  'batchSize',
  'accumulate',
  'steps',
  'epochs',
  'minutes',
  'optimizer',
  'schedule',
  'clipNorm',
  'dropout',
  'recompute',
  'seed',
  'saveEvery',
  'evalEvery',
  'evalOnStart',
  'evalRows',
  'keepLast',
  'keepBest',
  'finalModel',
  'earlyStopping',
  'samplePrompts',
  'maxSkipped',
  'resume',
  'overwrite',
  'identity',
]
const MANY = 2 ** 31 - 1

/** Steps whose speed decides how many `minutes` make. */
export const MEASURED_STEPS = 20

/** @throws ConfigError, ValueError naming the option */
export function completeOptions(options: TrainerOptions): TrainerSettings {
  const where = 'Trainer'
  checkGiven(where, options, OPTIONS)
  const integer = (name: keyof TrainerOptions, fallback: number, min: number): number =>
    checkInteger(where, name, options[name] ?? fallback, min, MANY)
  const interval = (name: 'saveEvery' | 'evalEvery', fallback: number): number => {
    const value = options[name] ?? fallback
    return typeof value === 'number' && value > 0 && value < 1 ? value : integer(name, fallback, 0)
  }
  checkOptions(`${where}: optimizer`, options.optimizer, ['learningRate', 'weightDecay', 'betas', 'eps'])
  checkOptions(`${where}: schedule`, options.schedule, ['warmup', 'decay', 'floor'])
  checkOptions(`${where}: earlyStopping`, options.earlyStopping ?? undefined, ['patience'])

  if (options.adapter != null && !(options.adapter instanceof LoraAdapter)) {
    throw new ConfigError(
      `${where}: adapter must be what addAdapter or loadAdapter returned, received ${JSON.stringify(options.adapter)}`,
    )
  }
  for (const name of ['train', 'validation'] as const) {
    const given: unknown = options[name]
    if (!(given instanceof TextDataset) && (name === 'train' || given != null)) {
      throw new ConfigError(`${where}: ${name} must be a TextDataset, received ${shown(given)}`)
    }
  }
  const lengths = [options.steps, options.epochs, options.minutes].filter((value) => value !== undefined)
  if (lengths.length !== 1) {
    throw new ConfigError(
      `${where}: give one of steps, epochs and minutes, received ${lengths.length} of them`,
    )
  }
  const batchSize = integer('batchSize', 8, 1)
  const accumulate = integer('accumulate', 1, 1)
  let steps: number | null = null
  if (options.steps !== undefined) steps = integer('steps', 0, 1)
  if (options.epochs !== undefined) {
    const epochs = checkNumber(where, 'epochs', options.epochs, { above: 0 })
    steps = Math.max(1, Math.ceil((epochs * options.train.rows) / (batchSize * accumulate)))
    checkInteger(where, 'steps of all epochs', steps, 1, MANY)
  }
  const minutes = options.minutes ?? null
  if (minutes !== null) checkNumber(where, 'minutes', minutes, { above: 0 })
  const dropout = checkNumber(where, 'dropout', options.dropout ?? 0, { from: 0, below: 1 })
  const clipNorm = checkNumber(where, 'clipNorm', options.clipNorm ?? 1, { from: 0 })
  const recompute = options.recompute ?? false
  if (typeof recompute !== 'boolean') checkInteger(where, 'recompute', recompute, 1, MANY)
  const { samplePrompts = [] } = options
  if (!Array.isArray(samplePrompts) || samplePrompts.some((prompt) => typeof prompt !== 'string')) {
    throw new ConfigError(`${where}: samplePrompts must be a list of texts`)
  }
  if (options.earlyStopping != null) {
    checkInteger(where, 'earlyStopping.patience', options.earlyStopping.patience, 1, MANY)
    if (options.validation == null) throw new ConfigError(`${where}: earlyStopping needs a validation set`)
  }
  if (options.evalOnStart && options.validation == null) {
    throw new ConfigError(`${where}: evalOnStart needs a validation set`)
  }
  if (options.keepBest && options.validation == null) {
    throw new ConfigError(`${where}: keepBest needs a validation set`)
  }
  const finalModel = checkName(where, 'finalModel', options.finalModel ?? 'last', ['last', 'best'])
  if (finalModel === 'best' && options.validation == null) {
    throw new ConfigError(`${where}: finalModel 'best' needs a validation set`)
  }
  if (typeof options.out !== 'string' || options.out === '') {
    throw new ConfigError(`${where}: out must name a folder, received ${shown(options.out)}`)
  }
  if (options.resume && options.overwrite) {
    throw new ConfigError(`${where}: resume and overwrite exclude each other`)
  }
  const { learningRate = 3e-4, weightDecay = 0.01, betas = [0.9, 0.95], eps = 1e-8 } = options.optimizer ?? {}
  const { warmup = null, decay = 'cosine', floor = 0.1 } = options.schedule ?? {}
  checkNumber(where, 'optimizer.learningRate', learningRate, { from: 0 })
  checkNumber(where, 'optimizer.weightDecay', weightDecay, { from: 0 })
  checkNumber(where, 'optimizer.eps', eps, { from: 0 })
  checkBetas(`${where}: optimizer`, betas)
  if (warmup !== null) checkInteger(where, 'schedule.warmup', warmup, 0, MANY)
  checkName(where, 'schedule.decay', decay, DECAYS)
  checkNumber(where, 'schedule.floor', floor, { from: 0, to: 1 })
  if (minutes !== null && warmup !== null && warmup < MEASURED_STEPS) {
    // the rates of measured steps may not depend on how many follow
    throw new ConfigError(
      `${where}: with minutes, schedule.warmup must be at least ${MEASURED_STEPS}, received ${warmup}`,
    )
  }
  // what is wrong is said before the folder of an earlier run is touched
  schedule({ learningRate, steps: steps ?? MEASURED_STEPS, warmup: warmup ?? 0, decay, floor })
  return {
    train: options.train,
    adapter: options.adapter ?? null,
    validation: options.validation ?? null,
    out: options.out,
    batchSize,
    accumulate,
    steps,
    minutes,
    optimizer: { learningRate, weightDecay, betas, eps },
    schedule: { warmup, decay, floor },
    clipNorm,
    dropout,
    recompute,
    seed: integer('seed', 0, 0),
    saveEvery: interval('saveEvery', 200),
    evalEvery: interval('evalEvery', 200),
    evalOnStart: options.evalOnStart ?? false,
    evalRows: integer('evalRows', MANY, 1),
    keepLast: integer('keepLast', 2, 1),
    keepBest: finalModel === 'best' || (options.keepBest ?? false),
    finalModel,
    earlyStopping: options.earlyStopping ?? null,
    samplePrompts,
    maxSkipped: integer('maxSkipped', 10, 1),
    resume: options.resume ?? false,
    overwrite: options.overwrite ?? false,
    identity: options.identity ?? {},
  }
}

/** Steps between two of something that an option asks for; a share is never more often than it says. */
export function stepsBetween(every: number, steps: number): number {
  return every > 0 && every < 1 ? Math.max(1, Math.ceil(every * steps)) : every
}

/** Steps of warm-up when nobody says; `steps` is null while `minutes` are not measured yet. */
export function defaultWarmup(steps: number | null): number {
  return steps === null ? MEASURED_STEPS : Math.max(1, Math.min(100, Math.ceil(steps / 20)))
}
