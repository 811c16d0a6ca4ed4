import { loraLinearBackwardOp, loraLinearOp } from '../../lib/ops/lora_linear.ts'
import { type CaseInputs, defineCases } from './cases.ts'

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
const scales = (scale0: number, scale1 = 1, scale2 = 1) => ({ scale0, scale1, scale2 })

interface Has {
  readonly bias?: true
  /** Its shape: in place of the weight. */
  readonly base?: readonly number[]
  /** Its shape. */
  readonly dropped?: readonly number[]
}

/** A member with `n` outputs, of rank `r` or without a term, over `k` inputs. */
function member(n: number, k: number, r: number | null, { bias, base, dropped }: Has = {}): CaseInputs {
  return {
    ...(base ? { base } : { weight: [n, k] }),
    ...(bias && { bias: [n] }),
    ...(r !== null && { a: [r, k], b: [n, r] }),
    ...(dropped && { dropped }),
  }
}

/** What the backward is told of a member. */
function gradients(
  n: number,
  k: number,
  r: number,
  { rows = 33, weight = true, dropped = false } = {},
): CaseInputs {
  return {
    dy: [rows, n],
    ...(weight && { weight: [n, k] }),
    a: [r, k],
    b: [n, r],
    xa: [rows, r],
    ...(dropped && { dropped: [rows, k] }),
    da: [r, k],
    db: [n, r],
  }
}

