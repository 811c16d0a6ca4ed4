// Rows by index, and the sum of rows by index that is its gradient.

import { elementCount, normalAxis, sameShape } from '../tensor/layout.ts'
import { installMethods } from '../tensor/methods.ts'
import { scope } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add, less, lessEqual, mul, where } from './binary.ts'
import { contiguous } from './copy.ts'
import { full, iota } from './create.ts'
import { defineOp, shapeError, spec } from './define.ts'

export const takeOp = defineOp({
  name: 'take',
  inputs: [{ name: 'table' }, { name: 'ids', dtype: 'i32' }],
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
  inputs: [{ name: 'base' }, { name: 'ids', dtype: 'i32' }, { name: 'rows' }],
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
 * base with rows added at ids, in the order of ids and rounded once per row of base: the same on any
 * number of threads.
 * @param base [V, ...]
 * @param ids i32, any shape
 * @param rows ids.shape + base.shape[1:]
 * @throws ShapeError; ValueError (when read) for an id outside [0, V)
 */
export function scatterAdd(base: Tensor, ids: Tensor, rows: Tensor): Tensor {
  return scatterAddOp([base, ids, rows])[0]
}

/**
 * Slices of an axis by index: y[.., i, ..] = x[.., ids[i], ..].
 * @param ids i32 [n]
 * @returns like x, with n for the size of the axis
 * @throws ShapeError for an axis outside the rank or ids that are no vector; ValueError (when read) for
 *   an id outside the axis
 */
export function indexSelect(x: Tensor, axis: number, ids: Tensor): Tensor {
  const at = normalAxis('indexSelect', axis, x.rank)
  if (ids.rank !== 1) throw shapeError('indexSelect', 'ids', 'of rank 1', ids)
  if (at === 0) return take(x, ids)
  return scope(() => contiguous(take(x.transpose(0, at), ids).transpose(0, at)))
}

/**
 * One element per index along an axis: y[i, j] = x[i, index[i, j]] for the last of two axes.
 * @param index i32, of x's rank and, but for the axis, x's shape
 * @returns index.shape
 * @throws ShapeError when the shapes do not fit; ValueError (when read) for an index outside x
 */
export function gather(x: Tensor, axis: number, index: Tensor): Tensor {
  const at = normalAxis('gather', axis, x.rank)
  const fits = index.rank === x.rank && index.shape.every((n, i) => i === at || n === x.shape[i])
  if (!fits) throw shapeError('gather', 'index', `[${x.shape}] but for axis ${at}`, index)
  const size = x.shape[at] as number
  return scope(() => {
    const last = x.transpose(at, -1)
    const wanted = index.transpose(at, -1)
    const rows = elementCount(last.shape.slice(0, -1))
    const start = iota(rows, { step: size, device: x.device }).unsqueeze(1)
    const flat = add(wanted.reshape([rows, wanted.shape.at(-1) as number]), start)
    // an index outside its row would name an element of another one: sent outside all instead
    const inside = mul(lessEqual(0, wanted), less(wanted, size)).reshape(flat.shape)
    const ids = where(inside, flat, full([], -1, { dtype: 'i32', device: x.device }))
    return contiguous(
      take(last.reshape([rows * size]), ids)
        .reshape(wanted.shape)
        .transpose(at, -1),
    )
  })
}

declare module '../tensor/tensor.ts' {
  interface Tensor {
    /** {@link take}(this, ids). */
    take(ids: Tensor): Tensor
    /** {@link indexSelect}(this, axis, ids). */
    indexSelect(axis: number, ids: Tensor): Tensor
    /** {@link gather}(this, axis, index). */
    gather(axis: number, index: Tensor): Tensor
  }
}

installMethods({ take, indexSelect, gather })
