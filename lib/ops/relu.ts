import type { Tensor } from '../tensor/tensor.ts'
import { equal, less, where } from './binary.ts'
import { full } from './create.ts'
import { defineActivation } from './define-activation.ts'

export const { forward: reluOp, backward: reluBackwardOp } = defineActivation('relu', positivePart)

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
