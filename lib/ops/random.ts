// Counter-based random tensors: what element i is depends on the key and i alone.

import type { Device } from '../runtime/device.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { empty, tensor } from './create.ts'
import { defineOp, shapeError } from './define.ts'

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
