// Element functions of one tensor.

import {
  absOp,
  cosOp,
  erfOp,
  expOp,
  logOp,
  negOp,
  rsqrtOp,
  sigmoidOp,
  sinOp,
  sqrtOp,
  tanhOp,
} from '../../lib/ops/unary.ts'
import { type CaseTable, defineCases, type Fill, type OpCase, type Tolerance } from './cases.ts'

const BF16_SAVED: Tolerance = {
  rtol: 1.6e-2,
  atol: 4e-2,
  reason:
    '1 - y is taken of an output that bf16 has rounded: near y = 1 the gradient keeps half a bf16 step, times |dy| up to 4',
}

function unary(fill: Fill = 'normal', more: Pick<OpCase, 'tolerance'> = {}): CaseTable {
  return {
    cases: [
      { name: 'one', inputs: { x: { shape: [1], fill } }, ...more },
      { name: 'odd', inputs: { x: { shape: [3, 65], fill } }, ...more },
      { name: 'padded', inputs: { x: { shape: [4, 33], fill, strides: 'padded' } }, ...more },
      { name: 'transposed', inputs: { x: { shape: [2, 15, 7], fill, strides: 'transposed' } }, ...more },
      { name: 'empty', inputs: { x: { shape: [3, 0], fill } }, ...more },
    ],
    errors: [
      {
        name: 'dtype',
        inputs: { x: { shape: [3], dtype: 'u8', fill: { range: [0, 2] } } },
        code: 'ERR_SHAPE',
        message: /expected f32 or bf16, received u8/,
      },
    ],
  }
}

const POSITIVE: Fill = { range: [0.1, 4] }
const NOT_ZERO: Fill = { from: (i) => (i % 2 === 0 ? 1 : -1) * (0.2 + ((i * 37) % 11) / 7) }

const BF16_SQUARED: Tolerance = {
  rtol: 1.6e-2,
  atol: 1e-2,
  reason:
    'x^2 is rounded to bf16 before e^(-x^2) of the gradient, which moves by up to 2^-9 / e, times |dy| up to 4',
}

export default [
  defineCases(negOp, unary()),
  defineCases(absOp, unary(NOT_ZERO)),
  defineCases(expOp, unary()),
  defineCases(logOp, unary(POSITIVE)),
  defineCases(sqrtOp, unary(POSITIVE)),
  defineCases(rsqrtOp, unary(POSITIVE)),
  defineCases(sinOp, unary()),
  defineCases(cosOp, unary()),
  defineCases(tanhOp, unary('normal', { tolerance: { bf16: BF16_SAVED } })),
  defineCases(erfOp, unary('normal', { tolerance: { bf16: BF16_SQUARED } })),
  defineCases(sigmoidOp, unary('normal', { tolerance: { bf16: BF16_SAVED } })),
]
