import type { Tensor } from '../tensor/tensor.ts'
import { mul, sub } from './binary.ts'
import { cast } from './copy.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { max, sum } from './reduce.ts'
import { exp, log } from './unary.ts'

export const logSoftmaxBackwardOp = defineOp({
  name: 'log_softmax.backward',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'y', dtype: 'float', layout: 'rows' },
  ],
  outputs: [{ name: 'dx' }],
  infer: ([, y]) => [spec(y.shape, y.dtype)],
  differentiable: false,
  reference: ([dy, y]) => {
    const wide = y.dtype === 'f64' ? 'f64' : 'f32'
    const d = cast(dy, wide)
    return [cast(sub(d, mul(exp(cast(y, wide)), sum(d, [-1], true))), y.dtype)]
  },
})

export const logSoftmaxOp = defineOp({
  name: 'log_softmax',
  inputs: [{ name: 'x', dtype: 'float', layout: 'rows' }],
  outputs: [{ name: 'y' }],
  infer: ([x]) => {
    if (x.rank < 1 || x.shape.at(-1) === 0) {
      throw shapeError('logSoftmax', 'x', 'with a last axis that is not empty', x)
    }
    return [spec(x.shape, x.dtype)]
  },
  reference: ([x]) => {
    const a = cast(x, x.dtype === 'f64' ? 'f64' : 'f32')
    const d = sub(a, max(a, [-1], true))
    return [cast(sub(d, log(sum(exp(d), [-1], true))), x.dtype)]
  },
  saves: ['y'],
  vjp: ({ outputs: [y], grads: [dy] }) => logSoftmaxBackwardOp([dy, y]),
})

/**
 * Logarithm of softmax over the last axis, without the exponential's underflow; float32 inside.
 * @param x [..., N] f32 | bf16, N > 0
 * @returns like x
 * @throws ShapeError for a scalar or an empty last axis
 */
export function logSoftmax(x: Tensor): Tensor {
  return logSoftmaxOp([x])[0]
}
