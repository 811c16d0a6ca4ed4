import type { Tensor } from '../tensor/tensor.ts'
import { mul, sub } from './binary.ts'
import { cast, copyInto } from './copy.ts'
import { type CreateOptions, empty } from './create.ts'
import { defineOp, shapeError } from './define.ts'
import { uniform } from './random.ts'
import { cos, log, sqrt } from './unary.ts'

const PHILOX_GROUP = 64 // elements of one call of the generator (native/cpu/philox.h)

export const normalOp = defineOp({
  name: 'normal',
  inputs: [
    { name: 'key', dtype: 'u32' },
    { name: 'y', dtype: 'float', inPlace: true },
  ],
  outputs: [],
  attributes: ['std'],
  infer: ([key]) => {
    if (key.rank !== 1 || key.shape[0] !== 4) throw shapeError('normal', 'key', '[4]', key)
    return []
  },
  reference: ([key, y], [std]) => {
    const second = Math.ceil(y.size / PHILOX_GROUP) * PHILOX_GROUP
    const u = uniform([second + y.size], key, { dtype: 'f64' })
    const radius = sqrt(mul(log(sub(1, u.slice(0, 0, y.size))), -2))
    const angle = mul(u.slice(0, second), 2 * Math.PI)
    copyInto(y, cast(mul(mul(radius, cos(angle)), std).reshape(y.shape), y.dtype))
    return []
  },
  differentiable: false,
})

export interface NormalOptions extends CreateOptions {
  /** Standard deviation; 1 when not said. */
  readonly std?: number
}

/**
 * Values of N(0, std^2), a pure function of key and element index (Philox4x32-10, Box-Muller in
 * float32, then rounded to the dtype): the same on any number of threads. Not differentiable.
 * @param key u32 [4]; see `randomKey`
 * @throws ShapeError when the key is not [4]
 * Source: Box & Muller 1958
 */
export function randn(shape: readonly number[], key: Tensor, options: NormalOptions = {}): Tensor {
  const { dtype = 'f32', std = 1, requiresGrad } = options
  const y = empty(shape, { dtype, device: key.device })
  normalOp([key, y], [std])
  if (requiresGrad) y.requiresGrad = true
  return y
}
