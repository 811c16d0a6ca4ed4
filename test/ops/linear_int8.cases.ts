import { linearInt8DxOp, linearInt8DynamicOp, linearInt8Op } from '../../lib/ops/linear_int8.ts'
import { defineCases, inputSpec, type OpCase } from './cases.ts'

const ODD = [1, 15, 17, 31, 33, 63, 65, 127]
const GROUPS = [0, 32, 64, 128]
const at = (list: readonly number[], i: number): number => list[i % list.length] ?? 0

/** i8 values and scales that bring a row's products back to the size of N(0, 1). */
function weight(n: number, k: number, group: number) {
  const shape = group === 0 ? [n] : [n, Math.ceil(k / group)]
  return {
    values: { shape: [n, k], fill: { range: [-127, 128] } },
    scales: { shape, fill: { range: [0.005, 0.02] } },
  } as const
}

/** Sums of n products of N(0, 1): float32 rounds each step, in an order of its own. */
const sumOf = (n: number) => ({
  tolerance: {
    f32: { rtol: 1.3e-6, atol: 4e-6 * Math.sqrt(n), reason: `float32 sums of ${n} products` },
    bf16: { rtol: 1.6e-2, atol: 4e-6 * Math.sqrt(n), reason: `float32 sums of ${n} products` },
  },
})
const large = (n: number) => ({ noFiniteDifferences: 'too large', ...sumOf(n) })

/** Both computations see the same shapes: few rows (GEMV), a block, several; K of one step and of many. */
const forward: OpCase[] = [
  ...ODD.map((n, i) => ({
    name: `N ${n}`,
    inputs: { x: [at(ODD, i + 3), at(ODD, i + 1)], ...weight(n, at(ODD, i + 1), at(GROUPS, i)), bias: [n] },
    attributes: { group: at(GROUPS, i) },
    ...large(127),
  })),
  ...ODD.map((k, i) => ({
    name: `few rows, K ${k}`,
    inputs: { x: [at([1, 2, 3, 4], i), k], ...weight(at(ODD, i + 5), k, at(GROUPS, i + 1)) },
    attributes: { group: at(GROUPS, i + 1) },
    ...sumOf(127),
  })),
  ...GROUPS.flatMap((group) => [
    {
      name: `group ${group}, 40 rows`,
      inputs: { x: [40, 450], ...weight(70, 450, group), bias: [70] },
      attributes: { group },
      ...large(450),
    },
    {
      name: `group ${group}, one row`,
      inputs: { x: [450], ...weight(70, 450, group), bias: [70] },
      attributes: { group },
      ...large(450),
    },
    {
      name: `group ${group}, K of many blocks`,
      inputs: { x: [6, 2100], ...weight(33, 2100, group) },
      attributes: { group },
      ...large(2100),
    },
  ]),
  {
    name: 'N of many tiles',
    inputs: { x: [130, 96], ...weight(1100, 96, 32), bias: [1100] },
    attributes: { group: 32 },
    ...large(96),
  },
  {
    name: 'rows view',
    inputs: { x: { shape: [2, 9, 33], strides: 'padded' }, ...weight(17, 33, 0) },
    attributes: { group: 0 },
    ...sumOf(33),
  },
  {
    name: 'batch of rows',
    inputs: { x: [2, 3, 2, 40], ...weight(5, 40, 32), bias: [5] },
    attributes: { group: 32 },
    ...sumOf(40),
  },
  {
    name: 'outliers',
    inputs: { x: { shape: [9, 300], fill: 'outliers' }, ...weight(33, 300, 64) },
    attributes: { group: 64 },
    ...large(300),
  },
  {
    name: 'largest magnitudes',
    inputs: {
      x: { shape: [5, 200], fill: { values: [1] } },
      values: { shape: [40, 200], fill: { values: [-127] } },
      scales: { shape: [40], fill: { values: [0.01] } },
    },
    attributes: { group: 0 },
    ...sumOf(200),
  },
  {
    name: 'x of zeros',
    inputs: { x: { shape: [6, 40], fill: { values: [0] } }, ...weight(9, 40, 0), bias: [9] },
    attributes: { group: 0 },
  },
  {
    name: 'a row of x is not finite',
    inputs: {
      x: { shape: [7, 40], fill: { from: (i) => (i === 50 ? Number.NaN : (i % 9) - 4) } },
      ...weight(9, 40, 32),
    },
    attributes: { group: 32 },
    noFiniteDifferences: 'not finite',
    ...sumOf(40),
  },
  { name: 'no rows', inputs: { x: [0, 8], ...weight(5, 8, 0), bias: [5] }, attributes: { group: 0 } },
  { name: 'N empty', inputs: { x: [3, 8], ...weight(0, 8, 0) }, attributes: { group: 0 } },
  { name: 'K empty', inputs: { x: [3, 0], ...weight(5, 0, 0), bias: [5] }, attributes: { group: 0 } },
]

