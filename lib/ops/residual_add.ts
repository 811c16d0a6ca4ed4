import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add } from './binary.ts'
import { defineOp, shapeError, spec } from './define.ts'

export const residualAddOp = defineOp({
  name: 'residual_add',
  inputs: [
    { name: 'x', dtype: 'float', layout: 'rows' },
    { name: 'y', dtype: 'float', layout: 'rows' },
  ],
  outputs: [{ name: 'z' }],
  infer: ([x, y]) => {
    if (!sameShape(x.shape, y.shape)) throw shapeError('residualAdd', 'y', `[${x.shape}] like x`, y)
    return [spec(x.shape, x.dtype)]
  },
  reference: ([x, y]) => [add(x, y)],
  saves: [],
  vjp: ({ grads: [dz] }) => [dz, dz],
})

/**
 * x + y without broadcasting: the residual stream's addition, at memory bandwidth.
 * @param x f32 | bf16, any shape
 * @param y like x
 * @returns like x
 * @throws ShapeError if the shapes or dtypes differ
 */
export function residualAdd(x: Tensor, y: Tensor): Tensor {
  return residualAddOp([x, y])[0]
}
