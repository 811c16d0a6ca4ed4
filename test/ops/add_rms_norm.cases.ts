import { addRmsNormOp } from '../../lib/ops/add_rms_norm.ts'
import { defineCases, type Fill, type InputSpec, type OpCase } from './cases.ts'

const attributes = { eps: 1e-5 }

/**
 * Sums of two of these are whole sixteenths below 8, which bf16 holds: the float64 reference does not
 * round h to bf16, as the op does and says.
 */
const sixteenths = (step: number): Fill => ({ from: (i) => (((i + 1) * step) % 127) / 16 - 3.9375 })
const of = (name: string, x: InputSpec, residual: InputSpec = x, more: Partial<OpCase> = {}): OpCase => ({
  name,
  inputs: {
    x: { fill: sixteenths(37), ...x },
    residual: { fill: sixteenths(53), ...residual },
    w: [x.shape.at(-1) ?? 1],
  },
  attributes,
  ...more,
})

export default defineCases(addRmsNormOp, {
  cases: [
    of('odd', { shape: [3, 65] }),
    ...[1, 15, 17, 31, 33, 63, 127].map((n) => of(`D ${n}`, { shape: [2, n] })),
    of('one axis', { shape: [33] }),
    of('rows view', { shape: [4, 33], strides: 'padded' }),
    of('transposed', { shape: [9, 17] }, { shape: [9, 17], strides: 'transposed' }),
    of('outliers', { shape: [2, 127], fill: 'outliers' }, undefined, { dtypes: ['f32'] }),
    of('normal', { shape: [5, 63], fill: 'normal' }, undefined, { dtypes: ['f32'] }),
    of('empty', { shape: [0, 8] }),
    of('D 16384', { shape: [3, 16384] }, undefined, { noFiniteDifferences: 'too large' }),
    of('several chunks of rows', { shape: [1000, 129] }, undefined, {
      tolerance: { f32: { rtol: 1.3e-6, atol: 5e-5, reason: 'dw is a float32 sum of 1000 products' } },
      noFiniteDifferences: 'too large; the same code as the small cases but for the reduction of dw',
    }),
  ],
  errors: [
    {
      name: 'w too long',
      inputs: { x: [2, 8], residual: [2, 8], w: [9] },
      attributes,
      code: 'ERR_SHAPE',
      message: /addRmsNorm: w must be \[8\]/,
    },
    {
      name: 'shapes differ',
      inputs: { x: [2, 8], residual: [8], w: [8] },
      attributes,
      code: 'ERR_SHAPE',
      message: /addRmsNorm: residual must be \[2,8\] like x/,
    },
    {
      name: 'scalar',
      inputs: { x: [], residual: [], w: [1] },
      attributes,
      code: 'ERR_SHAPE',
      message: /rank 1 or more/,
    },
  ],
  bench: [{ inputs: { x: [4096, 768], residual: [4096, 768], w: [768] }, attributes }],
})
