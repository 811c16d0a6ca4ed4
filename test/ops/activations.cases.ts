// The element functions without attributes: one set of shapes for all.

import { reluOp } from '../../lib/ops/relu.ts'
import { reluSquaredOp } from '../../lib/ops/relu_squared.ts'
import { siluOp } from '../../lib/ops/silu.ts'
import { type CaseTable, defineCases } from './cases.ts'

const table = (kink: boolean): CaseTable => ({
  cases: [
    { name: 'odd', inputs: { x: [3, 65] } },
    ...[1, 15, 17, 31, 33, 63, 127].map((n) => ({ name: `n ${n}`, inputs: { x: [n] } })),
    { name: 'scalar', inputs: { x: [] } },
    { name: 'rows view', inputs: { x: { shape: [4, 33], strides: 'padded' } } },
    { name: 'transposed', inputs: { x: { shape: [9, 17], strides: 'transposed' } } },
    { name: 'outliers', inputs: { x: { shape: [257], fill: 'outliers' } } },
    {
      name: 'saturated',
      inputs: { x: { shape: [8], fill: { values: [-1e4, -88.5, -30, -1, 1, 30, 88.5, 1e4] } } },
    },
    {
      name: 'zero',
      inputs: { x: { shape: [3], fill: { values: [0] } } },
      ...(kink && { noFiniteDifferences: 'a kink' }),
    },
    { name: 'empty', inputs: { x: [0, 3] } },
    { name: 'several tiles', inputs: { x: [2, 40001] }, noFiniteDifferences: 'too large' },
  ],
  errors: [
    {
      name: 'integers',
      inputs: { x: { shape: [3], dtype: 'i32', fill: { range: [0, 9] } } },
      code: 'ERR_SHAPE',
      message: /x must be f32, bf16 or f64/,
    },
  ],
  bench: [{ inputs: { x: [4096, 3072] } }],
})

export default [
  defineCases(siluOp, table(false)),
  defineCases(reluOp, table(true)),
  defineCases(reluSquaredOp, table(false)),
]
