// Reductions over axes.

import { argmaxOp, maxOp, sumOp } from '../../lib/ops/reduce.ts'
import { type CaseTable, defineCases } from './cases.ts'

/** Axes of a reduction as its attribute holds them. */
const mask = (...axes: number[]): number => axes.reduce((m, axis) => m | (1 << axis), 0)

const reduction: CaseTable = {
  cases: [
    { name: 'all', inputs: { x: [3, 17] }, attributes: { axes: mask(0, 1) } },
    { name: 'rows', inputs: { x: [5, 127] }, attributes: { axes: mask(1) } },
    { name: 'columns', inputs: { x: [31, 9] }, attributes: { axes: mask(0) } },
    { name: 'middle', inputs: { x: [3, 5, 7] }, attributes: { axes: mask(1) } },
    { name: 'outer two', inputs: { x: [3, 5, 7] }, attributes: { axes: mask(0, 1) } },
    { name: 'padded', inputs: { x: { shape: [4, 33], strides: 'padded' } }, attributes: { axes: mask(1) } },
    {
      name: 'transposed',
      inputs: { x: { shape: [15, 7], strides: 'transposed' } },
      attributes: { axes: mask(1) },
    },
    { name: 'outliers', inputs: { x: { shape: [3, 257], fill: 'outliers' } }, attributes: { axes: mask(1) } },
    { name: 'no rows', inputs: { x: [0, 5] }, attributes: { axes: mask(1) } },
  ],
}

export default [
  defineCases(sumOp, reduction),
  defineCases(maxOp, reduction),
  defineCases(argmaxOp, {
    cases: [
      { name: 'rows', inputs: { x: [5, 33] } },
      { name: 'ties', inputs: { x: { shape: [3, 7], fill: { values: [1, 3, 3, 2] } } } },
      { name: 'transposed', inputs: { x: { shape: [9, 5], strides: 'transposed' } } },
      { name: 'no rows', inputs: { x: [0, 5] } },
    ],
  }),
]
