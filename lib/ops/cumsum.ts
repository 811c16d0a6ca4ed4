import { normalAxis } from '../tensor/layout.ts'
import { installMethods } from '../tensor/methods.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { defineOp, spec } from './define.ts'

export const cumsumOp = defineOp({
  name: 'cumsum',
  inputs: [{ name: 'x', dtype: ['f32', 'bf16', 'f64', 'i32'] }],
  outputs: [{ name: 'y' }],
  attributes: ['axis', 'reverse'],
  infer: ([x]) => [spec(x.shape, x.dtype)],
  primitive: true,
  saves: [],
  vjp: ({ attributes: [axis, reverse], grads: [dy] }) => [cumsum(dy, axis, { reverse: reverse === 0 })],
})

/**
 * Running sums along an axis: y[i] = x[0] + ... + x[i]; summed in float64 (i32 wraps).
 * @param options reverse: from the end, y[i] = x[i] + ... + x[n - 1]
 * @throws ShapeError for an axis outside the rank
 */
export function cumsum(x: Tensor, axis = -1, { reverse = false }: { reverse?: boolean } = {}): Tensor {
  return cumsumOp([x], [normalAxis('cumsum', axis, x.rank), reverse])[0]
}

declare module '../tensor/tensor.ts' {
  interface Tensor {
    /** {@link cumsum}(this, axis, options). */
    cumsum(axis?: number, options?: { reverse?: boolean }): Tensor
  }
}

installMethods({ cumsum })
