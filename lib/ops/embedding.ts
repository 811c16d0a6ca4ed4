import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { cast, copyInto } from './copy.ts'
import { zeros } from './create.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { scatterAdd, take } from './take.ts'

export const embeddingBackwardOp = defineOp({
  name: 'embedding.backward',
  inputs: [
    { name: 'dout', dtype: 'float', layout: 'rows', mixed: true },
    { name: 'ids', dtype: 'i32' },
    { name: 'dtable', dtype: ['f32', 'f64'], inPlace: true },
  ],
  outputs: [],
  attributes: ['accumulate'],
  infer: ([dout, ids, dtable]) => {
    const expected = [...ids.shape, ...dtable.shape.slice(1)]
    if (dtable.rank !== 2) throw shapeError('embedding.backward', 'dtable', '[V, D]', dtable)
    if (!sameShape(dout.shape, expected)) {
      throw shapeError('embedding.backward', 'dout', `[${expected}] to match ids and dtable`, dout)
    }
    return []
  },
  differentiable: false,
  reference: ([dout, ids, dtable], [accumulate]) => {
    const base = accumulate ? dtable : zeros(dtable.shape, { dtype: dtable.dtype, device: dtable.device })
    copyInto(dtable, scatterAdd(base, ids, cast(dout, dtable.dtype)))
    return []
  },
})

export const embeddingOp = defineOp({
  name: 'embedding',
  inputs: [
    { name: 'ids', dtype: 'i32' },
    { name: 'table', dtype: 'float', layout: 'rows' },
  ],
  outputs: [{ name: 'out' }],
  infer: ([ids, table]) => {
    if (table.rank !== 2) throw shapeError('embedding', 'table', '[V, D]', table)
    return [spec([...ids.shape, table.shape[1] as number], table.dtype)]
  },
  reference: ([ids, table]) => [take(table, ids)],
  saves: ['ids'],
  vjp: ({ inputs: [ids], grads: [dout], gradTarget }) => {
    const { tensor, accumulate } = gradTarget(1)
    embeddingBackwardOp([dout, ids, tensor], [accumulate])
    return [null, tensor]
  },
})

/**
 * Rows of a table by token id. The gradient of the table is float32, summed in token order.
 * @param ids i32, any shape, usually [B, T]
 * @param table [V, D] f32 | bf16
 * @returns ids.shape + [D], dtype of the table
 * @throws ShapeError if table is not [V, D]; ValueError (when read) naming the position of an id
 *   outside [0, V), before anything is read
 */
export function embedding(ids: Tensor, table: Tensor): Tensor {
  return embeddingOp([ids, table])[0]
}
