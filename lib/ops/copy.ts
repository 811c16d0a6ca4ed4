// Copies: to another dtype, to dense memory, into a view, and several tensors into one.

import { type DType, dtypeCodes, dtypes } from '../tensor/dtype.ts'
import { hooks } from '../tensor/hooks.ts'
import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { defineOp, shapeError, spec } from './define.ts'

export const castOp = defineOp({
  name: 'cast',
  inputs: [{ name: 'x', layout: 'any' }],
  outputs: [{ name: 'y' }],
  attributes: ['dtype'],
  infer: ([x], [code]) => [spec(x.shape, dtypes.find((d) => dtypeCodes[d] === code) ?? x.dtype)],
  primitive: true,
  saves: [],
  vjp: ({ inputs: [x], grads: [dy] }) => [cast(dy, x.dtype)],
})

/**
 * A copy in another dtype; the tensor itself when it has it. Floats become bf16 by rounding to
 * nearest even, integers by truncation, saturating, NaN as 0.
 */
export function cast(x: Tensor, dtype: DType): Tensor {
  return x.dtype === dtype ? x : castOp([x], [dtypeCodes[dtype]])[0]
}

export const contiguousOp = defineOp({
  name: 'contiguous',
  inputs: [{ name: 'x', layout: 'any' }],
  outputs: [{ name: 'y' }],
  infer: ([x]) => [spec(x.shape, x.dtype)],
  primitive: true,
  saves: [],
  vjp: ({ grads: [dy] }) => [dy],
})

export const copyIntoOp = defineOp({
  name: 'copy_into',
  inputs: [
    { name: 'target', layout: 'any', inPlace: true },
    { name: 'source', layout: 'any' },
  ],
  outputs: [],
  infer: ([target, source]) => {
    if (!sameShape(target.shape, source.shape)) {
      throw shapeError('copyInto', 'source', `[${target.shape}] like target`, source)
    }
    if (target.dtype !== source.dtype)
      throw shapeError('copyInto', 'source', `${target.dtype} like target`, source)
    return []
  },
  primitive: true,
  differentiable: false,
})

export const concatOp = defineOp({
  name: 'concat',
  inputs: [],
  group: [{ name: 'part', layout: 'any' }],
  outputs: [{ name: 'y' }],
  attributes: ['axis'],
  infer: (_, [axis], parts) => {
    const first = parts[0]?.[0]
    if (first === undefined) throw shapeError('concat', 'parts', 'at least one tensor', 'none')
    const shape = first.shape.slice()
    shape[axis] = 0
    for (const [part] of parts) {
      const fits =
        part.rank === first.rank &&
        part.dtype === first.dtype &&
        part.shape.every((n, i) => i === axis || n === first.shape[i])
      if (!fits)
        throw shapeError('concat', 'part', `${first.dtype}[${first.shape}] but for axis ${axis}`, part)
      shape[axis] = (shape[axis] ?? 0) + (part.shape[axis] ?? 0)
    }
    return [spec(shape, first.dtype)]
  },
  primitive: true,
  saves: [],
  vjp: ({ groups, attributes: [axis], grads: [dy] }) => {
    let at = 0
    return groups.map(([part]) => {
      const size = part.shape[axis] ?? 0
      at += size
      return contiguous(dy.slice(axis, at - size, at))
    })
  },
})

/** The tensor with its elements dense and in row-major order: itself when they are, else a copy. */
export function contiguous(x: Tensor): Tensor {
  return x.isContiguous ? x : contiguousOp([x])[0]
}

/**
 * Writes source into target, which may be a view. Not differentiable.
 * @throws ShapeError unless both have one shape and dtype
 */
export function copyInto(target: Tensor, source: Tensor): void {
  copyIntoOp([target, source])
}

/**
 * The parts one after another along an axis.
 * @throws ShapeError when they differ in dtype or in another axis
 */
export function concat(parts: readonly Tensor[], axis = 0): Tensor {
  const rank = parts[0]?.rank ?? 0
  const at = axis < 0 ? axis + rank : axis
  if (!Number.isInteger(at) || at < 0 || at >= rank) {
    throw shapeError('concat', 'axis', `from ${-rank} to ${rank - 1}`, axis)
  }
  return concatOp(
    [],
    [at],
    parts.map((part) => [part] as const),
  )[0]
}

hooks.cast = cast
hooks.contiguous = (x) => contiguousOp([x])[0]
hooks.copyInto = copyInto
