// Rows by index, and the sum of rows by index that is its gradient.

import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { full } from './create.ts'
import { defineOp, shapeError, spec } from './define.ts'

export const takeOp = defineOp({
  name: 'take',
  inputs: [{ name: 'table' }, { name: 'ids', dtype: 'i32', layout: 'any' }],
  outputs: [{ name: 'y' }],
  infer: ([table, ids]) => {
    if (table.rank < 1) throw shapeError('take', 'table', 'of rank 1 or more', table)
    return [spec([...ids.shape, ...table.shape.slice(1)], table.dtype)]
  },
  primitive: true,
  saves: ['ids'],
  vjp: ({ inputs: [table, ids], grads: [dy] }) => {
    const zero = full(table.shape, 0, { dtype: dy.dtype, device: dy.device })
    return [scatterAdd(zero, ids, dy), null]
  },
})

export const scatterAddOp = defineOp({
  name: 'scatter_add',
  inputs: [{ name: 'base' }, { name: 'ids', dtype: 'i32', layout: 'any' }, { name: 'rows' }],
  outputs: [{ name: 'y' }],
  infer: ([base, ids, rows]) => {
    const expected = [...ids.shape, ...base.shape.slice(1)]
    if (base.rank < 1) throw shapeError('scatterAdd', 'base', 'of rank 1 or more', base)
    if (!sameShape(rows.shape, expected))
      throw shapeError('scatterAdd', 'rows', `[${expected}] to match ids and base`, rows)
    if (rows.dtype !== base.dtype) throw shapeError('scatterAdd', 'rows', `${base.dtype} like base`, rows)
    return [spec(base.shape, base.dtype)]
  },
  primitive: true,
  saves: ['ids'],
  vjp: ({ inputs: [, ids], grads: [dy] }) => [dy, null, take(dy, ids)],
})

/**
 * Rows of a table: y[i, ...] = table[ids[i], ...].
 * @param table [V, ...]
 * @param ids i32, any shape
 * @returns ids.shape + table.shape[1:]
 * @throws ValueError (when read) for an id outside [0, V)
 */
export function take(table: Tensor, ids: Tensor): Tensor {
  return takeOp([table, ids])[0]
}

/**
 * base with rows added at ids, in the order of ids: the same on any number of threads.
 * @param base [V, ...]
 * @param ids i32, any shape
 * @param rows ids.shape + base.shape[1:]
 * @throws ShapeError; ValueError (when read) for an id outside [0, V)
 */
export function scatterAdd(base: Tensor, ids: Tensor, rows: Tensor): Tensor {
  return scatterAddOp([base, ids, rows])[0]
}
