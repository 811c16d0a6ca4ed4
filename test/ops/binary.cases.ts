// Element functions of two tensors. Their float64 loops have no reference of their own: goldens
// (test/golden/primitives.py) and finite differences carry the weight here.

import {
  add,
  addOp,
  div,
  divOp,
  equal,
  equalOp,
  less,
  lessEqual,
  lessEqualOp,
  lessOp,
  maximum,
  maximumOp,
  minimum,
  minimumOp,
  mul,
  mulOp,
  notEqual,
  notEqualOp,
  sub,
  subOp,
  where,
  whereOp,
} from '../../lib/ops/binary.ts'
import type { Tensor } from '../../lib/tensor/tensor.ts'
import {
  type CaseInput,
  type CaseTable,
  defineCases,
  type Fill,
  type OpCase,
  type Tolerance,
} from './cases.ts'

type Broadcasting = (a: Tensor, b: Tensor) => Tensor

/** `size`: how large the terms of a gradient get beside those of a product of normal values. */
function binary(call: Broadcasting, divisor?: Fill, size = 1): CaseTable {
  const summed = (terms: number, atol: number): { readonly bf16: Tolerance } => ({
    bf16: {
      rtol: 1.6e-2,
      atol: atol * size,
      reason: `the gradient of a broadcast operand sums ${terms} terms rounded to bf16 (half a step, 2^-9, each), which may cancel`,
    },
  })
  const f32 = (terms: number): { readonly f32: Tolerance } => ({
    f32: {
      rtol: 1.3e-6,
      atol: Math.max(1e-5, 3 * size * size * Math.sqrt(terms) * 2 ** -23),
      reason: `the gradient of a divisor sums ${terms} terms of up to ${size * size} times a product of normal values, each rounded thrice, which may cancel`,
    },
  })
  const b = (shape: readonly number[]) => (divisor === undefined ? { shape } : { shape, fill: divisor })
  const turned = 'transposed' as const
  const cases: OpCase[] = [
    { name: 'one', inputs: { a: [1], b: b([1]) } },
    { name: 'odd', inputs: { a: [3, 65], b: b([3, 65]) } },
    { name: 'row', inputs: { a: [5, 31], b: b([31]) }, tolerance: summed(5, 3e-2) },
    { name: 'column', inputs: { a: [4, 67], b: b([4, 1]) }, tolerance: summed(67, 0.15) },
    { name: 'scalar', inputs: { a: [2, 63], b: b([]) }, tolerance: summed(126, 0.25) },
    { name: 'scalars', inputs: { a: [], b: b([]) } },
    { name: 'short rows', inputs: { a: [5, 7, 3], b: b([5, 1, 3]) }, tolerance: summed(7, 3e-2) },
    { name: 'short column', inputs: { a: [17, 9, 5], b: b([17, 9, 1]) }, tolerance: summed(5, 3e-2) },
    { name: 'both expand', inputs: { a: [4, 1, 17], b: b([3, 1]) }, tolerance: summed(68, 0.15) },
    {
      name: 'eight axes',
      inputs: { a: [2, 1, 3, 1, 2, 1, 2, 3], b: b([1, 2, 1, 3, 1, 2, 2, 1]) },
      tolerance: summed(72, 0.25),
    },
    { name: 'padded', inputs: { a: { shape: [4, 33], strides: 'padded' }, b: b([4, 33]) } },
    {
      name: 'transposed',
      inputs: { a: { shape: [15, 7], strides: turned }, b: { ...b([15, 7]), strides: 'padded' } },
    },
    {
      name: 'transposed squares',
      inputs: { a: { shape: [70, 133], strides: turned }, b: { ...b([70, 1]) } },
      tolerance: summed(133, 0.3),
      gradientTolerance: { ...summed(133, 0.3), ...f32(133) },
    },
    {
      name: 'both transposed',
      inputs: { a: { shape: [2, 66, 65], strides: turned }, b: { ...b([2, 66, 65]), strides: turned } },
    },
    { name: 'many tiles', inputs: { a: [2, 17_001], b: b([2, 17_001]) } },
    { name: 'outliers', inputs: { a: { shape: [2, 127], fill: 'outliers' }, b: b([2, 127]) } },
    { name: 'empty', inputs: { a: [0, 5], b: b([5]) } },
    { name: 'empty meets one', inputs: { a: [3, 0, 1], b: b([1, 4]) } },
    { name: 'integers', dtypes: ['f32'], ...integers('i32', -50, 50) },
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
    bench: [
      { name: 'same shape', inputs: { a: [4096, 768], b: b([4096, 768]) } },
      { name: 'transposed', inputs: { a: [4096, 768], b: { ...b([4096, 768]), strides: turned } } },
    ],
  }
}

