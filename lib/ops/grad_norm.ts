import type { Tensor } from '../tensor/tensor.ts'
import { add, mul } from './binary.ts'
import { cast } from './copy.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { sum } from './reduce.ts'
import { sqrt } from './unary.ts'

export const gradNormOp = defineOp({
  name: 'grad_norm',
  inputs: [],
  group: [{ name: 'grad', dtype: 'f32' }],
  outputs: [{ name: 'norm' }],
  infer: (_inputs, _attributes, groups) => {
    if (groups.length === 0) throw shapeError('gradNorm', 'gradients', 'at least one tensor', [])
    return [spec([], 'f32')]
  },
  reference: (_inputs, _attributes, groups) => {
    let total: Tensor | null = null
    for (const [grad] of groups) {
      const wide = cast(grad, 'f64')
      const square = sum(mul(wide, wide))
      total = total === null ? square : add(total, square)
    }
    return [total === null ? null : cast(sqrt(total), 'f32')]
  },
  differentiable: false,
})

/**
 * L2 norm of all gradients taken together; squares are summed in float64.
 * @param gradients f32, any shapes, at least one
 * @returns f32 scalar
 * @throws ShapeError for none, or for one that is not f32
 */
export function gradNorm(gradients: readonly Tensor[]): Tensor {
  return gradNormOp(
    [],
    [],
    gradients.map((gradient) => [gradient] as const),
  )[0]
}
