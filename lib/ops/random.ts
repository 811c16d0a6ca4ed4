// Counter-based random tensors: what element i is depends on the key and i alone.

import type { Device } from '../runtime/device.ts'
import { noGrad } from '../tensor/mode.ts'
import { scope } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { mul, sub } from './binary.ts'
import { cast } from './copy.ts'
import { type CreateOptions, empty, tensor } from './create.ts'
import { defineOp, shapeError } from './define.ts'
import { cos, log, sqrt } from './unary.ts'

export const uniformOp = defineOp({
  name: 'uniform',
  inputs: [
    { name: 'key', dtype: 'u32' },
    { name: 'y', dtype: ['f32', 'f64'], inPlace: true },
  ],
  outputs: [],
  infer: ([key]) => {
    if (key.rank !== 1 || key.shape[0] !== 4) throw shapeError('uniform', 'key', '[4]', key)
    return []
  },
  primitive: true,
  differentiable: false,
})

/**
 * The key of a random tensor: u32 [4].
 * @param seed whole, 0 to 2^53 - 1
 * @param options step of training, 0 when there is none; call tells apart the calls of one step
 */
export function randomKey(
  seed: number,
  { step = 0, call = 0, device }: { step?: number; call?: number; device?: Device } = {},
): Tensor {
  const words = [seed >>> 0, Math.floor(seed / 2 ** 32), step, call]
  return tensor(words, { dtype: 'u32', ...(device && { device }) })
}

/**
 * Uniform values in [0, 1), a pure function of key and element index (Philox4x32-10), so the same on
 * any device and number of threads. Not differentiable.
 * @param key u32 [4]; see {@link randomKey}
 * @param options dtype f32 or f64: 24 random bits a value
 */
export function uniform(
  shape: readonly number[],
  key: Tensor,
  options: { dtype?: 'f32' | 'f64' } = {},
): Tensor {
  const y = empty(shape, { ...options, device: key.device })
  uniformOp([key, y])
  return y
}

export interface NormalOptions extends CreateOptions {
  /** Standard deviation; 1 when not said. */
  readonly std?: number
}

/**
 * Values of N(0, std^2), a pure function of key and element index (Box-Muller in float32, then
 * rounded to the dtype).
 * @param key u32 [4]; see {@link randomKey}
 */
export function randn(shape: readonly number[], key: Tensor, options: NormalOptions = {}): Tensor {
  const { dtype = 'f32', std = 1, requiresGrad } = options
  const y = scope(() =>
    noGrad(() => {
      const pairs = uniform([2, ...shape], key)
      const u = sub(1, pairs.slice(0, 0, 1)).reshape(shape) // (0, 1]: its logarithm is finite
      const angle = mul(pairs.slice(0, 1, 2).reshape(shape), 2 * Math.PI)
      return cast(mul(mul(sqrt(mul(log(u), -2)), cos(angle)), std), dtype)
    }),
  )
  if (requiresGrad) y.requiresGrad = true
  return y
}