function integers(dtype: 'i32' | 'u8', lo: number, hi: number): Pick<OpCase, 'inputs'> {
  const operand = (fill: Fill): CaseInput => ({ shape: [3, 41], dtype, fill })
  return { inputs: { a: operand({ range: [lo, hi] }), b: operand({ range: [lo, hi] }) } }
}

/** Both outcomes of a comparison, and equality, in every vector of lanes. */
const TIES: OpCase = {
  name: 'ties',
  inputs: {
    a: { shape: [133], fill: { values: [1, 2, 3] } },
    b: { shape: [133], fill: { values: [1, 3] } },
  },
}

function comparison(call: Broadcasting): CaseTable {
  const table = binary(call)
  return {
    ...table,
    cases: [...table.cases, TIES, { name: 'bytes', dtypes: ['f32'], ...integers('u8', 0, 3) }],
  }
}

const NOT_ZERO: Fill = { from: (i) => (i % 2 === 0 ? 1 : -1) * (0.2 + ((i * 37) % 11) / 7) }
const BITS: Fill = { range: [0, 2] }

const summed = (atol: number): { readonly bf16: Tolerance } => ({
  bf16: {
    rtol: 1.6e-2,
    atol,
    reason: 'the gradient of a broadcast operand sums terms rounded to bf16, which may cancel',
  },
})

export default [
  defineCases(addOp, binary(add)),
  defineCases(subOp, binary(sub)),
  defineCases(mulOp, binary(mul)),
  defineCases(divOp, binary(div, NOT_ZERO, 5)),
  defineCases(maximumOp, binary(maximum)),
  defineCases(minimumOp, binary(minimum)),
  defineCases(equalOp, comparison(equal)),
  defineCases(notEqualOp, comparison(notEqual)),
  defineCases(lessOp, comparison(less)),
  defineCases(lessEqualOp, comparison(lessEqual)),
  defineCases(whereOp, {
    call: ([cond, a, b]) => [where(cond as Tensor, a as Tensor, b as Tensor)],
    cases: [
      { name: 'odd', inputs: { cond: { shape: [3, 65], fill: BITS }, a: [3, 65], b: [3, 65] } },
      {
        name: 'broadcast',
        inputs: { cond: { shape: [3, 1], fill: BITS }, a: [3, 7], b: [7] },
        tolerance: summed(3e-2),
      },
      {
        name: 'long rows by one bit',
        inputs: { cond: { shape: [5, 1], fill: BITS }, a: [5, 131], b: [] },
        tolerance: summed(0.5),
      },
      { name: 'scalars', inputs: { cond: { shape: [], fill: { values: [1] } }, a: [], b: [] } },
      {
        name: 'padded',
        inputs: {
          cond: { shape: [4, 17], fill: BITS, strides: 'padded' },
          a: { shape: [4, 17], strides: 'transposed' },
          b: [4, 17],
        },
      },
      {
        name: 'transposed bits',
        inputs: {
          cond: { shape: [66, 70], fill: BITS, strides: 'transposed' },
          a: { shape: [66, 70], strides: 'transposed' },
          b: [66, 70],
        },
      },
      { name: 'empty', inputs: { cond: { shape: [0, 3], fill: BITS }, a: [0, 3], b: [0, 3] } },
    ],
    errors: [
      {
        name: 'dtypes',
        inputs: { cond: { shape: [3], fill: BITS }, a: [3], b: { shape: [3], dtype: 'bf16' } },
        code: 'ERR_SHAPE',
        message: /where: b must be f32 like a/,
      },
    ],
    bench: [{ inputs: { cond: { shape: [4096, 768], fill: BITS }, a: [4096, 768], b: [4096, 768] } }],
  }),
]
