import { rmsNormOp } from '../../lib/ops/rms_norm.ts'
import { defineCases, type OpCase } from './cases.ts'

const SIZES = [1, 15, 17, 31, 33, 63, 65, 127]
const cases: readonly OpCase[] = [
  { name: 'odd', inputs: { x: [3, 65], w: [65] }, attributes: { eps: 1e-5 } },
  ...SIZES.map((n) => ({ name: `D ${n}`, inputs: { x: [2, n], w: [n] }, attributes: { eps: 1e-5 } })),
  { name: 'one axis', inputs: { x: [33], w: [33] }, attributes: { eps: 1e-6 } },
  {
    name: 'rows view',
    inputs: { x: { shape: [4, 33], strides: 'padded' }, w: [33] },
    attributes: { eps: 1e-6 },
  },
  {
    name: 'transposed',
    inputs: { x: { shape: [9, 17], strides: 'transposed' }, w: [17] },
    attributes: { eps: 1e-6 },
  },
  {
    name: 'outliers',
    inputs: { x: { shape: [2, 127], fill: 'outliers' }, w: [127] },
    attributes: { eps: 1e-6 },
  },
  {
    name: 'large eps',
    inputs: { x: { shape: [3, 16], fill: { scale: 1e-3 } }, w: [16] },
    attributes: { eps: 0.1 },
  },
  {
    name: 'D 16384',
    inputs: { x: [3, 16384], w: [16384] },
    attributes: { eps: 1e-6 },
    noFiniteDifferences: 'too large',
  },
  { name: 'empty', inputs: { x: [0, 8], w: [8] }, attributes: { eps: 1e-6 } },
  {
    name: 'several chunks of rows',
    inputs: { x: [700, 129], w: [129] },
    attributes: { eps: 1e-6 },
    tolerance: { f32: { rtol: 1.3e-6, atol: 5e-5, reason: 'dw is a float32 sum of 700 products' } },
    noFiniteDifferences: 'too large; the same code as the small cases but for the reduction of dw',
  },
]

export default defineCases(rmsNormOp, {
  cases,
  errors: [
    {
      name: 'w too long',
      inputs: { x: [2, 8], w: [9] },
      attributes: { eps: 1e-6 },
      code: 'ERR_SHAPE',
      message: /rmsNorm: w must be \[8\]/,
    },
    {
      name: 'scalar',
      inputs: { x: [], w: [1] },
      attributes: { eps: 1e-6 },
      code: 'ERR_SHAPE',
      message: /rank 1 or more/,
    },
  ],
  bench: [{ inputs: { x: [4096, 768], w: [768] }, attributes: { eps: 1e-6 } }],
})
