// The primitives: what every reference is composed of. Their float64 loops have no reference of their
// own, so the goldens (test/golden/primitives.py) and finite differences carry the weight here.

import { addInto, addIntoOp } from '../../lib/ops/add-into.ts'
import {
  add,
  addOp,
  div,
  divOp,
  equal,
  equalOp,
  less,
  lessOp,
  maximum,
  maximumOp,
  minimum,
  minimumOp,
  mul,
  mulOp,
  sub,
  subOp,
  where,
  whereOp,
} from '../../lib/ops/binary.ts'
import { castOp, concatOp, contiguousOp, copyIntoOp } from '../../lib/ops/copy.ts'
import { fillOp, iotaOp } from '../../lib/ops/create.ts'
import { matmul, matmulOp } from '../../lib/ops/matmul.ts'
import { uniformOp } from '../../lib/ops/random.ts'
import { argmaxOp, maxOp, sumOp } from '../../lib/ops/reduce.ts'
import { scatterAddOp, takeOp } from '../../lib/ops/take.ts'
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
import { dtypeCodes } from '../../lib/tensor/dtype.ts'
import type { Tensor } from '../../lib/tensor/tensor.ts'
import { type CaseTable, defineCases, type Fill, type OpCase, type Tolerance } from './cases.ts'

const BF16_SAVED: Tolerance = {
  rtol: 1.6e-2,
  atol: 4e-2,
  reason:
    '1 - y is taken of an output that bf16 has rounded: near y = 1 the gradient keeps half a bf16 step, times |dy| up to 4',
}
const BF16_SQUARED: Tolerance = {
  rtol: 1.6e-2,
  atol: 1e-2,
  reason:
    'x^2 is rounded to bf16 before e^(-x^2) of the gradient, which moves by up to 2^-9 / e, times |dy| up to 4',
}

const summedIn = (what: string, atol: number): Tolerance => ({
  rtol: 1.6e-2,
  atol,
  reason: `${what}: half a bf16 step (2^-9) of each term of the sum, which may cancel`,
})
const ROUNDED_TERMS = {
  bf16: summedIn('the gradient of a broadcast operand sums products rounded to bf16', 3e-2),
}
const ROUNDED_SUMS = { bf16: summedIn('rows are added one by one in bf16', 6e-2) }

type Broadcasting = (a: Tensor, b: Tensor) => Tensor

