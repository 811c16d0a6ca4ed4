import type { Tensor } from '../tensor/tensor.ts'
import { mul } from './binary.ts'
import { defineActivation } from './define-activation.ts'
import { positivePart } from './relu.ts'

export const { forward: reluSquaredOp, backward: reluSquaredBackwardOp } = defineActivation(
  'relu_squared',
  (x) => {
    const part = positivePart(x)
    return mul(part, part)
  },
)

/**
 * max(x, 0)^2; float32 inside.
 * @param x f32 | bf16, any shape
 * @returns like x
 * Source: So et al. 2021 (Primer)
 */
export function reluSquared(x: Tensor): Tensor {
  return reluSquaredOp([x])[0]
}
