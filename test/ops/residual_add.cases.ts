import { residualAddOp } from '../../lib/ops/residual_add.ts'
import { defineCases } from './cases.ts'

export default defineCases(residualAddOp, {
  cases: [
    { name: 'odd', inputs: { x: [3, 65], y: [3, 65] } },
    ...[1, 15, 17, 31, 33, 63, 127].map((n) => ({ name: `n ${n}`, inputs: { x: [n], y: [n] } })),
    { name: 'rows view', inputs: { x: { shape: [4, 33], strides: 'padded' }, y: [4, 33] } },
    { name: 'transposed', inputs: { x: { shape: [9, 17], strides: 'transposed' }, y: [9, 17] } },
    { name: 'outliers', inputs: { x: { shape: [257], fill: 'outliers' }, y: [257] } },
    { name: 'empty', inputs: { x: [0, 3], y: [0, 3] } },
    { name: 'scalar', inputs: { x: [], y: [] } },
    { name: 'several tiles', inputs: { x: [2, 40001], y: [2, 40001] }, noFiniteDifferences: 'too large' },
  ],
  errors: [
    {
      name: 'no broadcasting',
      inputs: { x: [2, 8], y: [8] },
      code: 'ERR_SHAPE',
      message: /residualAdd: y must be \[2,8\] like x/,
    },
  ],
  bench: [{ inputs: { x: [4096, 768], y: [4096, 768] } }],
})
