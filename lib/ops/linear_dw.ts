// Gradients of a linear layer's weight and bias, for every op that has one.

import type { Tensor } from '../tensor/tensor.ts'
import { addInto } from './add-into.ts'
import { cast, copyInto } from './copy.ts'
import { defineOp, type GradTarget, shapeError } from './define.ts'
import { matmul } from './matmul.ts'
import { sum } from './reduce.ts'

export const linearDwOp = defineOp({
  name: 'linear.dw',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'x', dtype: 'float', layout: 'rows' },
    { name: 'dw', dtype: ['f32', 'f64'], inPlace: true },
    { name: 'dbias', dtype: ['f32', 'f64'], inPlace: true, optional: true },
  ],
  outputs: [],
  attributes: ['accumulate'],
  infer: ([dy, x, dw]) => {
    const expected = [dy.shape.at(-1) ?? 0, x.shape.at(-1) ?? 0]
    if (dw.rank !== 2 || dw.shape[0] !== expected[0] || dw.shape[1] !== expected[1]) {
      throw shapeError('linear.dw', 'dw', `[${expected}] to match dy [${dy.shape}] and x [${x.shape}]`, dw)
    }
    return []
  },
  differentiable: false,
  reference: ([dy, x, dw, dbias], [accumulate]) => {
    const write = accumulate === 0 ? copyInto : addInto
    write(dw, cast(matmul(rowsOf(dy).transpose(), rowsOf(x)), dw.dtype))
    if (dbias !== null) write(dbias, sum(cast(rowsOf(dy), dbias.dtype), [0]))
    return []
  },
  flops: ([dy, x]) => 2 * size(dy.shape) * (x.shape.at(-1) ?? 0),
})

/** @internal Gradients of weight and bias into their targets, null where one is not wanted. */
export function linearGradients(
  dy: Tensor,
  x: Tensor,
  dw: GradTarget | null,
  dbias: GradTarget | null,
): [dw: Tensor | null, dbias: Tensor | null] {
  // the kernel has one `accumulate` for both; a bias without its weight, or beside one that was
  // shared elsewhere, is summed apart
  const together = dw !== null && dbias?.accumulate === dw.accumulate
  if (dw !== null) linearDwOp([dy, x, dw.tensor, together ? dbias.tensor : null], [dw.accumulate])
  if (dbias !== null && !together) {
    const write = dbias.accumulate ? addInto : copyInto
    write(dbias.tensor, sum(cast(rowsOf(dy), dbias.tensor.dtype), [0]))
  }
  return [dw?.tensor ?? null, dbias?.tensor ?? null]
}

/** [..., D] as [rows, D]. */
function rowsOf(x: Tensor): Tensor {
  const rows = size(x.shape.slice(0, -1))
  return x.rank === 2 ? x : x.reshape([rows, x.shape.at(-1) ?? 0])
}

function size(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1)
}
