// Element functions of one tensor.

import {
  absOp,
  cosOp,
  erfOp,
  expOp,
  logOp,
  negOp,
  powOp,
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
      { name: 'scalar', inputs: { x: { shape: [], fill } }, ...more },
      { name: 'eight axes', inputs: { x: { shape: [1, 2, 1, 3, 1, 2, 5, 3], fill } }, ...more },
      {
        name: 'transposed squares',
        inputs: { x: { shape: [70, 67], fill, strides: 'transposed' } },
        ...more,
      },
      { name: 'many tiles', inputs: { x: { shape: [33_003], fill } }, ...more },
      { name: 'empty', inputs: { x: { shape: [3, 0], fill } }, ...more },
    ],
    bench: [{ inputs: { x: { shape: [4096, 768], fill } } }],
    errors: [
      {
        name: 'dtype',
        inputs: { x: { shape: [3], dtype: 'u8', fill: { range: [0, 2] } } },
        code: 'ERR_SHAPE',
        message: /x must be f32.*received u8/,
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

const INTEGERS: OpCase = {
  name: 'integers',
  dtypes: ['f32'],
  inputs: { x: { shape: [3, 41], dtype: 'i32', fill: { range: [-100, 100] } } },
}
/** Range reduction: small, many turns, and past what the vector code reduces itself. */
const ANGLES: OpCase[] = [
  { name: 'turns', inputs: { x: { shape: [4, 133], fill: { range: [-600, 600] } } } },
  {
    name: 'thousands of turns',
    inputs: { x: { shape: [515], fill: { range: [-60_000, 60_000] } } },
    noFiniteDifferences: 'a step of 1e-6 keeps too few digits of an argument of 1e4',
  },
]

const withCases = (table: CaseTable, ...more: OpCase[]): CaseTable => ({
  ...table,
  cases: [...table.cases, ...more],
})

function power(exponent: number, fill: Fill): OpCase {
  return { name: `to ${exponent}`, inputs: { x: { shape: [3, 43], fill } }, attributes: { exponent } }
}

export default [
  defineCases(negOp, withCases(unary(), INTEGERS)),
  defineCases(absOp, withCases(unary(NOT_ZERO), INTEGERS)),
  defineCases(
    expOp,
    withCases(unary(), { name: 'small', inputs: { x: { shape: [129], fill: { range: [-80, 0] } } } }),
  ),
  defineCases(
    logOp,
    withCases(unary(POSITIVE), {
      name: 'large',
      inputs: { x: { shape: [129], fill: { range: [1, 1e30] } } },
    }),
  ),
  defineCases(sqrtOp, unary(POSITIVE)),
  defineCases(rsqrtOp, unary(POSITIVE)),
  defineCases(sinOp, withCases(unary(), ...ANGLES)),
  defineCases(cosOp, withCases(unary(), ...ANGLES)),
  defineCases(tanhOp, unary('normal', { tolerance: { bf16: BF16_SAVED } })),
  defineCases(erfOp, unary('normal', { tolerance: { bf16: BF16_SQUARED } })),
  defineCases(sigmoidOp, unary('normal', { tolerance: { bf16: BF16_SAVED } })),
  defineCases(powOp, {
    cases: [
      power(3, 'normal'),
      power(-1, NOT_ZERO),
      power(2.5, POSITIVE),
      power(0, 'normal'),
      {
        name: 'transposed',
        inputs: { x: { shape: [9, 17], strides: 'transposed' } },
        attributes: { exponent: 4 },
      },
      { name: 'empty', inputs: { x: [0] }, attributes: { exponent: 3 } },
    ],
    errors: [
      {
        name: 'dtype',
        inputs: { x: { shape: [3], dtype: 'i32', fill: { values: [1] } } },
        attributes: { exponent: 3 },
        code: 'ERR_SHAPE',
        message: /pow: x must be f32/,
      },
    ],
  }),
]
