import type { Tensor } from '../tensor/tensor.ts'
import { mul } from './binary.ts'
import { defineActivation } from './define-activation.ts'
import { sigmoid } from './unary.ts'

export const { forward: siluOp, backward: siluBackwardOp } = defineActivation('silu', (x) =>
  mul(x, sigmoid(x)),
)

/**
 * x / (1 + e^-x), also called swish; float32 inside.
 * @param x f32 | bf16, any shape
 * @returns like x
 * Source: Elfwing, Uchibe & Doya 2017
 */
export function silu(x: Tensor): Tensor {
  return siluOp([x])[0]
}
