import { uniformOp } from '../../lib/ops/random.ts'
import { defineCases } from './cases.ts'

export default [
  defineCases(uniformOp, {
    cases: [
      { name: 'odd', inputs: { key: { shape: [4], fill: { values: [1, 2, 3, 4] } }, y: [5, 33] } },
      { name: 'empty', inputs: { key: { shape: [4], fill: { values: [1] } }, y: [0] } },
    ],
    errors: [
      {
        name: 'key',
        inputs: { key: { shape: [3], fill: { values: [1] } }, y: [3] },
        code: 'ERR_SHAPE',
        message: /key must be \[4\]/,
      },
    ],
  }),
]
