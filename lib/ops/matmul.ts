import { broadcastShapes, sameShape } from '../tensor/layout.ts'
import { installMethods } from '../tensor/methods.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { defineOp, shapeError, spec } from './define.ts'

export const matmulOp = defineOp({
  name: 'matmul',
  inputs: [
    { name: 'a', dtype: 'float', layout: 'any' },
    { name: 'b', dtype: 'float', layout: 'any' },
  ],
  outputs: [{ name: 'y' }],
  infer: ([a, b]) => {
    const batch = a.shape.slice(0, -2)
    const [rows = 0, depth = 0] = a.shape.slice(-2)
    const [inner = 0, columns = 0] = b.shape.slice(-2)
    if (a.rank < 2 || b.rank < 2)
      throw shapeError('matmul', a.rank < 2 ? 'a' : 'b', 'of rank 2 or more', a.rank < 2 ? a : b)
    if (inner !== depth || !sameShape(batch, b.shape.slice(0, -2))) {
      throw shapeError('matmul', 'b', `[${[...batch, depth, 'N']}] to match a [${a.shape}]`, b)
    }
    return [spec([...batch, rows, columns], a.dtype)]
  },
  primitive: true,
  vjp: ({ inputs: [a, b], grads: [dy], needs }) => [
    needs(0) ? matmul(dy, b.transpose()) : null,
    needs(1) ? matmul(a.transpose(), dy) : null,
  ],
  flops: ([a, b]) => 2 * a.shape.reduce((n, d) => n * d, 1) * (b.shape.at(-1) ?? 0),
})

/**
 * Matrix product over the last two axes; the others broadcast. Accumulates in float32 (float64 for
 * f64), in the order of the inner axis.
 * @param a [..., M, K]
 * @param b [..., K, N]
 * @returns [..., M, N]
 * @throws ShapeError when the inner axes differ, or the others do not broadcast
 */
export function matmul(a: Tensor, b: Tensor): Tensor {
  const batch = broadcastShapes('matmul', a.shape.slice(0, -2), b.shape.slice(0, -2))
  const expanded = (t: Tensor): Tensor => {
    const shape = [...batch, ...t.shape.slice(-2)]
    return sameShape(shape, t.shape) ? t : t.expand(shape)
  }
  const left = expanded(a)
  const right = expanded(b)
  const [y] = matmulOp([left, right])
  if (left !== a) left.dispose()
  if (right !== b) right.dispose()
  return y
}

declare module '../tensor/tensor.ts' {
  interface Tensor {
    /** {@link matmul}(this, b). */
    matmul(b: Tensor): Tensor
  }
}

installMethods({ matmul })
