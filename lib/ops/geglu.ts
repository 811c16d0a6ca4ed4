import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { mul } from './binary.ts'
import { cast } from './copy.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { composedGelu, type GeluApproximation, geluCode } from './gelu.ts'

export const gegluBackwardOp = defineOp({
  name: 'geglu.backward',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'gate', dtype: 'float', layout: 'rows' },
    { name: 'up', dtype: 'float', layout: 'rows' },
  ],
  outputs: [{ name: 'dgate' }, { name: 'dup' }],
  attributes: ['approximate'],
  infer: ([, gate, up]) => [spec(gate.shape, gate.dtype), spec(up.shape, up.dtype)],
  differentiable: false,
  reference: { gradientOf: 'geglu' },
})

export const gegluOp = defineOp({
  name: 'geglu',
  inputs: [
    { name: 'gate', dtype: 'float', layout: 'rows' },
    { name: 'up', dtype: 'float', layout: 'rows' },
  ],
  outputs: [{ name: 'y' }],
  attributes: ['approximate'],
  infer: ([gate, up]) => {
    if (!sameShape(gate.shape, up.shape)) throw shapeError('geglu', 'up', `[${gate.shape}] like gate`, up)
    return [spec(gate.shape, gate.dtype)]
  },
  reference: ([gate, up], [approximate]) => {
    const wide = gate.dtype === 'f64' ? 'f64' : 'f32'
    return [cast(mul(composedGelu(cast(gate, wide), approximate), cast(up, wide)), gate.dtype)]
  },
  vjp: ({ inputs: [gate, up], attributes, grads: [dy] }) => gegluBackwardOp([dy, gate, up], attributes),
})

/**
 * gelu(gate) * up, the gate of a GEGLU MLP; float32 inside.
 * @param gate f32 | bf16, any shape
 * @param up like gate
 * @param options approximate: of gelu; 'none' when not said
 * @returns like gate
 * @throws ShapeError if the shapes or dtypes differ, ConfigError for an unknown approximation
 * Source: Shazeer 2020
 */
export function geglu(
  gate: Tensor,
  up: Tensor,
  { approximate = 'none' }: { readonly approximate?: GeluApproximation } = {},
): Tensor {
  return gegluOp([gate, up], [geluCode('geglu', approximate)])[0]
}
