import { hooks } from '../tensor/hooks.ts'
import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { defineOp, shapeError } from './define.ts'

export const addIntoOp = defineOp({
  name: 'add_into',
  inputs: [
    { name: 'target', dtype: 'float', layout: 'any', inPlace: true },
    { name: 'source', dtype: 'float', layout: 'any', mixed: true },
  ],
  outputs: [],
  infer: ([target, source]) => {
    if (!sameShape(target.shape, source.shape)) {
      throw shapeError('addInto', 'source', `[${target.shape}], like target`, source)
    }
    return []
  },
  primitive: true,
  differentiable: false,
})

/**
 * target += source, in place; source has its shape and any float dtype. Not differentiable: inside
 * `noGrad` for leaves.
 * @throws ShapeError
 */
export function addInto(target: Tensor, source: Tensor): void {
  addIntoOp([target, source])
}

hooks.addInto = addInto
