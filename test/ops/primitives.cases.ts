import { matmul, matmulOp } from '../../lib/ops/matmul.ts'
import type { Tensor } from '../../lib/tensor/tensor.ts'
import { defineCases, type Tolerance } from './cases.ts'

const ROUNDED_TERMS: { readonly bf16: Tolerance } = {
  bf16: {
    rtol: 1.6e-2,
    atol: 3e-2,
    reason:
      'the gradient of a broadcast operand sums products rounded to bf16: half a bf16 step (2^-9) of each term of the sum, which may cancel',
  },
}

export default [
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
]
