import { swigluOp } from '../../lib/ops/swiglu.ts'
import { defineCases } from './cases.ts'

export default defineCases(swigluOp, {
  cases: [
    { name: 'odd', inputs: { gate: [3, 65], up: [3, 65] } },
    ...[1, 15, 17, 31, 33, 63, 127].map((n) => ({ name: `n ${n}`, inputs: { gate: [n], up: [n] } })),
    {
      name: 'halves of one row',
      inputs: { gate: { shape: [4, 33], strides: 'padded' }, up: { shape: [4, 33], strides: 'padded' } },
    },
    { name: 'transposed', inputs: { gate: { shape: [9, 17], strides: 'transposed' }, up: [9, 17] } },
    {
      name: 'saturated gates',
      inputs: { gate: { shape: [8], fill: { values: [-100, -88.5, -30, -1, 1, 30, 88.5, 100] } }, up: [8] },
    },
    {
      name: 'outliers',
      inputs: { gate: { shape: [257], fill: 'outliers' }, up: { shape: [257], fill: 'outliers' } },
    },
    { name: 'empty', inputs: { gate: [0, 3], up: [0, 3] } },
    { name: 'scalar', inputs: { gate: [], up: [] } },
    { name: 'several tiles', inputs: { gate: [2, 40001], up: [2, 40001] }, noFiniteDifferences: 'too large' },
  ],
  errors: [
    {
      name: 'shapes differ',
      inputs: { gate: [2, 8], up: [2, 9] },
      code: 'ERR_SHAPE',
      message: /swiglu: up must be \[2,8\] like gate/,
    },
  ],
  bench: [{ inputs: { gate: [4096, 2048], up: [4096, 2048] } }],
})
