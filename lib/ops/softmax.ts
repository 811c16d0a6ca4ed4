import { installMethods } from '../tensor/methods.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { div, mul, sub } from './binary.ts'
import { cast } from './copy.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { max, sum } from './reduce.ts'
import { exp } from './unary.ts'

export const softmaxBackwardOp = defineOp({
  name: 'softmax.backward',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'y', dtype: 'float', layout: 'rows' },
  ],
  outputs: [{ name: 'dx' }],
  infer: ([, y]) => [spec(y.shape, y.dtype)],
  differentiable: false,
  reference: ([dy, y]) => {
    const wide = y.dtype === 'f64' ? 'f64' : 'f32'
    const [d, p] = [cast(dy, wide), cast(y, wide)]
    return [cast(mul(p, sub(d, sum(mul(p, d), [-1], true))), y.dtype)]
  },
})

export const softmaxOp = defineOp({
  name: 'softmax',
  inputs: [{ name: 'x', dtype: 'float', layout: 'rows' }],
  outputs: [{ name: 'y' }],
  infer: ([x]) => {
    if (x.rank < 1 || x.shape.at(-1) === 0) {
      throw shapeError('softmax', 'x', 'with a last axis that is not empty', x)
    }
    return [spec(x.shape, x.dtype)]
  },
  reference: ([x]) => {
    const a = cast(x, x.dtype === 'f64' ? 'f64' : 'f32')
    const e = exp(sub(a, max(a, [-1], true)))
    return [cast(div(e, sum(e, [-1], true)), x.dtype)]
  },
  saves: ['y'],
  vjp: ({ outputs: [y], grads: [dy] }) => softmaxBackwardOp([dy, y]),
})

/**
 * e^x divided by its sum over the last axis; float32 inside. A row of nothing but -inf is NaN, as in
 * PyTorch: attention, which gives zeros, is an op of its own.
 * @param x [..., N] f32 | bf16, N > 0
 * @returns like x
 * @throws ShapeError for a scalar or an empty last axis
 */
export function softmax(x: Tensor): Tensor {
  return softmaxOp([x])[0]
}

declare module '../tensor/tensor.ts' {
  interface Tensor {
    /** {@link softmax}(this): over the last axis. */
    softmax(): Tensor
  }
}

installMethods({ softmax })
