import { gegluOp } from '../../lib/ops/geglu.ts'
import { defineCases, type OpCase } from './cases.ts'

const of = (approximate: number): OpCase[] => {
  const attributes = { approximate }
  return [
    { name: `odd, variant ${approximate}`, inputs: { gate: [3, 65], up: [3, 65] }, attributes },
    {
      name: `halves of one row, variant ${approximate}`,
      inputs: { gate: { shape: [4, 33], strides: 'padded' }, up: { shape: [4, 33], strides: 'padded' } },
      attributes,
    },
    {
      name: `saturated gates, variant ${approximate}`,
      inputs: { gate: { shape: [8], fill: { values: [-100, -13.5, -5, -1, 1, 5, 13.5, 100] } }, up: [8] },
      attributes,
    },
  ]
}

export default defineCases(gegluOp, {
  cases: [
    ...[0, 1, 2].flatMap(of),
    ...[1, 15, 17, 31, 33, 63, 127].map((n) => ({
      name: `n ${n}`,
      inputs: { gate: [n], up: [n] },
      attributes: { approximate: 1 },
    })),
    {
      name: 'transposed',
      inputs: { gate: { shape: [9, 17], strides: 'transposed' }, up: [9, 17] },
      attributes: { approximate: 0 },
    },
    { name: 'empty', inputs: { gate: [0, 3], up: [0, 3] }, attributes: { approximate: 0 } },
    {
      name: 'several tiles',
      inputs: { gate: [2, 40001], up: [2, 40001] },
      attributes: { approximate: 0 },
      noFiniteDifferences: 'too large',
    },
  ],
  errors: [
    {
      name: 'shapes differ',
      inputs: { gate: [2, 8], up: [2, 9] },
      attributes: { approximate: 0 },
      code: 'ERR_SHAPE',
      message: /geglu: up must be \[2,8\] like gate/,
    },
  ],
  bench: [{ inputs: { gate: [4096, 2048], up: [4096, 2048] }, attributes: { approximate: 1 } }],
})
