import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { mul } from './binary.ts'
import { cast } from './copy.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { sigmoid } from './unary.ts'

export const swigluBackwardOp = defineOp({
  name: 'swiglu.backward',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'gate', dtype: 'float', layout: 'rows' },
    { name: 'up', dtype: 'float', layout: 'rows' },
  ],
  outputs: [{ name: 'dgate' }, { name: 'dup' }],
  infer: ([, gate, up]) => [spec(gate.shape, gate.dtype), spec(up.shape, up.dtype)],
  differentiable: false,
  reference: { gradientOf: 'swiglu' },
})

export const swigluOp = defineOp({
  name: 'swiglu',
  inputs: [
    { name: 'gate', dtype: 'float', layout: 'rows' },
    { name: 'up', dtype: 'float', layout: 'rows' },
  ],
  outputs: [{ name: 'y' }],
  infer: ([gate, up]) => {
    if (!sameShape(gate.shape, up.shape)) throw shapeError('swiglu', 'up', `[${gate.shape}] like gate`, up)
    return [spec(gate.shape, gate.dtype)]
  },
  reference: ([gate, up]) => {
    const wide = gate.dtype === 'f64' ? 'f64' : 'f32'
    const g = cast(gate, wide)
    return [cast(mul(mul(g, sigmoid(g)), cast(up, wide)), gate.dtype)]
  },
  vjp: ({ inputs: [gate, up], grads: [dy] }) => swigluBackwardOp([dy, gate, up]),
})

/**
 * The gate of a LLaMA MLP, silu(gate) * up with silu(g) = g / (1 + e^-g); float32 inside.
 * @param gate f32 | bf16, any shape
 * @param up like gate
 * @returns like gate
 * @throws ShapeError if the shapes or dtypes differ
 * Source: Shazeer 2020
 */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  return swigluOp([gate, up])[0]
}
