// Reductions over axes. The kernel keeps reduced axes at size 1; dropping them is a view.

import { hooks } from '../tensor/hooks.ts'
import { normalAxis } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { div, equal, mul } from './binary.ts'
import { cast } from './copy.ts'
import { defineOp, shapeError, spec } from './define.ts'

type Meta = { readonly shape: readonly number[] }

const keptShape = (x: Meta, mask: number): number[] => x.shape.map((n, i) => (mask & (1 << i) ? 1 : n))

export const sumOp = defineOp({
  name: 'sum',
  inputs: [{ name: 'x', layout: 'any' }],
  outputs: [{ name: 'y' }],
  attributes: ['axes'],
  infer: ([x], [axes]) => [spec(keptShape(x, axes), x.dtype)],
  primitive: true,
  saves: [],
  vjp: ({ inputs: [x], grads: [dy] }) => [dy.expand(x.shape)],
})

export const maxOp = defineOp({
  name: 'max',
  inputs: [{ name: 'x', layout: 'any' }],
  outputs: [{ name: 'y' }],
  attributes: ['axes'],
  infer: ([x], [axes]) => {
    if (x.shape.some((n, i) => n === 0 && axes & (1 << i))) {
      throw shapeError('max', 'x', 'with at least one element to reduce', x)
    }
    return [spec(keptShape(x, axes), x.dtype)]
  },
  primitive: true,
  saves: ['x', 'y'],
  vjp: ({ inputs: [x], outputs: [y], attributes: [axes], grads: [dy] }) => {
    // as PyTorch's amax: equal maxima share the gradient
    const ties = cast(equal(x, y.expand(x.shape)), x.dtype)
    const [count] = sumOp([ties], [axes])
    return [mul(ties, div(dy, count).expand(x.shape))]
  },
})

export const argmaxOp = defineOp({
  name: 'argmax',
  inputs: [{ name: 'x', layout: 'any' }],
  outputs: [{ name: 'y' }],
  infer: ([x]) => {
    if (x.rank < 1 || x.shape.at(-1) === 0)
      throw shapeError('argmax', 'x', 'with a last axis that is not empty', x)
    return [spec(x.shape.slice(0, -1), 'i32')]
  },
  primitive: true,
  saves: [],
  vjp: () => [null], // an index: there is no gradient to lose
})

/** All axes, or those given, as a bit mask. */
function axesMask(op: string, x: Tensor, axes: readonly number[] | undefined): number {
  if (axes === undefined) return (1 << x.rank) - 1
  return axes.reduce((mask, axis) => mask | (1 << normalAxis(op, axis, x.rank)), 0)
}

function drop(y: Tensor, mask: number, keepDims: boolean): Tensor {
  if (keepDims || mask === 0) return y
  const view = y.reshape(y.shape.filter((_, i) => !(mask & (1 << i))))
  y.dispose()
  return view
}

/**
 * Sum over axes (all when not given), in blocks added pairwise; accumulates in float32 for bf16.
 * @throws ShapeError for an axis outside the rank
 */
export function sum(x: Tensor, axes?: readonly number[], keepDims = false): Tensor {
  const mask = axesMask('sum', x, axes)
  return drop(sumOp([x], [mask])[0], mask, keepDims)
}

/** Mean over axes (all when not given). @throws ShapeError for an axis outside the rank */
export function mean(x: Tensor, axes?: readonly number[], keepDims = false): Tensor {
  const y = sum(x, axes, keepDims)
  const scaled = mul(y, y.size / x.size)
  y.dispose()
  return scaled
}

/**
 * Largest over axes (all when not given); NaN if there is one. Ties share the gradient.
 * @throws ShapeError for an axis outside the rank, or when nothing is reduced
 */
export function max(x: Tensor, axes?: readonly number[], keepDims = false): Tensor {
  const mask = axesMask('max', x, axes)
  return drop(maxOp([x], [mask])[0], mask, keepDims)
}

/** Index (i32) of the largest of the last axis: the first among equals; a NaN is largest. */
export function argmax(x: Tensor): Tensor {
  return argmaxOp([x])[0]
}

hooks.sum = sum
