// Rows by index.

import { scatterAddOp, takeOp } from '../../lib/ops/take.ts'
import { defineCases, type Tolerance } from './cases.ts'

const ROUNDED_SUMS: { readonly bf16: Tolerance } = {
  bf16: {
    rtol: 1.6e-2,
    atol: 6e-2,
    reason:
      'rows are added one by one in bf16: half a bf16 step (2^-9) of each term of the sum, which may cancel',
  },
}

export default [
  defineCases(takeOp, {
    cases: [
      {
        name: 'repeated ids',
        inputs: { table: [11, 7], ids: { shape: [17], fill: { range: [0, 11] } } },
        tolerance: ROUNDED_SUMS,
      },
      {
        name: 'matrix of ids',
        inputs: { table: [5, 3], ids: { shape: [2, 9], fill: { range: [0, 5] } } },
        tolerance: ROUNDED_SUMS,
      },
      {
        name: 'one element a row',
        inputs: { table: [50], ids: { shape: [3, 21], fill: { range: [0, 50] } } },
        tolerance: ROUNDED_SUMS,
      },
      {
        name: 'strided',
        inputs: {
          table: { shape: [9, 17], strides: 'transposed' },
          ids: { shape: [4, 5], fill: { range: [0, 9] }, strides: 'padded' },
        },
        tolerance: ROUNDED_SUMS,
      },
      {
        name: 'one id for all',
        inputs: { table: [5, 200], ids: { shape: [33], fill: { values: [3] } } },
        tolerance: ROUNDED_SUMS,
      },
      { name: 'scalar id', inputs: { table: [5, 3], ids: { shape: [], fill: { values: [2] } } } },
      {
        name: 'rank 4',
        inputs: { table: [4, 2, 3, 5], ids: { shape: [6], fill: { range: [0, 4] } } },
        tolerance: ROUNDED_SUMS,
      },
      { name: 'no columns', inputs: { table: [5, 0], ids: { shape: [2], fill: { range: [0, 5] } } } },
      { name: 'no ids', inputs: { table: [5, 3], ids: { shape: [0], fill: { range: [0, 5] } } } },
    ],
    bench: [{ inputs: { table: [50_304, 768], ids: { shape: [4096], fill: { range: [0, 50_304] } } } }],
    errors: [
      {
        name: 'table',
        inputs: { table: [], ids: { shape: [2], fill: { values: [0] } } },
        code: 'ERR_SHAPE',
        message: /take: table must be of rank 1 or more/,
      },
      {
        name: 'before the start',
        inputs: { table: [5, 3], ids: { shape: [2], fill: { values: [-1] } } },
        code: 'ERR_VALUE',
        message: /ids\[0\] is -1, expected 0 <= ids < 5/,
      },
      {
        name: 'past the end',
        inputs: { table: [5, 3], ids: { shape: [2], fill: { values: [4, 5] } } },
        code: 'ERR_VALUE',
        message: /take/,
      },
    ],
  }),
  defineCases(scatterAddOp, {
    cases: [
      {
        name: 'repeated ids',
        inputs: { base: [6, 5], ids: { shape: [17], fill: { range: [0, 6] } }, rows: [17, 5] },
        tolerance: ROUNDED_SUMS,
      },
      {
        name: 'one id for many',
        inputs: { base: [4, 131], ids: { shape: [600], fill: { values: [2] } }, rows: [600, 131] },
        tolerance: {
          ...ROUNDED_SUMS,
          f32: {
            rtol: 1.3e-6,
            atol: 1e-4,
            reason: '600 terms are added one by one: each sum, of size sqrt(n), is rounded to float32',
          },
        },
      },
      {
        name: 'strided',
        inputs: {
          base: { shape: [6, 35], strides: 'transposed' },
          ids: { shape: [4, 7], fill: { range: [0, 6] }, strides: 'transposed' },
          rows: { shape: [4, 7, 35], strides: 'padded' },
        },
        tolerance: ROUNDED_SUMS,
      },
      {
        name: 'integers',
        dtypes: ['f32'],
        inputs: {
          base: { shape: [4, 9], dtype: 'i32', fill: { range: [-9, 9] } },
          ids: { shape: [20], fill: { range: [0, 4] } },
          rows: { shape: [20, 9], dtype: 'i32', fill: { range: [-9, 9] } },
        },
      },
      {
        name: 'no rows',
        inputs: { base: [6, 5], ids: { shape: [0], fill: { range: [0, 6] } }, rows: [0, 5] },
      },
    ],
  }),
]
