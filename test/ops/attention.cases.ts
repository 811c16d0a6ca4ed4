import { attentionOp } from '../../lib/ops/attention.ts'
import { defineCases, type OpCase, type Tolerance } from './cases.ts'

const f32: Tolerance = {
  rtol: 1e-5,
  atol: 2e-5,
  reason: 'scores of size 5 carry float32 errors of 1e-6 into exponentials, and gradients sum them',
}
const bf16: Tolerance = {
  rtol: 1.6e-2,
  atol: 3e-2,
  reason: 'probabilities, their gradients and the saved output are rounded to 8 bits before they are summed',
}
const tolerance = { f32, bf16 }

type Shape = { B?: number; T: number; S?: number; H?: number; Hkv?: number; D: number }
const qkv = ({ B = 1, T, S = T, H = 2, Hkv = H, D }: Shape) => ({
  q: [B, T, H, D],
  k: [B, S, Hkv, D],
  v: [B, S, Hkv, D],
})
const scaled = (D: number, causal: boolean, window = 0) => ({ scale: 1 / Math.sqrt(D), causal, window })
const from = (shape: readonly number[], value: (i: number) => number) => ({ shape, fill: { from: value } })

const sizes: readonly OpCase[] = [1, 15, 17, 31, 33, 63, 65, 127].flatMap((T) => [
  {
    name: `T ${T}, causal`,
    inputs: qkv({ T, D: 16 }),
    attributes: scaled(16, true),
    tolerance,
    ...(T > 33 && { noFiniteDifferences: 'too large' }),
  },
  {
    name: `S ${T}, all keys, grouped heads`,
    inputs: qkv({ B: 2, T: 3, S: T, H: 4, Hkv: 2, D: 8 }),
    attributes: scaled(8, false),
    tolerance,
    ...(T > 33 && { noFiniteDifferences: 'too large' }),
  },
])

