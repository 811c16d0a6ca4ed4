// Reductions over axes, and running sums along one.

import { cumsumOp } from '../../lib/ops/cumsum.ts'
import { argmaxOp, maxOp, meanOp, minOp, sumOp } from '../../lib/ops/reduce.ts'
import { type CaseTable, defineCases, type OpCase, type Tolerance } from './cases.ts'

/** Axes of a reduction as its attribute holds them. */
const mask = (...axes: number[]): number => axes.reduce((m, axis) => m | (1 << axis), 0)

const long = (terms: number): { readonly f32: Tolerance } => ({
  f32: {
    rtol: 1.3e-6,
    atol: 1.2e-7 * terms ** 0.5 * 16,
    reason: `a sum of ${terms} terms of either sign cancels; each partial sum, of size sqrt(n), is rounded to float32`,
  },
})

const BYTES = { name: 'counted', dtypes: ['f32'] } as const

/** Of every way through memory: along rows and across them, in pieces, chunks and folds. */
const reduction: CaseTable = {
  cases: [
    { name: 'all', inputs: { x: [3, 17] }, attributes: { axes: mask(0, 1) } },
    { name: 'rows', inputs: { x: [5, 127] }, attributes: { axes: mask(1) } },
    { name: 'columns', inputs: { x: [31, 9] }, attributes: { axes: mask(0) } },
    { name: 'middle', inputs: { x: [3, 5, 7] }, attributes: { axes: mask(1) } },
    { name: 'outer two', inputs: { x: [3, 5, 7] }, attributes: { axes: mask(0, 1) } },
    { name: 'outer and inner', inputs: { x: [3, 5, 7, 11] }, attributes: { axes: mask(0, 3) } },
    { name: 'every second', inputs: { x: [3, 5, 2, 9] }, attributes: { axes: mask(0, 2) } },
    { name: 'no axis', inputs: { x: [3, 5] }, attributes: { axes: 0 } },
    { name: 'scalar', inputs: { x: [] }, attributes: { axes: 0 } },
    { name: 'eight axes', inputs: { x: [2, 1, 3, 2, 1, 2, 3, 2] }, attributes: { axes: mask(1, 3, 6) } },
    { name: 'padded', inputs: { x: { shape: [4, 33], strides: 'padded' } }, attributes: { axes: mask(1) } },
    {
      name: 'padded columns',
      inputs: { x: { shape: [40, 33], strides: 'padded' } },
      attributes: { axes: mask(0) },
    },
    {
      name: 'transposed',
      inputs: { x: { shape: [15, 7], strides: 'transposed' } },
      attributes: { axes: mask(1) },
    },
    {
      name: 'transposed columns',
      inputs: { x: { shape: [65, 70], strides: 'transposed' } },
      attributes: { axes: mask(0) },
    },
    {
      name: 'long rows',
      inputs: { x: { shape: [3, 9001], fill: { range: [-1, 1] } } },
      attributes: { axes: mask(1) },
      tolerance: long(9001),
    },
    {
      name: 'chunks of a row',
      inputs: { x: { shape: [2, 40_007], fill: { range: [-1, 1] } } },
      attributes: { axes: mask(1) },
      tolerance: long(40_007),
    },
    {
      name: 'chunks of rows',
      inputs: { x: { shape: [700, 130], fill: { range: [-1, 1] } } },
      attributes: { axes: mask(0) },
      tolerance: long(700),
    },
    {
      name: 'wide',
      inputs: { x: { shape: [50, 1100], fill: { range: [-1, 1] } } },
      attributes: { axes: mask(0) },
      tolerance: long(50),
    },
    {
      name: 'few columns',
      inputs: { x: { shape: [12_007, 3], fill: { range: [-1, 1] } } },
      attributes: { axes: mask(0) },
      tolerance: long(12_007),
    },
    { name: 'outliers', inputs: { x: { shape: [3, 257], fill: 'outliers' } }, attributes: { axes: mask(1) } },
    { name: 'no rows', inputs: { x: [0, 5] }, attributes: { axes: mask(1) } },
  ],
  bench: [
    { name: 'rows', inputs: { x: [4096, 2048] }, attributes: { axes: mask(1) } },
    { name: 'columns', inputs: { x: [4096, 2048] }, attributes: { axes: mask(0) } },
  ],
}

