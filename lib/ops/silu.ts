import type { Tensor } from '../tensor/tensor.ts'
import { mul } from './binary.ts'
import { cast } from './copy.ts'
import { defineOp, spec } from './define.ts'
import { sigmoid } from './unary.ts'

export const siluBackwardOp = defineOp({
  name: 'silu.backward',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'x', dtype: 'float', layout: 'rows' },
  ],
  outputs: [{ name: 'dx' }],
  infer: ([, x]) => [spec(x.shape, x.dtype)],
  differentiable: false,
  reference: { gradientOf: 'silu' },
})

export const siluOp = defineOp({
  name: 'silu',
  inputs: [{ name: 'x', dtype: 'float', layout: 'rows' }],
  outputs: [{ name: 'y' }],
  infer: ([x]) => [spec(x.shape, x.dtype)],
  reference: ([x]) => {
    const a = cast(x, x.dtype === 'f64' ? 'f64' : 'f32')
    return [cast(mul(a, sigmoid(a)), x.dtype)]
  },
  vjp: ({ inputs: [x], grads: [dy] }) => siluBackwardOp([dy, x]),
})

/**
 * x / (1 + e^-x), also called swish; float32 inside.
 * @param x f32 | bf16, any shape
 * @returns like x
 * Source: Elfwing, Uchibe & Doya 2017
 */
export function silu(x: Tensor): Tensor {
  return siluOp([x])[0]
}
