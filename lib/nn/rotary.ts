// Rotary frequencies of every kind of scaling: Hugging Face's definitions (modeling_rope_utils.py),
// computed once in float64, so that kernels see frequencies and a factor and no kinds.

import { tensor } from '../ops/create.ts'
import { rope } from '../ops/rope.ts'
import type { Device } from '../runtime/device.ts'
import { ConfigError } from '../runtime/errors.ts'
import { keep } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'

/** How frequencies change for contexts longer than those trained on; keys are Hugging Face's. */
export type RopeScaling =
  /** All frequencies divided by `factor`. Source: kaiokendev 2023; Chen et al. 2023 */
  | { readonly ropeType: 'linear'; readonly factor: number }
  /** Theta grows with a sequence past maxPositionEmbeddings. Source: NTK-aware scaling, emozilla 2023 */
  | { readonly ropeType: 'dynamic'; readonly factor: number }
  /** Long waves divided by `factor`, short ones left, a ramp between. Source: Llama 3.1 */
  | {
      readonly ropeType: 'llama3'
      readonly factor: number
      readonly lowFreqFactor: number
      readonly highFreqFactor: number
      /** Default maxPositionEmbeddings. */
      readonly originalMaxPositionEmbeddings?: number
    }
  /** Ramp over the number of turns in the original context. Source: Peng et al. 2023 (YaRN) */
  | {
      readonly ropeType: 'yarn'
      /** Default maxPositionEmbeddings / originalMaxPositionEmbeddings. */
      readonly factor?: number
      /** Default maxPositionEmbeddings. */
      readonly originalMaxPositionEmbeddings?: number
      /** Default 0.1 ln(factor) + 1, or by mscale and mscaleAllDim. */
      readonly attentionFactor?: number
      /** Default 32. */
      readonly betaFast?: number
      /** Default 1. */
      readonly betaSlow?: number
      readonly mscale?: number
      readonly mscaleAllDim?: number
      /** The ramp begins and ends at whole pairs. Default true. */
      readonly truncate?: boolean
    }
  /** A divisor per pair, others for sequences past the original length. Source: Ding et al. 2024 */
  | {
      readonly ropeType: 'longrope'
      readonly shortFactor: readonly number[]
      readonly longFactor: readonly number[]
      /** Default maxPositionEmbeddings / originalMaxPositionEmbeddings. */
      readonly factor?: number
      /** Default maxPositionEmbeddings. */
      readonly originalMaxPositionEmbeddings?: number
      /** Default sqrt(1 + ln(factor) / ln(originalMaxPositionEmbeddings)). */
      readonly attentionFactor?: number
    }

export interface RotaryConfig {
  /** Elements of a head that turn; even. */
  readonly rotarySize: number
  readonly ropeTheta: number
  readonly maxPositionEmbeddings: number
  /** Default null: none. */
  readonly ropeScaling?: RopeScaling | null
}

export interface RopeFrequencies {
  /** One per pair, float32 values. */
  readonly frequencies: Float32Array
  readonly attentionFactor: number
}

/**
 * Inverse frequencies and the factor on the rotation, for a sequence that spans `length` positions
 * (only dynamic and longrope ask; within the trained context when not said).
 * @throws ConfigError when lists of longrope do not have rotarySize / 2 entries
 */
