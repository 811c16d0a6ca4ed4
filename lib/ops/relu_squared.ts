import type { Tensor } from '../tensor/tensor.ts'
import { mul } from './binary.ts'
import { cast } from './copy.ts'
import { defineOp, spec } from './define.ts'
import { positivePart } from './relu.ts'

export const reluSquaredBackwardOp = defineOp({
  name: 'relu_squared.backward',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'x', dtype: 'float', layout: 'rows' },
  ],
  outputs: [{ name: 'dx' }],
  infer: ([, x]) => [spec(x.shape, x.dtype)],
  differentiable: false,
  reference: { gradientOf: 'relu_squared' },
})

export const reluSquaredOp = defineOp({
  name: 'relu_squared',
  inputs: [{ name: 'x', dtype: 'float', layout: 'rows' }],
  outputs: [{ name: 'y' }],
  infer: ([x]) => [spec(x.shape, x.dtype)],
  reference: ([x]) => {
    const a = positivePart(cast(x, x.dtype === 'f64' ? 'f64' : 'f32'))
    return [cast(mul(a, a), x.dtype)]
  },
  vjp: ({ inputs: [x], grads: [dy] }) => reluSquaredBackwardOp([dy, x]),
})

/**
 * max(x, 0)^2; float32 inside.
 * @param x f32 | bf16, any shape
 * @returns like x
 * Source: So et al. 2021 (Primer)
 */
export function reluSquared(x: Tensor): Tensor {
  return reluSquaredOp([x])[0]
}