export default defineCases(attentionOp, {
  cases: [
    ...sizes,
    ...[1, 7, 32, 33, 64, 80, 128, 256].map((D) => ({
      name: `D ${D}`,
      inputs: qkv({ T: 9, S: 13, D }),
      attributes: scaled(D, true),
      tolerance,
    })),
    {
      name: 'documents',
      inputs: { ...qkv({ B: 2, T: 20, D: 8 }), first: from([2, 20], (i) => Math.floor((i % 20) / 6) * 6) },
      attributes: scaled(8, true),
      tolerance,
    },
    {
      name: 'left padding: the first queries see nothing',
      inputs: { ...qkv({ B: 2, T: 9, D: 8 }), first: from([2, 9], (i) => (i < 9 ? 0 : 4)) },
      attributes: scaled(8, true),
      tolerance,
    },
    {
      name: 'first and last, some empty, some outside the keys',
      inputs: {
        ...qkv({ T: 12, S: 10, D: 8 }),
        first: from([1, 12], (i) => [-3, 0, 4, 9, 12, 5][i % 6] as number),
        last: from([1, 12], (i) => [-1, 3, 20, 9, 15, 4][i % 6] as number),
      },
      attributes: scaled(8, false),
      tolerance,
    },
    {
      name: 'sliding window over several blocks of keys',
      inputs: { ...qkv({ T: 200, D: 16 }), first: from([1, 200], (i) => i - 70) },
      attributes: scaled(16, true),
      tolerance,
      noFiniteDifferences: 'too large',
    },
    ...[1, 5, 70].map((window) => ({
      name: `window ${window}`,
      inputs: qkv({ B: 2, T: window < 70 ? 17 : 200, H: 4, Hkv: 2, D: 16 }),
      attributes: scaled(16, true, window),
      tolerance,
      ...(window === 70 && { noFiniteDifferences: 'too large' }),
    })),
    {
      name: 'window, packed documents and left padding together',
      inputs: {
        ...qkv({ B: 2, T: 24, D: 8 }),
        first: from([2, 24], (i) => (i < 24 ? 5 : Math.floor((i % 24) / 7) * 7)),
      },
      attributes: scaled(8, true, 4),
      tolerance,
    },
    {
      name: 'window over more keys than queries',
      inputs: qkv({ T: 5, S: 150, D: 8 }),
      attributes: scaled(8, true, 80),
      tolerance,
      noFiniteDifferences: 'too large',
    },
    {
      name: 'more queries than keys',
      inputs: qkv({ T: 9, S: 5, D: 8 }),
      attributes: scaled(8, true),
      tolerance,
    },
    {
      name: 'one query, many keys',
      inputs: qkv({ T: 1, S: 300, H: 4, Hkv: 2, D: 16 }),
      attributes: scaled(16, true),
      tolerance,
      noFiniteDifferences: 'too large',
    },
    {
      name: 'several chunks of queries and keys, grouped heads',
      inputs: qkv({ T: 600, H: 4, Hkv: 2, D: 32 }),
      attributes: scaled(32, true),
      tolerance,
      noFiniteDifferences: 'too large',
    },
    {
      name: 'heads inside wider rows',
      inputs: {
        q: { shape: [2, 7, 2, 16], strides: 'padded' },
        k: { shape: [2, 7, 2, 16], strides: 'padded' },
        v: { shape: [2, 7, 2, 16], strides: 'padded' },
      },
      attributes: scaled(16, true),
      tolerance,
    },
    {
      name: 'sharp scores',
      inputs: { ...qkv({ T: 40, D: 16 }), q: { shape: [1, 40, 2, 16], fill: { scale: 8 } } },
      attributes: scaled(16, true),
      tolerance: {
        f32: { rtol: 1e-5, atol: 2e-4, reason: 'scores of size 30 have float32 errors of 4e-6' },
        bf16: { rtol: 1.6e-2, atol: 0.25, reason: 'as above, with gradients of keys eight times as large' },
      },
      noFiniteDifferences: 'third derivatives are too large for the step',
    },
    { name: 'no queries', inputs: qkv({ T: 0, S: 4, D: 8 }), attributes: scaled(8, false) },
    { name: 'no keys', inputs: qkv({ T: 4, S: 0, D: 8 }), attributes: scaled(8, false) },
  ],
  errors: [
    {
      name: 'heads that do not group',
      inputs: { q: [1, 4, 3, 8], k: [1, 4, 2, 8], v: [1, 4, 2, 8] },
      attributes: scaled(8, true),
      code: 'ERR_SHAPE',
      message: /attention: k must be with a number of heads that divides the 3 of q/,
    },
    {
      name: 'first of another length',
      inputs: { ...qkv({ T: 4, D: 8 }), first: from([1, 5], () => 0) },
      attributes: scaled(8, true),
      code: 'ERR_SHAPE',
      message: /attention: first must be \[1,4\]/,
    },
    {
      name: 'scale 0',
      inputs: qkv({ T: 4, D: 8 }),
      attributes: { scale: 0, causal: true, window: 0 },
      code: 'ERR_VALUE',
      message: /scale/,
    },
    {
      name: 'a window that looks ahead',
      inputs: qkv({ T: 4, D: 8 }),
      attributes: scaled(8, false, 2),
      code: 'ERR_VALUE',
      message: /attention: a window needs causal: true/,
    },
  ],
  bench: [
    { inputs: qkv({ B: 4, T: 1024, H: 12, D: 64 }), attributes: scaled(64, true) },
    { inputs: qkv({ B: 16, T: 256, H: 4, D: 64 }), attributes: scaled(64, true) },
    { inputs: qkv({ B: 32, T: 128, H: 4, D: 32 }), attributes: scaled(32, true) },
    { inputs: qkv({ B: 1, T: 4096, H: 4, D: 128 }), attributes: scaled(128, true) },
    { inputs: qkv({ B: 1, T: 4096, H: 4, D: 128 }), attributes: scaled(128, true, 512) },
  ],
})
