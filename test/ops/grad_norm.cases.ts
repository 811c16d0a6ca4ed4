import { gradNormOp } from '../../lib/ops/grad_norm.ts'
import { defineCases } from './cases.ts'

const grad = (...shape: number[]) => ({ grad: shape })

export default defineCases(gradNormOp, {
  cases: [
    { name: 'one', inputs: {}, groups: [grad(33)] },
    { name: 'scalar', inputs: {}, groups: [grad()] },
    { name: 'odd sizes', inputs: {}, groups: [1, 15, 17, 31, 33, 63, 65, 127].map((n) => grad(3, n)) },
    { name: 'empty among others', inputs: {}, groups: [grad(0), grad(5, 7), grad(3, 0), grad(9)] },
    { name: 'all empty', inputs: {}, groups: [grad(0)] },
    { name: 'several chunks', inputs: {}, groups: [grad(3, 32769), grad(17), grad(65537)] },
    { name: 'outliers', inputs: {}, groups: [{ grad: { shape: [127, 65], fill: 'outliers' } }] },
    { name: 'squares overflow f32', inputs: {}, groups: [{ grad: { shape: [65], fill: { scale: 1e25 } } }] },
  ],
  errors: [
    {
      name: 'none',
      inputs: {},
      groups: [],
      code: 'ERR_SHAPE',
      message: /gradNorm: gradients must be at least one tensor/,
    },
    {
      name: 'bf16',
      inputs: {},
      groups: [{ grad: { shape: [4], dtype: 'bf16' } }],
      code: 'ERR_SHAPE',
      message: /gradNorm: grad must be f32/,
    },
  ],
  bench: [{ inputs: {}, groups: [grad(50304, 768)] }],
})
