import { topKOp } from '../../lib/ops/top_k.ts'
import { defineCases } from './cases.ts'

const { NaN: nan, POSITIVE_INFINITY: inf } = Number

export default defineCases(topKOp, {
  cases: [
    ...[1, 15, 17, 31, 33, 63, 65, 127].map((v) => ({
      name: `V ${v}`,
      inputs: { x: [7, v] },
      attributes: { k: Math.min(v, 5) },
      noFiniteDifferences: 'a step may pass a neighbour',
    })),
    // values apart, so that no step passes a neighbour
    {
      name: 'gradient',
      inputs: { x: { shape: [2, 3, 17], fill: { from: (i) => ((i * 11) % 17) / 8 } } },
      attributes: { k: 4 },
    },
    {
      name: 'all, sorted',
      inputs: { x: { shape: [3, 33], fill: { from: (i) => (i * 7) % 33 } } },
      attributes: { k: 33 },
    },
    {
      name: 'ties, by index',
      inputs: { x: { shape: [4, 90], fill: { from: (i) => (i * 13) % 5 } } },
      attributes: { k: 40 },
      noFiniteDifferences: 'ties',
    },
    {
      name: 'zeros of both signs tie',
      inputs: { x: { shape: [2, 70], fill: { values: [0, -0, -1] } } },
      attributes: { k: 20 },
      noFiniteDifferences: 'ties',
    },
    {
      name: 'NaN above infinity, infinities',
      inputs: {
        x: {
          shape: [2, 150],
          fill: { from: (i) => (i % 50 === 7 ? nan : i % 40 === 9 ? inf : i % 3 === 0 ? -inf : i % 11) },
        },
      },
      attributes: { k: 9 },
      noFiniteDifferences: 'not finite',
    },
    {
      name: 'rising, every element enters',
      inputs: { x: { shape: [2, 300], fill: { from: (i) => i / 4 } } },
      attributes: { k: 8 },
      noFiniteDifferences: 'too large',
    },
    {
      name: 'one axis',
      inputs: { x: [65] },
      attributes: { k: 3 },
      noFiniteDifferences: 'a step may pass a neighbour',
    },
    {
      name: 'rows view',
      inputs: { x: { shape: [5, 129], strides: 'padded' } },
      attributes: { k: 10 },
      noFiniteDifferences: 'a step may pass a neighbour',
    },
    { name: 'no rows', inputs: { x: [0, 8] }, attributes: { k: 2 } },
  ],
  errors: [
    {
      name: 'k 0',
      inputs: { x: [2, 8] },
      attributes: { k: 0 },
      code: 'ERR_VALUE',
      message: /k must be an integer from 1 to 8/,
    },
    {
      name: 'k past V',
      inputs: { x: [2, 8] },
      attributes: { k: 9 },
      code: 'ERR_VALUE',
      message: /received 9/,
    },
    {
      name: 'a scalar',
      inputs: { x: [] },
      attributes: { k: 1 },
      code: 'ERR_SHAPE',
      message: /of rank 1 or more/,
    },
  ],
  bench: [{ inputs: { x: [8, 50304] }, attributes: { k: 50 } }],
})