export default [
  defineCases(loraLinearOp, {
    cases: [
      ...RANKS.map((r, i) => ({
        name: `rank ${r}`,
        inputs: { x: [3, RANKS[(i + 3) % 8] ?? 1] },
        groups: [member(RANKS[(i + 5) % 8] ?? 1, RANKS[(i + 3) % 8] ?? 1, r, { bias: true })],
        attributes: scales(2),
        ...sumOf(127, 127, 2),
        ...(i > 2 ? { noFiniteDifferences: 'too large' } : {}),
      })),
      {
        name: 'batch of rows, no bias, a scale that rounds',
        inputs: { x: [2, 3, 24] },
        groups: [member(16, 24, 4)],
        attributes: scales(1 / 3),
        ...sumOf(24, 24, 1),
      },
      {
        name: 'float32 terms beside any weight',
        inputs: { x: [9, 24] },
        groups: [
          {
            weight: [16, 24],
            a: { shape: [4, 24], dtype: 'f32' },
            b: { shape: [16, 4], dtype: 'f32' },
          },
        ],
        attributes: scales(2),
        ...sumOf(24, 24, 2),
      },
      {
        name: 'many rows, rows view',
        inputs: { x: { shape: [130, 33], strides: 'padded' } },
        groups: [member(40, 33, 8)],
        attributes: scales(0.5),
        ...sumOf(130, 40, 0.5),
        noFiniteDifferences: 'too large',
      },
      {
        name: 'three members, terms on two',
        inputs: { x: [2, 4, 15] },
        groups: [member(17, 15, 4, { bias: true }), member(9, 15, null), member(7, 15, 2)],
        attributes: scales(2, 1, 0.5),
        ...sumOf(17, 17, 2),
      },
      {
        name: 'a base of another kind beside a weight',
        inputs: { x: [6, 15] },
        groups: [member(17, 15, 4, { base: [6, 17] }), member(9, 15, 3)],
        attributes: scales(0.5, 2),
        ...sumOf(17, 17, 2),
      },
      {
        name: 'a base for one row, and one without a term',
        inputs: { x: [1, 15] },
        groups: [member(17, 15, 4, { base: [1, 17] }), member(5, 15, null, { base: [1, 5] })],
        attributes: scales(0.5),
        ...sumOf(17, 17, 1),
      },
      {
        name: 'terms that see a dropped x',
        inputs: { x: [2, 4, 15] },
        groups: [
          member(17, 15, 4, { dropped: [2, 4, 15] }),
          member(9, 15, 3, { base: [2, 4, 9], dropped: [2, 4, 15] }),
        ],
        attributes: scales(0.5, 2),
        ...sumOf(17, 17, 2),
      },
      {
        name: 'three members of many rows',
        inputs: { x: [130, 65] },
        groups: [member(127, 65, 8), member(33, 65, 16, { bias: true }), member(33, 65, 1)],
        attributes: scales(0.5, 1, 2),
        ...sumOf(130, 65, 2),
        noFiniteDifferences: 'too large',
      },
      {
        name: 'no rows',
        inputs: { x: [0, 8] },
        groups: [member(5, 8, 2), member(5, 8, 2, { base: [0, 5] })],
        attributes: scales(1),
      },
    ],
    errors: [
      {
        name: 'a of another K',
        inputs: { x: [2, 8] },
        groups: [{ weight: [4, 8], a: [2, 9], b: [4, 2] }],
        attributes: scales(1),
        code: 'ERR_SHAPE',
        message: /a must be \[r, 8\]/,
      },
      {
        name: 'b of another rank',
        inputs: { x: [2, 8] },
        groups: [{ weight: [4, 8], a: [2, 8], b: [4, 3] }],
        attributes: scales(1),
        code: 'ERR_SHAPE',
        message: /b must be \[4, 2\]/,
      },
      {
        name: 'a without b, in the second member',
        inputs: { x: [2, 8] },
        groups: [{ weight: [4, 8] }, { weight: [4, 8], a: [2, 8] }],
        attributes: scales(1),
        code: 'ERR_SHAPE',
        message: /b1 must be there/,
      },
      {
        name: 'weight and base',
        inputs: { x: [2, 8] },
        groups: [{ weight: [4, 8], base: [2, 4] }],
        attributes: scales(1),
        code: 'ERR_SHAPE',
        message: /weight must be there, or base/,
      },
      {
        name: 'four members',
        inputs: { x: [2, 8] },
        groups: [member(4, 8, 1), member(4, 8, 1), member(4, 8, 1), member(4, 8, 1)],
        attributes: scales(1),
        code: 'ERR_SHAPE',
        message: /members must be 1 to 3/,
      },
    ],
    bench: [
      {
        name: '124M, rank 16',
        inputs: { x: [4096, 768] },
        groups: [member(2048, 768, 16)],
        attributes: scales(2),
      },
      {
        name: '124M, queries and values of three',
        inputs: { x: [4096, 768] },
        groups: [member(768, 768, 16), member(768, 768, null), member(768, 768, 16)],
        attributes: scales(2, 1, 2),
      },
    ],
  }),
  defineCases(loraLinearBackwardOp, {
    cases: [
      {
        name: 'all, A added to and B written',
        inputs: { x: [33, 31] },
        groups: [gradients(17, 31, 5)],
        attributes: { needsDx: true, ...scales(0.5), accumulateA: 1, accumulateB: 0 },
        ...sumOf(33, 17, 0.5),
      },
      {
        name: 'parameters alone',
        inputs: { x: [9, 31] },
        groups: [gradients(17, 31, 5, { rows: 9 })],
        attributes: { needsDx: false, ...scales(2), accumulateA: 0, accumulateB: 1 },
        ...sumOf(33, 17, 2),
      },
      {
        name: 'three members, one without a term, each added to in its own way',
        inputs: { x: [33, 31] },
        groups: [gradients(17, 31, 5), { dy: [33, 9], weight: [9, 31] }, gradients(15, 31, 8)],
        attributes: { needsDx: true, ...scales(0.5, 1, 2), accumulateA: 0b100, accumulateB: 0b001 },
        ...sumOf(41, 17, 2),
      },
      {
        name: 'a base, and dropped ones',
        inputs: { x: [33, 31] },
        groups: [
          gradients(17, 31, 5, { weight: false }),
          gradients(9, 31, 3, { dropped: true }),
          gradients(7, 31, 2, { weight: false, dropped: true }),
        ],
        attributes: { needsDx: true, ...scales(0.5, 1, 2), accumulateA: 0b001, accumulateB: 0b110 },
        ...sumOf(33, 17, 2),
      },
    ],
  }),
]
