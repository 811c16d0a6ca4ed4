import { linearGroupDxOp, linearGroupOp } from '../../lib/ops/linear_group.ts'
import { defineCases } from './cases.ts'

const ODD = [1, 15, 17, 31, 33, 63, 65, 127]
const odd = (i: number): number => ODD[i % 8] ?? 1
const sumOf = (n: number) => ({
  tolerance: {
    f32: { rtol: 1.3e-6, atol: 4e-6 * Math.sqrt(n), reason: `float32 sums of ${n} products` },
    bf16: { rtol: 1.6e-2, atol: 4e-6 * Math.sqrt(n), reason: `float32 sums of ${n} products` },
  },
})
export default [
  defineCases(linearGroupOp, {
    cases: [
      ...ODD.map((k, i) => ({
        name: `K ${k}`,
        inputs: {
          x: [3, k],
          weight0: [odd(i + 1), k],
          bias0: [odd(i + 1)],
          weight1: [odd(i + 3), k],
          weight2: [odd(i + 6), k],
          bias2: [odd(i + 6)],
        },
        ...sumOf(254),
        ...(k * (odd(i + 1) + odd(i + 3) + odd(i + 6)) > 3500 ? { noFiniteDifferences: 'too large' } : {}),
      })),
      { name: 'two', inputs: { x: [17, 20], weight0: [33, 20], weight1: [33, 20] }, ...sumOf(66) },
      {
        name: 'grouped heads',
        inputs: { x: [2, 5, 32], weight0: [64, 32], weight1: [16, 32], weight2: [16, 32] },
        ...sumOf(96),
        noFiniteDifferences: 'too large',
      },
      {
        name: 'rows view, outliers',
        inputs: {
          x: { shape: [9, 31], strides: 'padded', fill: 'outliers' },
          weight0: [17, 31],
          weight1: { shape: [15, 31], fill: 'outliers' },
          bias1: [15],
        },
        ...sumOf(64),
      },
      { name: 'no rows', inputs: { x: [0, 8], weight0: [5, 8], weight1: [3, 8], bias1: [3] } },
      { name: 'K empty', inputs: { x: [3, 0], weight0: [5, 0], bias0: [5], weight1: [40, 0] } },
      {
        name: 'one without outputs',
        inputs: { x: [3, 4], weight0: [5, 4], weight1: [0, 4], weight2: [2, 4] },
      },
      {
        name: 'K of two passes',
        inputs: { x: [5, 4100], weight0: [33, 4100], bias0: [33], weight1: [9, 4100] },
        ...sumOf(4100),
        noFiniteDifferences: 'too large',
      },
    ],
    errors: [
      {
        name: 'another K',
        inputs: { x: [2, 8], weight0: [4, 8], weight1: [4, 9] },
        code: 'ERR_SHAPE',
        message: /weight1 must be \[N, 8\]/,
      },
      {
        name: 'bias too long',
        inputs: { x: [2, 8], weight0: [4, 8], bias0: [5], weight1: [4, 8] },
        code: 'ERR_SHAPE',
        message: /bias0 must be \[4\]/,
      },
      {
        name: 'a bias alone',
        inputs: { x: [2, 8], weight0: [4, 8], weight1: [4, 8], bias2: [4] },
        code: 'ERR_SHAPE',
        message: /bias2 must be left out/,
      },
    ],
    bench: [
      {
        name: '10M',
        inputs: { x: [4096, 256], weight0: [256, 256], weight1: [256, 256], weight2: [256, 256] },
      },
      { name: '124M', inputs: { x: [4096, 768], weight0: [2048, 768], weight1: [2048, 768] } },
    ],
  }),
  defineCases(linearGroupDxOp, {
    cases: [
      {
        name: 'three',
        inputs: {
          dy0: [3, 17, 65],
          weight0: [65, 31],
          dy1: [3, 17, 33],
          weight1: [33, 31],
          dy2: { shape: [3, 17, 9], strides: 'padded' },
          weight2: [9, 31],
        },
        ...sumOf(107),
      },
      {
        name: 'passes that two share',
        inputs: { dy0: [6, 2100], weight0: [2100, 40], dy1: [6, 2100], weight1: [2100, 40] },
        ...sumOf(4200),
      },
      { name: 'N empty', inputs: { dy0: [3, 0], weight0: [0, 5], dy1: [3, 0], weight1: [0, 5] } },
    ],
    errors: [
      {
        name: 'another K',
        inputs: { dy0: [2, 8], weight0: [8, 4], dy1: [2, 8], weight1: [8, 5] },
        code: 'ERR_SHAPE',
        message: /weight1 must be \[8, 4\]/,
      },
    ],
    bench: [
      {
        name: '124M',
        inputs: { dy0: [4096, 2048], weight0: [2048, 768], dy1: [4096, 2048], weight1: [2048, 768] },
      },
    ],
  }),
]
