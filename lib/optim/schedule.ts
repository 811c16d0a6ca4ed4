import { ConfigError } from '../runtime/errors.ts'

export type Decay = 'constant' | 'linear' | 'cosine'

export interface ScheduleOptions {
  /** Learning rate at the end of the warm-up. */
  readonly learningRate: number
  /** Optimizer steps in all; the decay ends there. */
  readonly steps: number
  /** Steps of linear rise to the peak, which step `warmup - 1` has. Default 0. */
  readonly warmup?: number
  /** What follows the warm-up. Default `cosine`. */
  readonly decay?: Decay
  /** Share of the peak that the decay ends at. Default 0. */
  readonly floor?: number
}

/**
 * Learning rate of an optimizer step, counted from 0: one value per optimizer step, not per
 * micro-batch.
 * @throws ConfigError for values that cannot be
 */
export function schedule(options: ScheduleOptions): (step: number) => number {
  const { learningRate, steps, warmup = 0, decay = 'cosine', floor = 0 } = options
  const nonNegative = (name: string, value: number): void => {
    if (!(value >= 0 && Number.isFinite(value))) {
      throw new ConfigError(`schedule: ${name} must be a number >= 0, received ${value}`)
    }
  }
  nonNegative('learningRate', learningRate)
  nonNegative('steps', steps)
  nonNegative('warmup', warmup)
  if (!(floor >= 0 && floor <= 1))
    throw new ConfigError(`schedule: floor must be in [0, 1], received ${floor}`)
  if (decay !== 'constant' && decay !== 'linear' && decay !== 'cosine') {
    throw new ConfigError(`schedule: decay must be constant, linear or cosine, received '${String(decay)}'`)
  }
  return (step) => {
    if (step < warmup) return (learningRate * (step + 1)) / warmup
    if (decay === 'constant') return learningRate
    const progress = Math.min(1, (step - warmup) / Math.max(1, steps - warmup))
    const left = decay === 'linear' ? 1 - progress : 0.5 * (1 + Math.cos(Math.PI * progress))
    return learningRate * (floor + (1 - floor) * left)
  }
}
