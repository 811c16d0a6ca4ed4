import { dropoutOp } from '../../lib/ops/dropout.ts'
import { defineCases } from './cases.ts'

const key = { shape: [4], fill: { values: [1, 2, 3, 4] } } as const

export default defineCases(dropoutOp, {
  cases: [
    { name: 'odd', inputs: { x: [3, 65], key }, attributes: { p: 0.25 } },
    ...[1, 15, 17, 31, 33, 63, 127].map((n) => ({
      name: `n ${n}`,
      inputs: { x: [n], key },
      attributes: { p: 0.5 },
    })),
    {
      name: 'several tiles',
      inputs: { x: [3, 16385], key },
      attributes: { p: 0.1 },
      noFiniteDifferences: 'too large',
    },
    { name: 'scalar', inputs: { x: [], key }, attributes: { p: 0.5 } },
    { name: 'empty', inputs: { x: [0, 3], key }, attributes: { p: 0.5 } },
    { name: 'p 0', inputs: { x: [33], key }, attributes: { p: 0 } },
    { name: 'p 1', inputs: { x: [33], key }, attributes: { p: 1 } },
    {
      name: 'transposed',
      inputs: { x: { shape: [9, 17], strides: 'transposed' }, key },
      attributes: { p: 0.3 },
    },
    { name: 'outliers', inputs: { x: { shape: [257], fill: 'outliers' }, key }, attributes: { p: 0.2 } },
  ],
  errors: [
    {
      name: 'p above 1',
      inputs: { x: [4], key },
      attributes: { p: 1.5 },
      code: 'ERR_VALUE',
      message: /p must be in \[0, 1\]/,
    },
    {
      name: 'short key',
      inputs: { x: [4], key: { shape: [2], fill: { values: [1] } } },
      attributes: { p: 0.5 },
      code: 'ERR_SHAPE',
      message: /dropout: key must be \[4\]/,
    },
  ],
  bench: [{ inputs: { x: [4096, 768], key }, attributes: { p: 0.1 } }],
})
