import { checkGiven, checkInteger, checkName, checkNumber } from '../runtime/options.ts'

export const DECAYS = ['constant', 'linear', 'cosine'] as const
export type Decay = (typeof DECAYS)[number]

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
 * @throws ConfigError, ValueError for values that cannot be
 */
export function schedule(options: ScheduleOptions): (step: number) => number {
  const where = 'schedule'
  checkGiven(where, options, ['learningRate', 'steps', 'warmup', 'decay', 'floor'])
  const learningRate = checkNumber(where, 'learningRate', options.learningRate, { from: 0 })
  const steps = checkInteger(where, 'steps', options.steps, 1, Number.MAX_SAFE_INTEGER)
  const warmup = checkInteger(where, 'warmup', options.warmup ?? 0, 0, Number.MAX_SAFE_INTEGER)
  const floor = checkNumber(where, 'floor', options.floor ?? 0, { from: 0, to: 1 })
  const decay = checkName(where, 'decay', options.decay ?? 'cosine', DECAYS)
  return (step) => {
    if (step < warmup) return (learningRate * (step + 1)) / warmup
    if (decay === 'constant') return learningRate
    const progress = Math.min(1, (step - warmup) / Math.max(1, steps - warmup))
    const left = decay === 'linear' ? 1 - progress : 0.5 * (1 + Math.cos(Math.PI * progress))
    return learningRate * (floor + (1 - floor) * left)
  }
}
