import { cachedAttentionOp } from '../../lib/ops/cached_attention.ts'
import { defineCases, type OpCase, type Tolerance } from './cases.ts'

const tolerance: { readonly f32: Tolerance; readonly bf16: Tolerance } = {
  f32: { rtol: 1e-5, atol: 2e-5, reason: 'scores of size 5 carry float32 errors of 1e-6 into exponentials' },
  bf16: {
    rtol: 1.6e-2,
    atol: 1e-2,
    reason: 'longer pieces round probabilities to 8 bits before they are summed',
  },
}

type Shape = { B?: number; T?: number; S: number; H?: number; Hkv?: number; D: number }
/** Caches as KvCache lays them out but for the order of axes: the matrix stores [B, S, Hkv, D]. */
const inputs = (
  { B = 1, T = 1, S, H = 2, Hkv = H, D }: Shape,
  start: readonly number[],
  first?: readonly number[],
) => ({
  q: [B, T, H, D],
  k: [B, S, Hkv, D],
  v: [B, S, Hkv, D],
  start: { shape: [B], fill: { values: start } },
  ...(first && { first: { shape: [B], fill: { values: first } } }),
})
const scaled = (D: number, window = 0) => ({ scale: 1 / Math.sqrt(D), window })

const sizes: readonly OpCase[] = [1, 15, 17, 31, 33, 63, 65, 127].flatMap((n) => [
  {
    name: `one query, ${n} positions`,
    inputs: inputs({ S: 130, H: 4, Hkv: 2, D: 16 }, [n - 1]),
    attributes: scaled(16),
    tolerance,
  },
  {
    name: `${n} queries`,
    inputs: inputs({ B: 2, T: n, S: 130, D: 8 }, [3, 0]),
    attributes: scaled(8),
    tolerance,
  },
])

export default defineCases(cachedAttentionOp, {
  cases: [
    ...sizes,
    ...[1, 7, 8, 32, 40, 64, 80, 96, 128, 256].flatMap((D) =>
      [1, 3, 12].map((T) => ({
        name: `D ${D}, ${T} queries`,
        inputs: inputs({ T, S: 40, H: 6, Hkv: 2, D }, [20]),
        attributes: scaled(D),
        tolerance,
      })),
    ),
    ...[1, 2, 5, 7].map((group) => ({
      name: `${group} query heads per key head`,
      inputs: inputs({ B: 2, S: 90, H: group * 2, Hkv: 2, D: 24 }, [80, 41]),
      attributes: scaled(24),
      tolerance,
    })),
    {
      name: 'rows of different lengths, several chunks',
      inputs: inputs({ B: 3, S: 1000, H: 4, Hkv: 2, D: 16 }, [998, 255, 0]),
      attributes: scaled(16),
      tolerance,
    },
    {
      name: 'a few queries over several chunks',
      inputs: inputs({ B: 2, T: 4, S: 700, H: 4, Hkv: 2, D: 16 }, [600, 254]),
      attributes: scaled(16),
      tolerance,
    },
    {
      name: 'a piece of a prompt over several chunks',
      inputs: inputs({ B: 2, T: 90, S: 700, H: 4, Hkv: 2, D: 16 }, [600, 254]),
      attributes: scaled(16),
      tolerance,
    },
    ...[1, 4, 20].flatMap((T) => [
      {
        name: `a ring that has rolled over, ${T} queries`,
        inputs: inputs({ B: 4, T, S: 60, D: 16 }, [1000, 59, 31, 3]),
        attributes: scaled(16, 33),
        tolerance,
      },
      {
        name: `a ring of several chunks that has rolled over, ${T} queries`,
        inputs: inputs({ B: 2, T, S: 620, D: 16 }, [1000, 640]),
        attributes: scaled(16, 600),
        tolerance,
      },
      {
        name: `left padding, some rows all padding, ${T} queries`,
        inputs: inputs({ B: 3, T, S: 80, D: 16 }, [40, 12, 5], [7, 0, 60]),
        attributes: scaled(16),
        tolerance,
      },
      {
        name: `left padding and a window, ${T} queries`,
        inputs: inputs({ B: 2, T, S: 80, D: 16 }, [40, 12], [38, 9]),
        attributes: scaled(16, 5),
        tolerance,
      },
    ]),
    {
      name: 'a ring of exactly its window',
      inputs: inputs({ S: 7, D: 8 }, [23]),
      attributes: scaled(8, 7),
      tolerance,
    },
    {
      name: 'rows inside wider ones',
      inputs: {
        q: { shape: [2, 1, 4, 16], strides: 'padded' },
        k: { shape: [2, 30, 2, 16], strides: 'padded' },
        v: { shape: [2, 30, 2, 16], strides: 'padded' },
        start: { shape: [2], fill: { values: [29, 11] } },
      },
      attributes: scaled(16),
      tolerance,
    },
    {
      name: 'outliers',
      inputs: { ...inputs({ S: 50, D: 16 }, [49]), v: { shape: [1, 50, 2, 16], fill: 'outliers' } },
      attributes: scaled(16),
      tolerance,
    },
    { name: 'no rows', inputs: inputs({ B: 0, S: 4, D: 8 }, []), attributes: scaled(8) },
    { name: 'no queries', inputs: inputs({ T: 0, S: 4, D: 8 }, [1]), attributes: scaled(8) },
  ],
  errors: [
    {
      name: 'past the cache',
      inputs: inputs({ S: 8, D: 8 }, [8]),
      attributes: scaled(8),
      code: 'ERR_VALUE',
      message: /row 0 ends at 9, past a cache of 8 positions/,
    },
    {
      name: 'past a cache without room for the window of all queries',
      inputs: inputs({ T: 3, S: 8, D: 8 }, [9]),
      attributes: scaled(8, 7),
      code: 'ERR_VALUE',
      message: /3 queries with a window of 7 do not fit/,
    },
    {
      name: 'a negative start',
      inputs: inputs({ S: 8, D: 8 }, [-1]),
      attributes: scaled(8),
      code: 'ERR_VALUE',
      message: /start\[0\] is -1/,
    },
    {
      name: 'more queries than slots',
      inputs: inputs({ T: 9, S: 8, D: 8 }, [0]),
      attributes: scaled(8),
      code: 'ERR_SHAPE',
      message: /cachedAttention: q must be \[B, T, H, D\] with T of at most the 8 slots/,
    },
    {
      name: 'start of another batch',
      inputs: { ...inputs({ S: 8, D: 8 }, [0]), start: { shape: [2], fill: { values: [0] } } },
      attributes: scaled(8),
      code: 'ERR_SHAPE',
      message: /cachedAttention: start must be \[1\]/,
    },
  ],
  bench: [
    { inputs: inputs({ S: 4096, H: 32, Hkv: 32, D: 128 }, [4095]), attributes: scaled(128) },
    { inputs: inputs({ S: 4096, H: 32, Hkv: 8, D: 128 }, [4095]), attributes: scaled(128) },
    { inputs: inputs({ B: 8, S: 1024, H: 12, D: 64 }, [1023]), attributes: scaled(64) },
    { inputs: inputs({ T: 128, S: 4096, H: 32, Hkv: 8, D: 128 }, [3968]), attributes: scaled(128) },
  ],
})
