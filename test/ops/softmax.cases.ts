import { logSoftmaxOp } from '../../lib/ops/log_softmax.ts'
import { softmaxOp } from '../../lib/ops/softmax.ts'
import { type CaseTable, defineCases, type Tolerance } from './cases.ts'

const table = (name: string, bf16: Tolerance): CaseTable => {
  const tolerance = { bf16 }
  return {
    cases: [
      { name: 'odd', inputs: { x: [3, 65] }, tolerance },
      ...[1, 15, 17, 31, 33, 63, 127].map((n) => ({ name: `N ${n}`, inputs: { x: [2, n] }, tolerance })),
      { name: 'one axis', inputs: { x: [33] }, tolerance },
      { name: 'rank 4', inputs: { x: [2, 3, 4, 9] }, tolerance },
      { name: 'rows view', inputs: { x: { shape: [4, 33], strides: 'padded' } }, tolerance },
      { name: 'transposed', inputs: { x: { shape: [9, 17], strides: 'transposed' } }, tolerance },
      { name: 'outliers', inputs: { x: { shape: [4, 127], fill: 'outliers' } }, tolerance },
      {
        name: 'far from zero',
        inputs: { x: { shape: [3, 40], fill: { range: [-1010, -1000] } } },
        tolerance,
      },
      {
        name: 'one takes all',
        inputs: { x: { shape: [2, 33], fill: { from: (i) => (i % 33 === 20 ? 200 : -(i % 7)) } } },
        tolerance,
      },
      { name: 'no rows', inputs: { x: [0, 5] } },
      { name: 'N 50304', inputs: { x: [2, 50304] }, noFiniteDifferences: 'too large', tolerance },
      { name: 'several tiles', inputs: { x: [3000, 70] }, noFiniteDifferences: 'too large', tolerance },
    ],
    errors: [
      {
        name: 'empty axis',
        inputs: { x: [3, 0] },
        code: 'ERR_SHAPE',
        message: /last axis that is not empty/,
      },
      { name: 'scalar', inputs: { x: [] }, code: 'ERR_SHAPE', message: new RegExp(`${name}: x must be`) },
    ],
    bench: [{ inputs: { x: [4096, 1024] } }],
  }
}

const softmaxTable = table('softmax', {
  rtol: 1.6e-2,
  atol: 1e-2,
  reason:
    'the gradient is of y as bf16 holds it: 2^-9 of y dy and of its sum, which may cancel; |dy| up to 4',
})

export default [
  defineCases(softmaxOp, {
    ...softmaxTable,
    cases: [
      ...softmaxTable.cases,
      {
        name: 'masked',
        inputs: { x: { shape: [3, 20], fill: { values: [1, -Infinity, -1, -Infinity, 0.5, 2, -Infinity] } } },
        noFiniteDifferences: 'infinite',
      },
    ],
  }),
  defineCases(
    logSoftmaxOp,
    table('logSoftmax', {
      rtol: 1.6e-2,
      atol: 4e-2,
      reason:
        'the gradient takes e^y of y as bf16 holds it: |y| e^y 2^-9 of the sum of dy, which grows as sqrt(N)',
    }),
  ),
]
