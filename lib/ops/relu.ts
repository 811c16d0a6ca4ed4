import type { Tensor } from '../tensor/tensor.ts'
import { equal, less, where } from './binary.ts'
import { full } from './create.ts'
import { defineOp, spec } from './define.ts'

export const reluBackwardOp = defineOp({
  name: 'relu.backward',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'x', dtype: 'float', layout: 'rows' },
  ],
  outputs: [{ name: 'dx' }],
  infer: ([, x]) => [spec(x.shape, x.dtype)],
  differentiable: false,
  reference: { gradientOf: 'relu' },
})

export const reluOp = defineOp({
  name: 'relu',
  inputs: [{ name: 'x', dtype: 'float', layout: 'rows' }],
  outputs: [{ name: 'y' }],
  infer: ([x]) => [spec(x.shape, x.dtype)],
  reference: ([x]) => [positivePart(x)],
  vjp: ({ inputs: [x], grads: [dy] }) => reluBackwardOp([dy, x]),
})

/** max(x, 0) with gradient 0 at 0; composed of primitives. NaN stays. */
export function positivePart(x: Tensor): Tensor {
  return where(less(0, x), x, where(equal(x, x), full([], 0, x), x))
}

/**
 * max(x, 0); its gradient at 0 is 0.
 * @param x f32 | bf16, any shape
 * @returns like x
 */
export function relu(x: Tensor): Tensor {
  return reluOp([x])[0]
}
