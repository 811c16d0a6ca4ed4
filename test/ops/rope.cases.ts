import { ropeOp } from '../../lib/ops/rope.ts'
import { type CaseAttributes, defineCases } from './cases.ts'

const turning = (rotarySize: number, more: CaseAttributes = {}): CaseAttributes => ({
  theta: 10000,
  rotarySize,
  interleaved: false,
  attentionFactor: 1,
  inverse: false,
  ...more,
})
const positions = (shape: readonly number[], hi: number) => ({ shape, fill: { range: [0, hi] as const } })

export default defineCases(ropeOp, {
  cases: [
    ...[2, 16, 30, 34, 64, 66, 126].flatMap((size) => [
      { name: `D ${size}`, inputs: { x: [2, 5, 3, size] }, attributes: turning(size) },
      {
        name: `D ${size} interleaved`,
        inputs: { x: [2, 5, 3, size] },
        attributes: turning(size, { interleaved: true }),
      },
    ]),
    { name: 'one', inputs: { x: [1, 1, 1, 2] }, attributes: turning(2) },
    { name: 'outliers', inputs: { x: { shape: [1, 5, 3, 16], fill: 'outliers' } }, attributes: turning(16) },
    {
      name: 'shared positions',
      inputs: { x: [2, 7, 2, 8], positions: positions([7], 100) },
      attributes: turning(8),
    },
    {
      name: 'positions per batch',
      inputs: { x: [2, 7, 2, 8], positions: positions([2, 7], 100) },
      attributes: turning(8),
    },
    // a float32 product would be off by 0.004 radians here
    {
      name: 'past 2^16',
      inputs: { x: [1, 9, 2, 64], positions: { shape: [9], fill: { range: [65536, 1000000] } } },
      attributes: turning(64),
    },
    { name: 'theta 500000', inputs: { x: [1, 9, 2, 64] }, attributes: turning(64, { theta: 500000 }) },
    { name: 'inverse', inputs: { x: [1, 9, 2, 16] }, attributes: turning(16, { inverse: true }) },
    ...[0, 2, 6, 34].flatMap((size) => [
      { name: `partial ${size} of 37`, inputs: { x: [2, 5, 3, 37] }, attributes: turning(size) },
      {
        name: `partial ${size} of 37 interleaved, inverse`,
        inputs: { x: { shape: [2, 5, 3, 37], strides: 'padded' as const } },
        attributes: turning(size, { interleaved: true, inverse: true }),
      },
    ]),
    ...[false, true].map((interleaved) => ({
      name: `frequencies and factor${interleaved ? ', interleaved' : ''}`,
      inputs: {
        x: [2, 7, 2, 20],
        positions: positions([2, 7], 70000),
        frequencies: { shape: [8], fill: 'uniform' as const },
      },
      attributes: turning(16, { interleaved, attentionFactor: 1.25 }),
    })),
    {
      name: 'heads inside wider rows',
      inputs: { x: { shape: [2, 5, 3, 16], strides: 'padded' } },
      attributes: turning(16),
    },
    {
      name: 'transposed',
      inputs: { x: { shape: [2, 5, 3, 16], strides: 'transposed' } },
      attributes: turning(16),
    },
    { name: 'empty', inputs: { x: [2, 0, 3, 8] }, attributes: turning(8) },
    {
      name: 'several tiles',
      inputs: { x: [2, 300, 4, 64] },
      attributes: turning(64),
      noFiniteDifferences: 'too large',
    },
  ],
  errors: [
    {
      name: 'odd rotarySize',
      inputs: { x: [1, 2, 1, 7] },
      attributes: turning(7),
      code: 'ERR_VALUE',
      message: /rotarySize must be an even number from 0 to D \(7\), received 7/,
    },
    {
      name: 'rotarySize past D',
      inputs: { x: [1, 2, 1, 6] },
      attributes: turning(8),
      code: 'ERR_VALUE',
      message: /rotarySize must be/,
    },
    {
      name: 'rank 3',
      inputs: { x: [2, 1, 8] },
      attributes: turning(8),
      code: 'ERR_SHAPE',
      message: /\[B, T, H, D\]/,
    },
    {
      name: 'frequencies of another number',
      inputs: { x: [2, 4, 1, 8], frequencies: { shape: [3], fill: 'uniform' } },
      attributes: turning(8),
      code: 'ERR_SHAPE',
      message: /frequencies must be \[4\], one per pair/,
    },
    {
      name: 'positions of another length',
      inputs: { x: [2, 4, 1, 8], positions: positions([5], 4) },
      attributes: turning(8),
      code: 'ERR_SHAPE',
      message: /positions must be \[4\] or \[2,4\]/,
    },
    ...['theta', 'attentionFactor'].map((name) => ({
      name: `${name} 0`,
      inputs: { x: [1, 2, 1, 8] },
      attributes: turning(8, { [name]: 0 }),
      code: 'ERR_VALUE',
      message: new RegExp(`${name} must be positive`),
    })),
  ],
  bench: [
    { inputs: { x: [4, 1024, 12, 64] }, attributes: turning(64) },
    { name: 'interleaved', inputs: { x: [4, 1024, 12, 64] }, attributes: turning(64, { interleaved: true }) },
  ],
})