export function ropeFrequencies(config: RotaryConfig, length = 0): RopeFrequencies {
  const { rotarySize: size, ropeTheta: theta, ropeScaling: scaling = null } = config
  const most = config.maxPositionEmbeddings
  const waves = (base: number, change: (frequency: number, pair: number) => number): Float32Array =>
    Float32Array.from({ length: size / 2 }, (_, i) => change(base ** ((-2 * i) / size), i))
  const plain = (frequency: number): number => frequency
  if (scaling === null) return { frequencies: waves(theta, plain), attentionFactor: 1 }
  switch (scaling.ropeType) {
    case 'linear':
      return { frequencies: waves(theta, (f) => f / scaling.factor), attentionFactor: 1 }
    case 'dynamic': {
      const { factor } = scaling
      const stretch = (factor * Math.max(length, most)) / most - (factor - 1)
      const base = size > 2 ? theta * stretch ** (size / (size - 2)) : theta
      return { frequencies: waves(base, plain), attentionFactor: 1 }
    }
    case 'llama3': {
      const { factor, lowFreqFactor: low, highFreqFactor: high } = scaling
      const original = scaling.originalMaxPositionEmbeddings ?? most
      // turns in the original context: below `low` interpolated, above `high` left
      const ramp = (f: number): number =>
        Math.min(1, Math.max(0, ((original * f) / (2 * Math.PI) - low) / (high - low)))
      const mixed = (f: number): number => ((1 - ramp(f)) * f) / factor + ramp(f) * f
      return { frequencies: waves(theta, mixed), attentionFactor: 1 }
    }
    case 'yarn': {
      const original = scaling.originalMaxPositionEmbeddings ?? most
      const factor = scaling.factor ?? most / original
      const { betaFast = 32, betaSlow = 1, truncate = true } = scaling
      const pairOf = (turns: number): number =>
        (size * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(theta))
      const whole = (pair: number, round: (x: number) => number): number => (truncate ? round(pair) : pair)
      const first = Math.max(whole(pairOf(betaFast), Math.floor), 0)
      const end = Math.min(whole(pairOf(betaSlow), Math.ceil), size - 1)
      const span = end === first ? 0.001 : end - first
      const mixed = (f: number, pair: number): number => {
        const interpolated = Math.min(1, Math.max(0, (pair - first) / span))
        return (f / factor) * interpolated + f * (1 - interpolated)
      }
      return { frequencies: waves(theta, mixed), attentionFactor: yarnFactor(scaling, factor) }
    }
    case 'longrope': {
      const original = scaling.originalMaxPositionEmbeddings ?? most
      const factor = scaling.factor ?? most / original
      const divisors = length > original ? scaling.longFactor : scaling.shortFactor
      if (divisors.length !== size / 2) {
        throw new ConfigError(
          `rope scaling: shortFactor and longFactor must have ${size / 2} entries, one per pair, received ${divisors.length}`,
        )
      }
      const attentionFactor =
        scaling.attentionFactor ?? (factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original)))
      return { frequencies: waves(theta, (f, pair) => f / (divisors[pair] ?? 1)), attentionFactor }
    }
    default:
      return scaling satisfies never
  }
}

function yarnFactor(scaling: Extract<RopeScaling, { ropeType: 'yarn' }>, factor: number): number {
  const scale = (m: number): number => (factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1)
  const { attentionFactor, mscale, mscaleAllDim } = scaling
  if (attentionFactor !== undefined) return attentionFactor
  return mscale && mscaleAllDim ? scale(mscale) / scale(mscaleAllDim) : scale(1)
}

/** Where heads stand. */
export interface RotaryPlace {
  /** i32 [T] or [B, T]; 0, 1, 2, ... when not said. */
  readonly positions?: Tensor | null | undefined
  /** Positions that the sequence spans, for dynamic and longrope; T when not said. */
  readonly length?: number | undefined
}

/** The rotary positions of a model: keeps the scaled frequencies on its device. */
export class Rotary {
  readonly #config: RotaryConfig
  readonly #device: Device
  // of the last length that asked for others; only dynamic and longrope have more than one
  #frequencies: Tensor | null = null
  #attentionFactor = 1
  #regime = Number.NaN

  constructor(config: RotaryConfig, device: Device) {
    this.#config = config
    this.#device = device
  }

  /**
   * Turns heads.
   * @param x [B, T, H, D]
   */
  forward(x: Tensor, { positions = null, length = x.shape[1] ?? 0 }: RotaryPlace = {}): Tensor {
    const { ropeTheta: theta, rotarySize } = this.#config
    this.#prepare(length)
    return rope(x, {
      positions,
      theta,
      rotarySize,
      frequencies: this.#frequencies,
      attentionFactor: this.#attentionFactor,
    })
  }

  dispose(): void {
    this.#frequencies?.dispose()
    this.#frequencies = null
    this.#regime = Number.NaN
  }

  #prepare(length: number): void {
    const { ropeScaling: scaling = null, maxPositionEmbeddings } = this.#config
    if (scaling === null) return // the kernel's own
    const original =
      scaling.ropeType === 'longrope'
        ? (scaling.originalMaxPositionEmbeddings ?? maxPositionEmbeddings)
        : maxPositionEmbeddings
    const regime =
      scaling.ropeType === 'dynamic'
        ? Math.max(length, original)
        : scaling.ropeType === 'longrope'
          ? Number(length > original)
          : 0
    if (regime === this.#regime && this.#frequencies?.disposed === false) return
    const { frequencies, attentionFactor } = ropeFrequencies(this.#config, length)
    this.dispose()
    this.#frequencies = keep(tensor(frequencies, { dtype: 'f32', device: this.#device }))
    this.#attentionFactor = attentionFactor
    this.#regime = regime
  }
}
