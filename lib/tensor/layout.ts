// Shapes and strides: arithmetic only, no tensors.

import { shapeError } from '../runtime/errors.ts'

export function elementCount(shape: readonly number[]): number {
  let n = 1
  for (let i = 0; i < shape.length; i++) n *= shape[i] as number
  return n
}

export function contiguousStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length)
  let step = 1
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step
    step *= shape[i] as number
  }
  return strides
}

export function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  let expect = 1
  for (let i = shape.length - 1; i >= 0; i--) {
    const n = shape[i] as number
    if (n === 0) return true
    if (n !== 1 && strides[i] !== expect) return false
    expect *= n
  }
  return true
}

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  if (a === b) return true
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}

/** An axis counted from either end, as one from the front. */
export function normalAxis(op: string, axis: number, rank: number): number {
  const normal = axis < 0 ? axis + rank : axis
  if (!Number.isInteger(axis) || normal < 0 || normal >= rank) {
    throw shapeError(op, 'axis', rank === 0 ? 'absent for a scalar' : `in [${-rank}, ${rank})`, axis)
  }
  return normal
}

export function checkShape(op: string, shape: readonly number[]): void {
  if (shape.length > 8) throw shapeError(op, 'shape', 'of at most 8 axes', shape)
  for (const n of shape) {
    if (!Number.isSafeInteger(n) || n < 0) throw shapeError(op, 'shape', 'of whole numbers', shape)
  }
}

/** NumPy's rule: aligned at the last axis, a 1 repeats. */
export function broadcastShapes(op: string, a: readonly number[], b: readonly number[]): readonly number[] {
  if (sameShape(a, b)) return a
  const rank = Math.max(a.length, b.length)
  const shape = new Array<number>(rank)
  for (let i = 1; i <= rank; i++) {
    const m = a[a.length - i] ?? 1
    const n = b[b.length - i] ?? 1
    if (m !== n && m !== 1 && n !== 1) {
      throw shapeError(op, 'second operand', `broadcastable with [${a}]`, b)
    }
    shape[rank - i] = m === 1 ? n : m
  }
  return shape
}

/** `shape` with at most one -1 filled in, so that it holds `count` elements. */
export function completeShape(shape: readonly number[], count: number): readonly number[] {
  const open = shape.indexOf(-1)
  if (open < 0) return shape
  let known = 1
  for (let i = 0; i < shape.length; i++) if (i !== open) known *= shape[i] as number
  const filled = shape.slice()
  filled[open] = known === 0 ? 0 : count / known
  return filled
}

/**
 * Strides that give `strides` over `shape` the new shape without a copy, or null when there are none.
 * Both shapes hold the same number of elements.
 */
export function reshapedStrides(
  shape: readonly number[],
  strides: readonly number[],
  next: readonly number[],
): number[] | null {
  if (isContiguous(shape, strides)) return contiguousStrides(next)
  // Runs of axes that are dense among themselves can be cut anew; others must keep their borders.
  const result = new Array<number>(next.length)
  let j = next.length - 1
  let i = shape.length - 1
  while (i >= 0) {
    const inner = strides[i] as number
    let run = shape[i] as number
    while (i > 0 && ((shape[i - 1] as number) === 1 || (strides[i - 1] as number) === inner * run)) {
      i--
      run *= shape[i] as number
    }
    let step = inner
    let taken = 1
    while (j >= 0 && (taken < run || next[j] === 1)) {
      result[j] = step
      step *= next[j] as number
      taken *= next[j] as number
      j--
    }
    if (taken !== run) return null
    i--
  }
  while (j >= 0) result[j--] = 1
  return result
}