const errors = [
  {
    name: 'another K',
    inputs: { x: [2, 8], ...weight(4, 9, 0) },
    attributes: { group: 0 },
    code: 'ERR_SHAPE',
    message: /values must be \[N, 8\]/,
  },
  {
    name: 'scales of another group',
    inputs: { x: [2, 96], ...weight(4, 96, 32) },
    attributes: { group: 64 },
    code: 'ERR_SHAPE',
    message: /scales must be \[4,2\]/,
  },
  {
    name: 'bias too long',
    inputs: { x: [2, 8], ...weight(4, 8, 0), bias: [5] },
    attributes: { group: 0 },
    code: 'ERR_SHAPE',
    message: /bias must be \[4\]/,
  },
]

const bench = [0, 128].flatMap((group) => [
  {
    name: `124M, group ${group}`,
    inputs: { x: [512, 768], ...weight(2048, 768, group) },
    attributes: { group },
  },
  {
    name: `decode, group ${group}`,
    inputs: { x: [1, 4096], ...weight(11008, 4096, group) },
    attributes: { group },
  },
])

/** The weights of dx are rounded to bf16: each of n products of N(0, 1) by up to 2.54 is off by 2^-8. */
const rounded = (n: number) => ({
  f32: sumOf(n).tolerance.f32,
  bf16: { rtol: 1.6e-2, atol: 2 ** -8 * 2.54 * Math.sqrt(n), reason: `${n} weights rounded to bf16` },
})
const withGradient = (c: OpCase): OpCase => {
  const values = c.inputs['values']
  return { ...c, gradientTolerance: rounded(values ? (inputSpec(values).shape[0] ?? 0) : 0) }
}

export default [
  defineCases(linearInt8Op, { cases: forward.map(withGradient), errors, bench }),
  defineCases(linearInt8DynamicOp, { cases: forward, errors, bench }),
  defineCases(linearInt8DxOp, {
    cases: [
      ...GROUPS.flatMap((group) => [
        {
          name: `group ${group}`,
          inputs: { dy: [3, 7, 65], ...weight(65, 150, group) },
          attributes: { group },
          tolerance: rounded(65),
        },
        {
          name: `group ${group}, one row`,
          inputs: { dy: [33], ...weight(33, 70, group) },
          attributes: { group },
          tolerance: rounded(33),
        },
      ]),
      {
        name: 'rows view',
        inputs: { dy: { shape: [19, 33], strides: 'padded' }, ...weight(33, 70, 0) },
        attributes: { group: 0 },
        tolerance: rounded(33),
      },
      {
        name: 'N of many tiles',
        inputs: { dy: [6, 2100], ...weight(2100, 40, 32) },
        attributes: { group: 32 },
        tolerance: rounded(2100),
      },
      { name: 'N empty', inputs: { dy: [3, 0], ...weight(0, 5, 0) }, attributes: { group: 0 } },
      { name: 'no rows', inputs: { dy: [0, 4], ...weight(4, 5, 0) }, attributes: { group: 0 } },
    ],
    errors: [
      {
        name: 'another N',
        inputs: { dy: [2, 8], ...weight(9, 4, 0) },
        attributes: { group: 0 },
        code: 'ERR_SHAPE',
        message: /values must be \[8, K\]/,
      },
    ],
    bench: [{ name: '124M', inputs: { dy: [512, 2048], ...weight(2048, 768, 0) }, attributes: { group: 0 } }],
  }),
]
