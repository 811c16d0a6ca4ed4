// Reductions over axes. The kernel keeps reduced axes at size 1; dropping them is a view.

import type { DType } from '../tensor/dtype.ts'
import { hooks } from '../tensor/hooks.ts'
import { elementCount, normalAxis } from '../tensor/layout.ts'
import { installMethods } from '../tensor/methods.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { div, equal, mul } from './binary.ts'
import { cast } from './copy.ts'
import { defineOp, type Op, shapeError, spec } from './define.ts'

type Meta = { readonly shape: readonly number[] }

const keptShape = (x: Meta, mask: number): number[] => x.shape.map((n, i) => (mask & (1 << i) ? 1 : n))

export const sumOp = defineOp({
  name: 'sum',
  inputs: [{ name: 'x', dtype: ['f32', 'bf16', 'f64', 'i32', 'u8'], layout: 'any' }],
  outputs: [{ name: 'y' }],
  attributes: ['axes'],
  infer: ([x], [axes]) => [spec(keptShape(x, axes), x.dtype === 'u8' ? 'i32' : x.dtype)],
  primitive: true,
  saves: [],
  vjp: ({ inputs: [x], grads: [dy] }) => [dy.expand(x.shape)],
})

export const meanOp = defineOp({
  name: 'mean',
  inputs: [{ name: 'x', dtype: 'float', layout: 'any' }],
  outputs: [{ name: 'y' }],
  attributes: ['axes'],
  infer: ([x], [axes]) => [spec(keptShape(x, axes), x.dtype)],
  primitive: true,
  saves: [],
  vjp: ({ inputs: [x], outputs: [y], grads: [dy] }) => {
    const count = elementCount(x.shape) / Math.max(1, elementCount(y.shape))
    return [div(dy, count).expand(x.shape)]
  },
})

type Extremum = Op<
  readonly [{ readonly name: 'x'; readonly dtype: readonly DType[]; readonly layout: 'any' }],
  readonly [{ readonly name: 'y' }],
  readonly ['axes']
>

function extremum(name: 'max' | 'min'): Extremum {
  return defineOp({
    name,
    inputs: [{ name: 'x', dtype: ['f32', 'bf16', 'f64', 'i32'], layout: 'any' }],
    outputs: [{ name: 'y' }],
    attributes: ['axes'],
    infer: ([x], [axes]) => {
      if (x.shape.some((n, i) => n === 0 && axes & (1 << i))) {
        throw shapeError(name, 'x', 'with at least one element to reduce', x)
      }
      return [spec(keptShape(x, axes), x.dtype)]
    },
    primitive: true,
    saves: ['x', 'y'],
    vjp: ({ inputs: [x], outputs: [y], attributes: [axes], grads: [dy] }) => {
      // as PyTorch's amax and amin: equal extrema share the gradient
      const ties = cast(equal(x, y.expand(x.shape)), x.dtype)
      const [count] = sumOp([ties], [axes])
      return [mul(ties, div(dy, count).expand(x.shape))]
    },
  })
}

export const maxOp = extremum('max')
export const minOp = extremum('min')

export const argmaxOp = defineOp({
  name: 'argmax',
  inputs: [{ name: 'x', dtype: ['f32', 'bf16', 'f64', 'i32'], layout: 'any' }],
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
 * Bytes (what comparisons give) are counted in i32; i32 wraps.
 * @throws ShapeError for an axis outside the rank
 */
export function sum(x: Tensor, axes?: readonly number[], keepDims = false): Tensor {
  const mask = axesMask('sum', x, axes)
  return drop(sumOp([x], [mask])[0], mask, keepDims)
}

/** Mean over axes (all when not given); NaN of nothing. @throws ShapeError for an axis outside the rank */
export function mean(x: Tensor, axes?: readonly number[], keepDims = false): Tensor {
  const mask = axesMask('mean', x, axes)
  return drop(meanOp([x], [mask])[0], mask, keepDims)
}

/**
 * Largest over axes (all when not given); NaN if there is one. Ties share the gradient.
 * @throws ShapeError for an axis outside the rank, or when nothing is reduced
 */
export function max(x: Tensor, axes?: readonly number[], keepDims = false): Tensor {
  const mask = axesMask('max', x, axes)
  return drop(maxOp([x], [mask])[0], mask, keepDims)
}

/** Smallest over axes, as {@link max}. @throws ShapeError as {@link max} */
export function min(x: Tensor, axes?: readonly number[], keepDims = false): Tensor {
  const mask = axesMask('min', x, axes)
  return drop(minOp([x], [mask])[0], mask, keepDims)
}

/** Index (i32) of the largest of the last axis: the first among equals; a NaN is largest. */
export function argmax(x: Tensor): Tensor {
  return argmaxOp([x])[0]
}

hooks.sum = sum

declare module '../tensor/tensor.ts' {
  interface Tensor {
    /** {@link sum}(this, axes, keepDims). */
    sum(axes?: readonly number[], keepDims?: boolean): Tensor
    /** {@link mean}(this, axes, keepDims). */
    mean(axes?: readonly number[], keepDims?: boolean): Tensor
    /** {@link max}(this, axes, keepDims). */
    max(axes?: readonly number[], keepDims?: boolean): Tensor
    /** {@link min}(this, axes, keepDims). */
    min(axes?: readonly number[], keepDims?: boolean): Tensor
    /** {@link argmax}(this). */
    argmax(): Tensor
  }
}

installMethods({ sum, mean, max, min, argmax })
