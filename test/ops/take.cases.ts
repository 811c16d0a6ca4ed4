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
      { name: 'no ids', inputs: { table: [5, 3], ids: { shape: [0], fill: { range: [0, 5] } } } },
    ],
    errors: [
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
        name: 'no rows',
        inputs: { base: [6, 5], ids: { shape: [0], fill: { range: [0, 6] } }, rows: [0, 5] },
      },
    ],
  }),
]
