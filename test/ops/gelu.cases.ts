import { geluOp } from '../../lib/ops/gelu.ts'
import { defineCases, type OpCase } from './cases.ts'

const EDGES = [-1e4, -100, -13.5, -9, -6, -4, -2, -1, -0.3, 0, 1e-3, 0.5, 1, 2, 4, 6, 9, 13.5, 100, 1e4]

const of = (approximate: number): OpCase[] =>
  (
    [
      ['odd', { shape: [3, 65] }],
      ['one', { shape: [1] }],
      ['scalar', { shape: [] }],
      ['rows view', { shape: [4, 33], strides: 'padded' }],
      ['transposed', { shape: [9, 17], strides: 'transposed' }],
      ['outliers', { shape: [257], fill: 'outliers' }],
      ['edges', { shape: [EDGES.length], fill: { values: EDGES } }],
      ['sweep', { shape: [1023], fill: { from: (i: number) => (i - 511) / 32 } }],
      ['empty', { shape: [0, 3] }],
    ] as const
  ).map(([name, x]) => ({
    name: `${name}, variant ${approximate}`,
    inputs: { x },
    attributes: { approximate },
  }))

export default defineCases(geluOp, {
  cases: [
    ...[0, 1, 2].flatMap(of),
    {
      name: 'several tiles',
      inputs: { x: [3, 40001] },
      attributes: { approximate: 0 },
      noFiniteDifferences: 'too large',
    },
  ],
  errors: [
    {
      name: 'integers',
      inputs: { x: { shape: [3], dtype: 'i32', fill: { range: [0, 9] } } },
      attributes: { approximate: 0 },
      code: 'ERR_SHAPE',
      message: /gelu: x must be f32, bf16 or f64/,
    },
  ],
  bench: [0, 1, 2].map((approximate) => ({ inputs: { x: [4096, 3072] }, attributes: { approximate } })),
})
