// What the int8 ops share: the layout of quantised rows, its checks, and both directions composed of
// primitives. A row is cut into groups of `group` neighbours along the last axis (the last group may
// be shorter), or is one group when `group` is 0; each group has one float32 scale.

import { ValueError } from '../runtime/errors.ts'
import type { DType } from '../tensor/dtype.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add, div, equal, less, maximum, minimum, mul, sub, where } from './binary.ts'
import { cast, concat, contiguous } from './copy.ts'
import { full, zeros } from './create.ts'
import { shapeError, type TensorMeta } from './define.ts'
import { max } from './reduce.ts'
import { abs } from './unary.ts'

/** Largest magnitude of a quantised value: symmetric, so -128 is not used. */
export const INT8_MAX = 127

/** @throws ValueError unless `group` is 0, 32, 64 or 128 */
export function checkGroup(op: string, group: number): void {
  if (group === 0 || group === 32 || group === 64 || group === 128) return
  throw new ValueError(`${op}: group must be 0 (one scale per row), 32, 64 or 128, received ${group}`)
}

/** Shape of the scales of `[rows, columns]`: [rows], or [rows, ceil(columns / group)]. */
export function scalesShape(rows: number, columns: number, group: number): number[] {
  return group === 0 ? [rows] : [rows, Math.ceil(columns / group)]
}

/** @throws ShapeError unless values are a matrix and scales fit it */
export function checkScales(op: string, values: TensorMeta, scales: TensorMeta, group: number): void {
  checkGroup(op, group)
  if (values.rank !== 2) throw shapeError(op, 'values', '[N, K]', values)
  const expected = scalesShape(values.shape[0] ?? 0, values.shape[1] ?? 0, group)
  if (scales.rank !== expected.length || scales.shape.some((n, i) => n !== expected[i])) {
    throw shapeError(op, 'scales', `[${expected}] for values [${values.shape}] and group ${group}`, scales)
  }
}

/** [rows, columns] as [rows, groups, group], a shorter last group filled up with zeros. */
function grouped(x: Tensor, group: number): Tensor {
  const [rows = 0, columns = 0] = x.shape
  const size = group === 0 ? columns : group
  const groups = group === 0 ? 1 : Math.ceil(columns / group)
  const missing = groups * size - columns
  const { dtype, device } = x
  const whole = missing === 0 ? contiguous(x) : concat([x, zeros([rows, missing], { dtype, device })], 1)
  return whole.reshape([rows, groups, size])
}

/** The inverse of {@link grouped}. */
function ungrouped(x: Tensor, columns: number): Tensor {
  const [rows = 0, groups = 0, size = 0] = x.shape
  return contiguous(x)
    .reshape([rows, groups * size])
    .slice(1, 0, columns)
}

/**
 * x [rows, columns] quantised in float32: scales absmax / 127, values round(x / scale) to nearest even,
 * still float32. A group of zeros, or one too small for a float32 scale, has scale 1. One that holds
 * a value that is not finite has scale NaN, and no finite value comes out of it again.
 */
export function quantizedRows(x: Tensor, group: number): { values: Tensor; scales: Tensor } {
  const [rows = 0, columns = 0] = x.shape
  const groups = grouped(cast(x, 'f32'), group)
  const shape = [rows, groups.shape[1] ?? 0, 1]
  const { device } = x
  const constant = (value: number): Tensor => full(shape, value, { device })
  // an empty axis has no largest element
  const absmax = columns === 0 ? constant(0) : max(abs(groups), [2], true)
  const quotient = div(absmax, INT8_MAX)
  const positive = where(equal(quotient, 0), constant(1), quotient)
  const scales = where(less(absmax, Number.POSITIVE_INFINITY), positive, constant(Number.NaN))
  // 1.5 x 2^23: float32 has no fraction there, so adding it rounds to nearest even
  const toInteger = 1.5 * 2 ** 23
  const rounded = sub(add(div(groups, scales), toInteger), toInteger)
  return {
    values: ungrouped(maximum(minimum(rounded, INT8_MAX), -INT8_MAX), columns),
    scales: scales.reshape(scalesShape(rows, columns, group)),
  }
}

/** values x scales as `dtype`: each product is made in `wide` and rounded once. */
export function dequantizedRows(
  values: Tensor,
  scales: Tensor,
  { group, dtype, wide = dtype === 'f64' ? 'f64' : 'f32' }: { group: number; dtype: DType; wide?: DType },
): Tensor {
  const columns = values.shape[1] ?? 0
  const groups = grouped(cast(values, wide), group)
  const factors = cast(scales, wide).reshape([groups.shape[0] ?? 0, groups.shape[1] ?? 0, 1])
  return cast(ungrouped(mul(groups, factors), columns), dtype)
}
