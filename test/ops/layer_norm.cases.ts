import { layerNormOp } from '../../lib/ops/layer_norm.ts'
import { defineCases, type OpCase } from './cases.ts'

const SIZES = [2, 15, 17, 31, 33, 63, 65, 127]
const eps = 1e-5
const cases: readonly OpCase[] = [
  { name: 'odd', inputs: { x: [3, 65], w: [65], b: [65] }, attributes: { eps } },
  { name: 'no bias', inputs: { x: [3, 65], w: [65] }, attributes: { eps } },
  ...SIZES.map((n) => ({ name: `D ${n}`, inputs: { x: [2, n], w: [n], b: [n] }, attributes: { eps } })),
  {
    name: 'D 1',
    inputs: { x: [3, 1], w: [1], b: [1] },
    attributes: { eps },
    noFiniteDifferences: 'x - mean is rounding alone, which 1 / sqrt(eps) makes large',
  },
  { name: 'one axis', inputs: { x: [33], w: [33], b: [33] }, attributes: { eps } },
  {
    name: 'rows view',
    inputs: { x: { shape: [4, 33], strides: 'padded' }, w: [33], b: [33] },
    attributes: { eps },
  },
  {
    name: 'transposed',
    inputs: { x: { shape: [9, 17], strides: 'transposed' }, w: [17], b: [17] },
    attributes: { eps },
  },
  {
    name: 'outliers',
    inputs: { x: { shape: [2, 127], fill: 'outliers' }, w: [127], b: [127] },
    attributes: { eps },
  },
  {
    name: 'mean far above the deviation',
    inputs: { x: { shape: [3, 64], fill: { range: [100, 101] } }, w: [64], b: [64] },
    attributes: { eps },
    tolerance: {
      f32: {
        rtol: 1.3e-6,
        atol: 1e-4,
        reason: 'the mean of values near 100 is rounded by 4e-6, of a deviation of 0.3',
      },
    },
  },
  { name: 'empty', inputs: { x: [0, 8], w: [8], b: [8] }, attributes: { eps } },
  {
    name: 'D 16384',
    inputs: { x: [3, 16384], w: [16384], b: [16384] },
    attributes: { eps },
    noFiniteDifferences: 'too large',
  },
  {
    name: 'several chunks of rows',
    inputs: { x: [1000, 129], w: [129], b: [129] },
    attributes: { eps },
    tolerance: { f32: { rtol: 1.3e-6, atol: 5e-5, reason: 'dw is a float32 sum of 1000 products' } },
    noFiniteDifferences: 'too large; the same code as the small cases but for the reduction of dw and db',
  },
]

export default defineCases(layerNormOp, {
  cases,
  errors: [
    {
      name: 'w too long',
      inputs: { x: [2, 8], w: [9] },
      attributes: { eps },
      code: 'ERR_SHAPE',
      message: /layerNorm: w must be \[8\]/,
    },
    {
      name: 'b too short',
      inputs: { x: [2, 8], w: [8], b: [7] },
      attributes: { eps },
      code: 'ERR_SHAPE',
      message: /layerNorm: b must be f32\[8\] like w/,
    },
    {
      name: 'scalar',
      inputs: { x: [], w: [1] },
      attributes: { eps },
      code: 'ERR_SHAPE',
      message: /rank 1 or more/,
    },
  ],
  bench: [{ inputs: { x: [4096, 768], w: [768], b: [768] }, attributes: { eps } }],
})
