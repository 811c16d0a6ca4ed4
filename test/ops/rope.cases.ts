import { ropeOp } from '../../lib/ops/rope.ts'
import { defineCases } from './cases.ts'

const attributes = { theta: 10000, inverse: false }
const positions = (shape: readonly number[], hi: number) => ({ shape, fill: { range: [0, hi] as const } })

export default defineCases(ropeOp, {
  cases: [
    ...[2, 16, 30, 34, 64, 66, 126].map((size) => ({
      name: `D ${size}`,
      inputs: { x: [2, 5, 3, size] },
      attributes,
    })),
    { name: 'one', inputs: { x: [1, 1, 1, 2] }, attributes },
    { name: 'outliers', inputs: { x: { shape: [1, 5, 3, 16], fill: 'outliers' } }, attributes },
    { name: 'shared positions', inputs: { x: [2, 7, 2, 8], positions: positions([7], 100) }, attributes },
    {
      name: 'positions per batch',
      inputs: { x: [2, 7, 2, 8], positions: positions([2, 7], 100) },
      attributes,
    },
    // a float32 product would be off by 0.004 radians here
    {
      name: 'past 2^16',
      inputs: { x: [1, 9, 2, 64], positions: { shape: [9], fill: { range: [65536, 1000000] } } },
      attributes,
    },
    { name: 'theta 500000', inputs: { x: [1, 9, 2, 64] }, attributes: { theta: 500000, inverse: false } },
    { name: 'inverse', inputs: { x: [1, 9, 2, 16] }, attributes: { theta: 10000, inverse: true } },
    {
      name: 'heads inside wider rows',
      inputs: { x: { shape: [2, 5, 3, 16], strides: 'padded' } },
      attributes,
    },
    { name: 'transposed', inputs: { x: { shape: [2, 5, 3, 16], strides: 'transposed' } }, attributes },
    { name: 'empty', inputs: { x: [2, 0, 3, 8] }, attributes },
    { name: 'several tiles', inputs: { x: [2, 300, 4, 64] }, attributes, noFiniteDifferences: 'too large' },
  ],
  errors: [
    { name: 'odd D', inputs: { x: [1, 2, 1, 7] }, attributes, code: 'ERR_SHAPE', message: /even D/ },
    {
      name: 'positions of another length',
      inputs: { x: [2, 4, 1, 8], positions: positions([5], 4) },
      attributes,
      code: 'ERR_SHAPE',
      message: /positions must be \[4\] or \[2,4\]/,
    },
    {
      name: 'theta 0',
      inputs: { x: [1, 2, 1, 8] },
      attributes: { theta: 0, inverse: false },
      code: 'ERR_VALUE',
      message: /theta/,
    },
  ],
  bench: [{ inputs: { x: [4, 1024, 12, 64] }, attributes }],
})