function binary(call: Broadcasting, divisor?: Fill): CaseTable {
  const b = (shape: readonly number[]) => (divisor === undefined ? { shape } : { shape, fill: divisor })
  const cases: OpCase[] = [
    { name: 'one', inputs: { a: [1], b: b([1]) } },
    { name: 'odd', inputs: { a: [3, 65], b: b([3, 65]) } },
    { name: 'row', inputs: { a: [5, 31], b: b([31]) }, tolerance: ROUNDED_TERMS },
    { name: 'both expand', inputs: { a: [4, 1, 17], b: b([3, 1]) }, tolerance: ROUNDED_TERMS },
    { name: 'padded', inputs: { a: { shape: [4, 33], strides: 'padded' }, b: b([4, 33]) } },
    {
      name: 'transposed',
      inputs: { a: { shape: [15, 7], strides: 'transposed' }, b: { ...b([15, 7]), strides: 'padded' } },
    },
    { name: 'outliers', inputs: { a: { shape: [2, 127], fill: 'outliers' }, b: b([2, 127]) } },
    { name: 'empty', inputs: { a: [0, 5], b: b([5]) } },
  ]
  return {
    call: ([a, b]) => [call(a as Tensor, b as Tensor)],
    cases,
    errors: [
      {
        name: 'shapes',
        inputs: { a: [2, 3], b: [2, 4] },
        code: 'ERR_SHAPE',
        message: /\[2,3\].*\[2,4\]|\[2,4\].*\[2,3\]/,
      },
      {
        name: 'dtypes',
        inputs: { a: [3], b: { shape: [3], dtype: 'bf16' } },
        code: 'ERR_SHAPE',
        message: /b must be f32/,
      },
    ],
  }
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
const BITS: Fill = { range: [0, 2] }

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
  defineCases(addOp, binary(add)),
  defineCases(subOp, binary(sub)),
  defineCases(mulOp, binary(mul)),
  defineCases(divOp, binary(div, NOT_ZERO)),
  defineCases(maximumOp, binary(maximum)),
  defineCases(minimumOp, binary(minimum)),
  defineCases(equalOp, {
    ...binary(equal),
    cases: [
      ...binary(equal).cases,
      {
        name: 'equal ones',
        inputs: {
          a: { shape: [33], fill: { values: [1, 2, 3] } },
          b: { shape: [33], fill: { values: [1, 3] } },
        },
      },
    ],
  }),
  defineCases(lessOp, {
    ...binary(less),
    cases: [
      ...binary(less).cases,
      {
        name: 'equal ones',
        inputs: {
          a: { shape: [33], fill: { values: [1, 2, 3] } },
          b: { shape: [33], fill: { values: [1, 3] } },
        },
      },
    ],
  }),
  defineCases(whereOp, {
    call: ([cond, a, b]) => [where(cond as Tensor, a as Tensor, b as Tensor)],
    cases: [
      { name: 'odd', inputs: { cond: { shape: [3, 65], fill: BITS }, a: [3, 65], b: [3, 65] } },
      { name: 'broadcast', inputs: { cond: { shape: [3, 1], fill: BITS }, a: [3, 7], b: [7] } },
      {
        name: 'padded',
        inputs: {
          cond: { shape: [4, 17], fill: BITS, strides: 'padded' },
          a: { shape: [4, 17], strides: 'transposed' },
          b: [4, 17],
        },
      },
      { name: 'empty', inputs: { cond: { shape: [0, 3], fill: BITS }, a: [0, 3], b: [0, 3] } },
    ],
  }),
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
  defineCases(castOp, {
    cases: [
      {
        name: 'to f32',
        inputs: { x: [3, 65] },
        attributes: { dtype: dtypeCodes.f32 },
        noFiniteDifferences: 'a step of 1e-6 is lost in float32',
      },
      {
        name: 'to bf16',
        inputs: { x: [3, 65] },
        attributes: { dtype: dtypeCodes.bf16 },
        noFiniteDifferences: 'rounding is a staircase',
      },
      {
        name: 'to f64',
        inputs: { x: { shape: [4, 33], strides: 'padded' } },
        attributes: { dtype: dtypeCodes.f64 },
      },
      {
        name: 'to i32',
        inputs: { x: { shape: [5, 9], fill: { range: [-1000, 1000] } } },
        attributes: { dtype: dtypeCodes.i32 },
      },
      {
        name: 'from i32',
        inputs: { x: { shape: [5, 9], dtype: 'i32', fill: { range: [-1000, 1000] } } },
        attributes: { dtype: dtypeCodes.f32 },
      },
      { name: 'empty', inputs: { x: [0] }, attributes: { dtype: dtypeCodes.bf16 } },
    ],
  }),
  defineCases(contiguousOp, unaryLike()),
  defineCases(copyIntoOp, {
    cases: [
      { name: 'dense', inputs: { target: [3, 17], source: [3, 17] } },
      { name: 'padded target', inputs: { target: { shape: [4, 9], strides: 'padded' }, source: [4, 9] } },
      {
        name: 'transposed source',
        inputs: { target: [9, 5], source: { shape: [9, 5], strides: 'transposed' } },
      },
      { name: 'empty', inputs: { target: [0, 2], source: [0, 2] } },
    ],
    errors: [
      {
        name: 'shape',
        inputs: { target: [3], source: [4] },
        code: 'ERR_SHAPE',
        message: /source must be \[3\]/,
      },
    ],
  }),
  defineCases(addIntoOp, {
    call: ([target, source]) => {
      addInto(target as Tensor, source as Tensor)
      return []
    },
    cases: [
      { name: 'odd', inputs: { target: [3, 65], source: [3, 65] } },
      { name: 'padded source', inputs: { target: [4, 33], source: { shape: [4, 33], strides: 'padded' } } },
      { name: 'empty', inputs: { target: [0], source: [0] } },
    ],
    errors: [
      { name: 'shape', inputs: { target: [3], source: [4] }, code: 'ERR_SHAPE', message: /source must be/ },
    ],
  }),
  defineCases(concatOp, {
    cases: [
      {
        name: 'rows',
        inputs: {},
        groups: [{ part: [2, 5] }, { part: [3, 5] }, { part: { shape: [1, 5], strides: 'padded' } }],
        attributes: { axis: 0 },
      },
      {
        name: 'columns',
        inputs: {},
        groups: [{ part: [3, 5] }, { part: { shape: [3, 2], strides: 'transposed' } }],
        attributes: { axis: 1 },
      },
      {
        name: 'one empty',
        inputs: {},
        groups: [{ part: [0, 3] }, { part: [2, 3] }],
        attributes: { axis: 0 },
      },
    ],
    errors: [
      {
        name: 'other axis',
        inputs: {},
        groups: [{ part: [2, 5] }, { part: [2, 4] }],
        attributes: { axis: 0 },
        code: 'ERR_SHAPE',
        message: /part must be/,
      },
    ],
  }),
  defineCases(fillOp, {
    cases: [
      { name: 'odd', inputs: { y: [3, 65] }, attributes: { value: -2.5 } },
      { name: 'padded', inputs: { y: { shape: [3, 17], strides: 'padded' } }, attributes: { value: 7 } },
      {
        name: 'integers',
        inputs: { y: { shape: [33], dtype: 'i32', fill: { values: [9] } } },
        attributes: { value: -4 },
      },
      { name: 'empty', inputs: { y: [0, 3] }, attributes: { value: 1 } },
    ],
  }),
  defineCases(iotaOp, {
    cases: [
      { name: 'count', inputs: { y: [37] }, attributes: { start: 3, step: 2 } },
      {
        name: 'integers',
        inputs: { y: { shape: [129], dtype: 'i32', fill: { values: [9] } } },
        attributes: { start: 5, step: -3 },
      },
      { name: 'empty', inputs: { y: [0] }, attributes: { start: 0, step: 1 } },
    ],
  }),
  defineCases(uniformOp, {
    cases: [
      { name: 'odd', inputs: { key: { shape: [4], fill: { values: [1, 2, 3, 4] } }, y: [5, 33] } },
      { name: 'empty', inputs: { key: { shape: [4], fill: { values: [1] } }, y: [0] } },
    ],
    errors: [
      {
        name: 'key',
        inputs: { key: { shape: [3], fill: { values: [1] } }, y: [3] },
        code: 'ERR_SHAPE',
        message: /key must be \[4\]/,
      },
    ],
  }),
  defineCases(matmulOp, {
    call: ([a, b]) => [matmul(a as Tensor, b as Tensor)],
    cases: [
      { name: 'odd', inputs: { a: [7, 13], b: [13, 5] } },
      { name: 'one', inputs: { a: [1, 1], b: [1, 1] } },
      { name: 'batch expands', inputs: { a: [2, 3, 5, 7], b: [3, 7, 4] }, tolerance: ROUNDED_TERMS },
      {
        name: 'transposed',
        inputs: { a: { shape: [9, 17], strides: 'transposed' }, b: { shape: [17, 9], strides: 'padded' } },
      },
      { name: 'no inner', inputs: { a: [3, 0], b: [0, 4] } },
      { name: 'empty', inputs: { a: [0, 3], b: [3, 4] } },
    ],
    errors: [
      { name: 'inner', inputs: { a: [2, 3], b: [4, 5] }, code: 'ERR_SHAPE', message: /b must be \[3,N\]/ },
    ],
  }),
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

function unaryLike(): CaseTable {
  const { cases } = unary()
  return { cases }
}
