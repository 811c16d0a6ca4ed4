import { dequantizeInt8Op, quantizeInt8Op } from '../../lib/ops/quantize_int8.ts'
import { dtypeCodes } from '../../lib/tensor/dtype.ts'
import { defineCases } from './cases.ts'

const ODD = [1, 15, 17, 31, 33, 63, 65, 127]
const f32 = dtypeCodes.f32
const bf16 = dtypeCodes.bf16
const int8 = { range: [-127, 128] } as const
/** 2^-149, the smallest float32. */
const DENORMAL = 2 ** -149

export default [
  defineCases(quantizeInt8Op, {
    cases: [
      ...ODD.map((n, i) => ({
        name: `K ${n}`,
        inputs: { w: [ODD[(i + 3) % 8] ?? 1, n] },
        attributes: { group: 0 },
      })),
      ...[32, 64, 128].flatMap((group) => [
        { name: `group ${group}`, inputs: { w: [5, 2 * group] }, attributes: { group } },
        { name: `group ${group}, ragged`, inputs: { w: [3, 2 * group + 17] }, attributes: { group } },
        { name: `group ${group}, one short`, inputs: { w: [3, 31] }, attributes: { group } },
      ]),
      {
        name: 'rows view',
        inputs: { w: { shape: [9, 67], strides: 'padded' } },
        attributes: { group: 32 },
      },
      { name: 'outliers', inputs: { w: { shape: [17, 127], fill: 'outliers' } }, attributes: { group: 0 } },
      {
        name: 'outliers in groups',
        inputs: { w: { shape: [17, 127], fill: 'outliers' } },
        attributes: { group: 32 },
      },
      { name: 'zeros', inputs: { w: { shape: [3, 40], fill: { values: [0] } } }, attributes: { group: 0 } },
      {
        name: 'a row of zeros between others, and a group of them',
        inputs: { w: { shape: [3, 96], fill: { from: (i) => (i >= 64 && i < 192 ? 0 : (i % 13) - 6) } } },
        attributes: { group: 32 },
      },
      {
        name: 'halves round to even',
        inputs: { w: { shape: [1, 6], fill: { values: [127, 0.5, 1.5, 2.5, -0.5, -1.5] } } },
        attributes: { group: 0 },
      },
      {
        name: 'not finite',
        inputs: {
          w: {
            shape: [4, 33],
            fill: { from: (i) => (i === 40 ? Number.NaN : i === 75 ? -Infinity : i % 7) },
          },
        },
        attributes: { group: 0 },
      },
      {
        // 50 of the smallest steps / 127 is 0 in float32; 190 / 127 rounds to 1, and 190 / 1 saturates
        name: 'too small for a scale',
        inputs: {
          w: { shape: [2, 20], fill: { from: (i) => (i < 20 ? 50 : 190) * DENORMAL * (i % 2 ? 1 : -1) } },
        },
        attributes: { group: 0 },
        dtypes: ['f32'],
      },
      { name: 'large', inputs: { w: [300, 513] }, attributes: { group: 128 } },
      ...[1501, 1536, 9216].map((n) => ({
        name: `long rows, K ${n}`,
        inputs: { w: [2, n] },
        attributes: { group: 0 },
      })),
      { name: 'no rows', inputs: { w: [0, 8] }, attributes: { group: 0 } },
      { name: 'no columns', inputs: { w: [3, 0] }, attributes: { group: 0 } },
      { name: 'no columns, in groups', inputs: { w: [3, 0] }, attributes: { group: 32 } },
    ],
    errors: [
      {
        name: 'rank 3',
        inputs: { w: [2, 3, 4] },
        attributes: { group: 0 },
        code: 'ERR_SHAPE',
        message: /w must be \[N, K\]/,
      },
      {
        name: 'group 48',
        inputs: { w: [2, 96] },
        attributes: { group: 48 },
        code: 'ERR_VALUE',
        message: /group must be .* received 48/,
      },
    ],
    bench: [
      { name: '124M', inputs: { w: [2048, 768] }, attributes: { group: 0 } },
      { name: '124M, groups', inputs: { w: [2048, 768] }, attributes: { group: 128 } },
    ],
  }),
  defineCases(dequantizeInt8Op, {
    cases: [
      ...ODD.map((n, i) => ({
        name: `K ${n}`,
        inputs: {
          values: { shape: [ODD[(i + 3) % 8] ?? 1, n], fill: int8 },
          scales: [ODD[(i + 3) % 8] ?? 1],
        },
        attributes: { group: 0, dtype: i % 2 ? bf16 : f32 },
      })),
      ...[32, 64, 128].map((group) => ({
        name: `group ${group}, ragged`,
        inputs: { values: { shape: [5, 2 * group + 17], fill: int8 }, scales: [5, 3] },
        attributes: { group, dtype: bf16 },
      })),
      {
        name: 'to f64',
        inputs: { values: { shape: [5, 45], fill: int8 }, scales: [5, 2] },
        attributes: { group: 32, dtype: dtypeCodes.f64 },
      },
      {
        name: 'no columns',
        inputs: { values: { shape: [3, 0], fill: int8 }, scales: [3] },
        attributes: { group: 0, dtype: f32 },
      },
    ],
    errors: [
      {
        name: 'scales of another group',
        inputs: { values: { shape: [2, 96], fill: int8 }, scales: [2, 3] },
        attributes: { group: 64, dtype: f32 },
        code: 'ERR_SHAPE',
        message: /scales must be \[2,2\]/,
      },
      {
        name: 'to integers',
        inputs: { values: { shape: [2, 8], fill: int8 }, scales: [2] },
        attributes: { group: 0, dtype: dtypeCodes.i32 },
        code: 'ERR_SHAPE',
        message: /dtype must be f32, bf16 or f64/,
      },
    ],
    bench: [
      {
        name: '124M',
        inputs: { values: { shape: [2048, 768], fill: int8 }, scales: [2048] },
        attributes: { group: 0, dtype: bf16 },
      },
    ],
  }),
]
