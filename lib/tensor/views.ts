// Views share their tensor's storage. Each is differentiable: a node with the way back.

import { ShapeError, shapeError, ValueError } from '../runtime/errors.ts'
import type { DType } from './dtype.ts'
import { hooks } from './hooks.ts'
import { checkShape, completeShape, elementCount, normalAxis, reshapedStrides, sameShape } from './layout.ts'
import { GradNode } from './node.ts'
import type { Tensor } from './tensor.ts'

export class ViewNode extends GradNode {
  readonly name: string
  readonly outputCount = 1
  readonly shape: readonly number[]
  readonly dtype: DType
  #undo: ((grad: Tensor) => Tensor) | null

  constructor(name: string, input: Tensor, output: Tensor, undo: (grad: Tensor) => Tensor) {
    super([input.node], [input.outputIndex])
    this.name = name
    this.shape = output.shape
    this.dtype = output.dtype
    this.#undo = undo
  }

  override backward(grads: readonly (Tensor | null)[]): readonly (Tensor | null)[] {
    const grad = grads[0] ?? null
    return [grad === null || this.#undo === null ? null : this.#undo(grad)]
  }

  override outputMeta(): { readonly shape: readonly number[]; readonly dtype: DType } {
    return this
  }

  override releaseSaved(): void {
    this.#undo = null
  }
}

/** A view as Tensor makes it. `undo` brings a gradient back; it must hold shapes only, no tensor. */
export interface ViewSpec {
  readonly name: string
  readonly shape: readonly number[]
  readonly strides: readonly number[]
  readonly offset: number
  readonly undo: (grad: Tensor) => Tensor
}

/** The new strides, or null when no view has the shape and a copy is needed. */
export function reshape(x: Tensor, wanted: readonly number[]): ViewSpec | null {
  x.check('reshape')
  const shape = completeShape(wanted.slice(), x.size)
  checkShape('reshape', shape)
  if (elementCount(shape) !== x.size) {
    throw new ShapeError(`reshape: [${wanted}] does not hold the ${x.size} elements of [${x.shape}]`)
  }
  const strides = reshapedStrides(x.shape, x.strides, shape)
  if (strides === null) return null
  const back = x.shape
  return { name: 'reshape', shape, strides, offset: x.offset, undo: (g) => g.reshape(back) }
}

export function permute(x: Tensor, axes: readonly number[]): ViewSpec {
  x.check('permute')
  const order = axes.map((axis) => normalAxis('permute', axis, x.rank))
  const inverse = new Array<number>(x.rank).fill(-1)
  order.forEach((axis, i) => {
    inverse[axis] = i
  })
  if (order.length !== x.rank || inverse.includes(-1)) {
    throw shapeError('permute', 'axes', `an order of the ${x.rank} axes`, axes)
  }
  return {
    name: 'permute',
    shape: order.map((axis) => x.shape[axis] as number),
    strides: order.map((axis) => x.strides[axis] as number),
    offset: x.offset,
    undo: (g) => g.permute(inverse),
  }
}

export function transpose(x: Tensor, a: number, b: number): ViewSpec {
  const axes = x.shape.map((_, i) => i)
  const from = normalAxis('transpose', a, x.rank)
  const to = normalAxis('transpose', b, x.rank)
  axes[from] = to
  axes[to] = from
  return permute(x, axes)
}

/** An index counted from either end, clamped into [0, size]. */
function clampIndex(index: number, size: number): number {
  return Math.min(Math.max(index < 0 ? index + size : index, 0), size)
}

export function slice(
  x: Tensor,
  axis: number,
  start: number,
  end: number | undefined,
  step: number,
): ViewSpec {
  x.check('slice')
  const at = normalAxis('slice', axis, x.rank)
  const size = x.shape[at] as number
  if (!Number.isInteger(start) || !Number.isInteger(end ?? 0) || !Number.isInteger(step) || step < 1) {
    throw new ValueError(
      `slice: start, end and step must be whole, step at least 1; received ${start}, ${end}, ${step}`,
    )
  }
  const first = clampIndex(start, size)
  const last = clampIndex(end ?? size, size)
  const shape = x.shape.slice()
  shape[at] = Math.max(0, Math.ceil((last - first) / step))
  const strides = x.strides.slice()
  strides[at] = (x.strides[at] as number) * step
  const empty = elementCount(shape) === 0
  const offset = empty ? x.offset : x.offset + first * (x.strides[at] as number)
  const back = x.shape
  const undo = (g: Tensor): Tensor => {
    const whole = hooks.full(back, 0, g)
    const part = whole.slice(at, first, last, step)
    hooks.copyInto(part, g)
    part.dispose()
    return whole
  }
  return { name: 'slice', shape, strides, offset, undo }
}

export function expand(x: Tensor, shape: readonly number[]): ViewSpec {
  x.check('expand')
  checkShape('expand', shape)
  const added = shape.length - x.rank
  const strides = new Array<number>(shape.length).fill(0)
  const repeated: number[] = []
  for (let i = 0; i < shape.length; i++) {
    const size = i < added ? 1 : x.shape[i - added]
    if (size === shape[i] && i >= added) strides[i] = x.strides[i - added] as number
    else if (size === 1) repeated.push(i)
    else throw shapeError('expand', 'shape', `one that [${x.shape}] broadcasts to`, shape)
  }
  if (added < 0) throw shapeError('expand', 'shape', `one that [${x.shape}] broadcasts to`, shape)
  const back = x.shape
  const undo = (g: Tensor): Tensor => {
    const summed = repeated.length === 0 ? g : hooks.sum(g, repeated, true)
    return sameShape(summed.shape, back) ? summed : summed.reshape(back)
  }
  return { name: 'expand', shape, strides, offset: x.offset, undo }
}

export function squeezed(x: Tensor, axis: number | undefined): readonly number[] {
  if (axis === undefined) return x.shape.filter((n) => n !== 1)
  const at = normalAxis('squeeze', axis, x.rank)
  if (x.shape[at] !== 1) throw shapeError('squeeze', `axis ${axis}`, 'of size 1', x)
  return x.shape.filter((_, i) => i !== at)
}

export function unsqueezed(x: Tensor, axis: number): readonly number[] {
  const at = normalAxis('unsqueeze', axis, x.rank + 1)
  const shape = x.shape.slice()
  shape.splice(at, 0, 1)
  return shape
}
