import { linearDxOp, linearOp } from '../../lib/ops/linear.ts'
import { linearDwOp } from '../../lib/ops/linear_dw.ts'
import { defineCases } from './cases.ts'

const ODD = [1, 15, 17, 31, 33, 63, 65, 127]
/** Sums of n products of N(0, 1): float32 rounds each step, in an order of its own. */
const sumOf = (n: number) => ({
  tolerance: {
    f32: { rtol: 1.3e-6, atol: 4e-6 * Math.sqrt(n), reason: `float32 sums of ${n} products` },
    bf16: { rtol: 1.6e-2, atol: 4e-6 * Math.sqrt(n), reason: `float32 sums of ${n} products` },
  },
})
const large = { noFiniteDifferences: 'too large', ...sumOf(4100) }

export default [
  defineCases(linearOp, {
    cases: [
      ...ODD.map((n, i) => ({
        name: `N ${n}`,
        inputs: { x: [3, ODD[(i + 3) % 8] ?? 1], weight: [n, ODD[(i + 3) % 8] ?? 1], bias: [n] },
        ...sumOf(127),
      })),
      ...ODD.map((rows, i) => ({
        name: `${rows} rows, no bias`,
        inputs: { x: [rows, ODD[(i + 5) % 8] ?? 1], weight: [40, ODD[(i + 5) % 8] ?? 1] },
        ...sumOf(127),
        ...(rows > 31 ? { noFiniteDifferences: 'too large' } : {}),
      })),
      { name: 'one row', inputs: { x: [64], weight: [48, 64] }, ...sumOf(64) },
      { name: 'batch of rows', inputs: { x: [2, 3, 5, 24], weight: [16, 24], bias: [16] }, ...sumOf(30) },
      {
        name: 'rows view',
        inputs: { x: { shape: [2, 9, 33], strides: 'padded' }, weight: [17, 33] },
        ...sumOf(33),
      },
      {
        name: 'outliers',
        inputs: { x: { shape: [9, 65], fill: 'outliers' }, weight: { shape: [33, 65], fill: 'outliers' } },
        ...sumOf(65),
      },
      { name: 'no rows', inputs: { x: [0, 8], weight: [5, 8], bias: [5] } },
      { name: 'K empty', inputs: { x: [3, 0], weight: [5, 0], bias: [5] } },
      { name: 'K of two passes', inputs: { x: [5, 4100], weight: [33, 4100] }, ...large },
      { name: 'N of many tiles', inputs: { x: [20, 40], weight: [1100, 40], bias: [1100] }, ...large },
      { name: 'dW over many rows', inputs: { x: [4100, 9], weight: [35, 9], bias: [35] }, ...large },
    ],
    errors: [
      {
        name: 'another K',
        inputs: { x: [2, 8], weight: [4, 9] },
        code: 'ERR_SHAPE',
        message: /weight must be \[N, 8\]/,
      },
      {
        name: 'bias too long',
        inputs: { x: [2, 8], weight: [4, 8], bias: [5] },
        code: 'ERR_SHAPE',
        message: /bias must be \[4\]/,
      },
    ],
    bench: [
      { name: '10M', inputs: { x: [4096, 256], weight: [768, 256] } },
      { name: '124M', inputs: { x: [4096, 768], weight: [2048, 768] } },
    ],
  }),
  defineCases(linearDxOp, {
    cases: [
      { name: 'odd', inputs: { dy: [3, 17, 65], weight: [65, 31] }, ...sumOf(65) },
      { name: 'N empty', inputs: { dy: [3, 0], weight: [0, 5] } },
      {
        name: 'rows view',
        inputs: { dy: { shape: [19, 33], strides: 'padded' }, weight: [33, 70] },
        ...sumOf(33),
      },
      { name: 'N of two passes', inputs: { dy: [6, 4100], weight: [4100, 40] }, ...large },
    ],
    errors: [
      {
        name: 'another N',
        inputs: { dy: [2, 8], weight: [9, 4] },
        code: 'ERR_SHAPE',
        message: /weight must be \[8, K\]/,
      },
    ],
    bench: [{ name: '124M', inputs: { dy: [4096, 2048], weight: [2048, 768] } }],
  }),
  defineCases(linearDwOp, {
    cases: [
      {
        name: 'written',
        inputs: { dy: [33, 17], x: [33, 65], dw: [17, 65], dbias: [17] },
        attributes: { accumulate: false },
        ...sumOf(33),
      },
      {
        name: 'added',
        inputs: { dy: [2, 31, 40], x: [2, 31, 15], dw: [40, 15], dbias: [40] },
        attributes: { accumulate: true },
        ...sumOf(62),
      },
      {
        name: 'rows views, no bias',
        inputs: {
          dy: { shape: [63, 9], strides: 'padded' },
          x: { shape: [63, 33], strides: 'padded' },
          dw: [9, 33],
        },
        attributes: { accumulate: true },
        ...sumOf(63),
      },
      {
        name: 'no rows, added',
        inputs: { dy: [0, 9], x: [0, 5], dw: [9, 5], dbias: [9] },
        attributes: { accumulate: true },
      },
      {
        name: 'no rows, written',
        inputs: { dy: [0, 9], x: [0, 5], dw: [9, 5] },
        attributes: { accumulate: false },
      },
      {
        name: 'rows of two passes, added',
        inputs: { dy: [4100, 30], x: [4100, 20], dw: [30, 20], dbias: [30] },
        attributes: { accumulate: true },
        ...large,
      },
    ],
    errors: [
      {
        name: 'dw of another shape',
        inputs: { dy: [4, 9], x: [4, 5], dw: [5, 9] },
        attributes: { accumulate: false },
        code: 'ERR_SHAPE',
        message: /dw must be \[9,5\]/,
      },
    ],
    bench: [
      {
        name: '124M',
        inputs: { dy: [4096, 2048], x: [4096, 768], dw: [2048, 768] },
        attributes: { accumulate: true },
      },
    ],
  }),
]