const INTEGERS: OpCase = {
  name: 'integers',
  dtypes: ['f32'],
  inputs: { x: { shape: [7, 133], dtype: 'i32', fill: { range: [-1000, 1000] } } },
  attributes: { axes: mask(1) },
}
const NOTHING: OpCase = { name: 'of nothing', inputs: { x: [3, 0] }, attributes: { axes: mask(1) } }

const withMore = (table: CaseTable, more: Partial<CaseTable>): CaseTable => ({
  ...table,
  ...more,
  cases: [...table.cases, ...(more.cases ?? [])],
})

const refusesNothing = (op: string): CaseTable['errors'] => [
  {
    name: 'nothing',
    inputs: { x: [3, 0] },
    attributes: { axes: mask(1) },
    code: 'ERR_SHAPE',
    message: new RegExp(`${op}: x must be with at least one element`),
  },
  {
    name: 'dtype',
    inputs: { x: { shape: [3], dtype: 'u16', fill: { values: [1] } } },
    attributes: { axes: mask(0) },
    code: 'ERR_SHAPE',
    message: new RegExp(`${op}: x must be f32 or bf16 or f64 or i32, received u16`),
  },
]

const ALONG: CaseTable = {
  cases: [
    { name: 'rows', inputs: { x: [5, 33] }, attributes: { axis: 1, reverse: false } },
    { name: 'from the end', inputs: { x: [5, 33] }, attributes: { axis: 1, reverse: true } },
    { name: 'columns', inputs: { x: [9, 7] }, attributes: { axis: 0, reverse: false } },
    { name: 'columns from the end', inputs: { x: [3, 70, 5] }, attributes: { axis: 1, reverse: true } },
    {
      name: 'transposed',
      inputs: { x: { shape: [9, 7], strides: 'transposed' } },
      attributes: { axis: 1, reverse: false },
    },
    {
      name: 'chunks',
      inputs: { x: { shape: [33_001], fill: { range: [-1, 1] } } },
      attributes: { axis: 0, reverse: true },
    },
    {
      name: 'chunks of columns',
      inputs: { x: { shape: [150, 300], fill: { range: [-1, 1] } } },
      attributes: { axis: 0, reverse: false },
    },
    {
      name: 'integers',
      dtypes: ['f32'],
      inputs: { x: { shape: [4, 65], dtype: 'i32', fill: { range: [-9, 9] } } },
      attributes: { axis: 1, reverse: false },
    },
    { name: 'empty', inputs: { x: [2, 0] }, attributes: { axis: 1, reverse: false } },
  ],
  bench: [{ inputs: { x: [4096, 768] }, attributes: { axis: 1, reverse: false } }],
}

export default [
  defineCases(
    sumOp,
    withMore(reduction, {
      cases: [
        INTEGERS,
        NOTHING,
        {
          ...BYTES,
          inputs: { x: { shape: [3, 700], dtype: 'u8', fill: { range: [0, 2] } } },
          attributes: { axes: mask(1) },
        },
      ],
    }),
  ),
  defineCases(meanOp, reduction),
  defineCases(maxOp, withMore(reduction, { cases: [INTEGERS], errors: refusesNothing('max') ?? [] })),
  defineCases(minOp, withMore(reduction, { cases: [INTEGERS], errors: refusesNothing('min') ?? [] })),
  defineCases(argmaxOp, {
    cases: [
      { name: 'rows', inputs: { x: [5, 33] } },
      { name: 'one', inputs: { x: [1] } },
      { name: 'ties', inputs: { x: { shape: [3, 7], fill: { values: [1, 3, 3, 2] } } } },
      {
        name: 'ties in other lanes',
        inputs: { x: { shape: [5, 131], fill: { from: (i) => (i * 7) % 23 } } },
      },
      { name: 'transposed', inputs: { x: { shape: [9, 5], strides: 'transposed' } } },
      { name: 'padded', inputs: { x: { shape: [2, 3, 129], strides: 'padded' } } },
      {
        name: 'integers',
        dtypes: ['f32'],
        inputs: { x: { shape: [5, 33], dtype: 'i32', fill: { range: [-9, 9] } } },
      },
      { name: 'no rows', inputs: { x: [0, 5] } },
    ],
    errors: [
      { name: 'nothing', inputs: { x: [3, 0] }, code: 'ERR_SHAPE', message: /a last axis that is not empty/ },
    ],
    bench: [{ inputs: { x: [256, 50_304] } }],
  }),
  defineCases(cumsumOp, ALONG),
]
