import { embeddingBackwardOp, embeddingOp } from '../../lib/ops/embedding.ts'
import { defineCases } from './cases.ts'

const ids = (shape: readonly number[], hi: number) => ({ shape, fill: { range: [0, hi] as const } })
/** Most tokens have one id, so that one row of the gradient is a long sum. */
const skewed = { shape: [600], fill: { from: (i: number) => (i % 7 === 0 ? i % 50 : 3) } }

export default [
  defineCases(embeddingOp, {
    cases: [
      ...[1, 15, 17, 31, 33, 63, 65, 127].map((n) => ({
        name: `D ${n}`,
        inputs: { ids: ids([2, 9], 5), table: [5, n] },
      })),
      {
        name: 'table inside wider rows',
        inputs: { ids: ids([7], 5), table: { shape: [5, 33], strides: 'padded' } },
      },
      { name: 'one id', inputs: { ids: { shape: [], fill: { values: [2] } }, table: [3, 8] } },
      { name: 'no ids', inputs: { ids: ids([0], 3), table: [3, 8] } },
      {
        name: 'one id mostly',
        inputs: { ids: skewed, table: [50, 40] },
        tolerance: { f32: { rtol: 1.3e-6, atol: 1e-4, reason: 'a float32 sum of 500 values' } },
        noFiniteDifferences: 'too large',
      },
    ],
    errors: [
      {
        name: 'an id past the table',
        inputs: { ids: { shape: [4], fill: { values: [0, 1, 3, 1] } }, table: [3, 2] },
        code: 'ERR_VALUE',
        message: /ids\[2\] is 3, expected 0 <= ids < 3/,
      },
      {
        name: 'a negative id',
        inputs: { ids: { shape: [2], fill: { values: [0, -1] } }, table: [3, 2] },
        code: 'ERR_VALUE',
        message: /ids\[1\] is -1/,
      },
      {
        name: 'table of rank 3',
        inputs: { ids: ids([2], 3), table: [3, 2, 2] },
        code: 'ERR_SHAPE',
        message: /table must be \[V, D\]/,
      },
    ],
    bench: [{ inputs: { ids: ids([4, 1024], 50304), table: [50304, 768] } }],
  }),
  defineCases(embeddingBackwardOp, {
    cases: [
      {
        name: 'written',
        inputs: { dout: [2, 9, 33], ids: ids([2, 9], 5), dtable: [5, 33] },
        attributes: { accumulate: false },
      },
      {
        name: 'added',
        inputs: { dout: [2, 9, 33], ids: ids([2, 9], 5), dtable: [5, 33] },
        attributes: { accumulate: true },
      },
      {
        name: 'no tokens, added',
        inputs: { dout: [0, 8], ids: ids([0], 5), dtable: [5, 8] },
        attributes: { accumulate: true },
      },
      {
        name: 'no tokens, written',
        inputs: { dout: [0, 8], ids: ids([0], 5), dtable: [5, 8] },
        attributes: { accumulate: false },
      },
      {
        name: 'rows view',
        inputs: { dout: { shape: [9, 33], strides: 'padded' }, ids: ids([9], 5), dtable: [5, 33] },
        attributes: { accumulate: true },
      },
      {
        name: 'ids past 2^11',
        inputs: { dout: [500, 9], ids: ids([500], 5000), dtable: [5000, 9] },
        attributes: { accumulate: false },
      },
    ],
    errors: [
      {
        name: 'dout of another width',
        inputs: { dout: [4, 9], ids: ids([4], 5), dtable: [5, 8] },
        attributes: { accumulate: false },
        code: 'ERR_SHAPE',
        message: /dout must be \[4,8\]/,
      },
    ],
  }),
]
