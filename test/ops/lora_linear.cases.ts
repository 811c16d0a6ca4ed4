import { loraLinearBackwardOp, loraLinearOp } from '../../lib/ops/lora_linear.ts'
import { defineCases } from './cases.ts'

const RANKS = [1, 15, 17, 31, 33, 63, 65, 127]
/** Sums of n terms in float32; in bf16 x A^T and its gradient, sums of `inner` terms, are stored between. */
const sumOf = (n: number, inner: number, scale: number) => ({
  tolerance: {
    f32: {
      rtol: 1.3e-6,
      atol: 6e-6 * scale * Math.sqrt(n * inner) + 4e-6 * Math.sqrt(n),
      reason: `float32 sums of ${n} products with sums of ${inner}`,
    },
    bf16: {
      rtol: 1.6e-2,
      atol: 6 * 2 ** -9 * scale * Math.sqrt(n * inner),
      reason: `x A^T is kept in bf16: ${n} roundings of 2^-9 of sums of ${inner}`,
    },
  },
})

export default [
  defineCases(loraLinearOp, {
    cases: [
      ...RANKS.map((r, i) => ({
        name: `rank ${r}`,
        inputs: {
          x: [3, RANKS[(i + 3) % 8] ?? 1],
          weight: [RANKS[(i + 5) % 8] ?? 1, RANKS[(i + 3) % 8] ?? 1],
          bias: [RANKS[(i + 5) % 8] ?? 1],
          a: [r, RANKS[(i + 3) % 8] ?? 1],
          b: [RANKS[(i + 5) % 8] ?? 1, r],
        },
        attributes: { scale: 2 },
        ...sumOf(127, 127, 2),
        ...(i > 2 ? { noFiniteDifferences: 'too large' } : {}),
      })),
      {
        name: 'batch of rows, no bias, a scale that rounds',
        inputs: { x: [2, 3, 24], weight: [16, 24], a: [4, 24], b: [16, 4] },
        attributes: { scale: 1 / 3 },
        ...sumOf(24, 24, 1),
      },
      {
        name: 'many rows, rows view',
        inputs: { x: { shape: [130, 33], strides: 'padded' }, weight: [40, 33], a: [8, 33], b: [40, 8] },
        attributes: { scale: 0.5 },
        ...sumOf(130, 40, 0.5),
        noFiniteDifferences: 'too large',
      },
      {
        name: 'no rows',
        inputs: { x: [0, 8], weight: [5, 8], a: [2, 8], b: [5, 2] },
        attributes: { scale: 1 },
      },
    ],
    errors: [
      {
        name: 'a of another K',
        inputs: { x: [2, 8], weight: [4, 8], a: [2, 9], b: [4, 2] },
        attributes: { scale: 1 },
        code: 'ERR_SHAPE',
        message: /a must be \[r, 8\]/,
      },
      {
        name: 'b of another rank',
        inputs: { x: [2, 8], weight: [4, 8], a: [2, 8], b: [4, 3] },
        attributes: { scale: 1 },
        code: 'ERR_SHAPE',
        message: /b must be \[4, 2\]/,
      },
    ],
    bench: [
      {
        name: '124M, rank 16',
        inputs: { x: [4096, 768], weight: [2048, 768], a: [16, 768], b: [2048, 16] },
        attributes: { scale: 2 },
      },
    ],
  }),
  defineCases(loraLinearBackwardOp, {
    cases: [
      {
        name: 'all, A added to and B written',
        inputs: {
          dy: [33, 17],
          x: [33, 31],
          weight: [17, 31],
          a: [5, 31],
          b: [17, 5],
          xa: [33, 5],
          da: [5, 31],
          db: [17, 5],
        },
        attributes: { scale: 0.5, needsDx: true, accumulateA: true, accumulateB: false },
        ...sumOf(33, 17, 0.5),
      },
      {
        name: 'parameters alone',
        inputs: {
          dy: [9, 17],
          x: [9, 31],
          weight: [17, 31],
          a: [5, 31],
          b: [17, 5],
          xa: [9, 5],
          da: [5, 31],
          db: [17, 5],
        },
        attributes: { scale: 2, needsDx: false, accumulateA: false, accumulateB: true },
        ...sumOf(33, 17, 2),
      },
    ],
  }),
]
