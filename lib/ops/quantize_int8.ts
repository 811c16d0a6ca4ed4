import { type DType, dtypeCodes, dtypes, isFloat } from '../tensor/dtype.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { cast, contiguous } from './copy.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { checkGroup, checkScales, dequantizedRows, quantizedRows, scalesShape } from './int8.ts'

export const quantizeInt8Op = defineOp({
  name: 'quantize_int8',
  inputs: [{ name: 'w', dtype: 'float', layout: 'rows' }],
  outputs: [{ name: 'values' }, { name: 'scales' }],
  attributes: ['group'],
  infer: ([w], [group]) => {
    if (w.rank !== 2) throw shapeError('quantizeInt8', 'w', '[N, K]', w)
    checkGroup('quantizeInt8', group)
    const [rows = 0, columns = 0] = w.shape
    return [spec(w.shape, 'i8'), spec(scalesShape(rows, columns, group), 'f32')]
  },
  differentiable: false,
  reference: ([w], [group]) => {
    const { values, scales } = quantizedRows(w, group)
    return [contiguous(cast(values, 'i8')), scales]
  },
})

export const dequantizeInt8Op = defineOp({
  name: 'dequantize_int8',
  inputs: [
    { name: 'values', dtype: 'i8' },
    { name: 'scales', dtype: 'f32' },
  ],
  outputs: [{ name: 'w' }],
  attributes: ['group', 'dtype'],
  infer: ([values, scales], [group, code]) => {
    checkScales('dequantizeInt8', values, scales, group)
    const dtype = dtypes.find((d) => dtypeCodes[d] === code)
    if (dtype === undefined || !isFloat(dtype)) {
      throw shapeError('dequantizeInt8', 'dtype', 'f32, bf16 or f64', dtype ?? code)
    }
    return [spec(values.shape, dtype)]
  },
  differentiable: false,
  reference: ([values, scales], [group, code]) => {
    const dtype = dtypes.find((d) => dtypeCodes[d] === code) ?? 'f32'
    return [contiguous(dequantizedRows(values, scales, { group, dtype }))]
  },
})

/** A matrix in int8, with a float32 scale for each row, or for each group of neighbours in a row. */
export interface Int8Matrix {
  /** i8 [N, K], -127 to 127 */
  readonly values: Tensor
  /** f32 [N], or [N, ceil(K / group)] */
  readonly scales: Tensor
  /** Elements of a row that share a scale; 0 is the whole row. */
  readonly group: number
}

/**
 * Symmetric int8 by absolute maximum, computed in float32: scale = absmax / 127, value =
 * round(w / scale) to nearest even. A row (or group) of zeros has scale 1; one that holds a value that
 * is not finite has scale NaN. No value is off by more than half its scale. Not differentiable.
 * @param w [N, K] f32 | bf16 | f64
 * @param options group: 0 (default): one scale per row; else 32, 64 or 128: one per so many
 *   neighbours in a row; the last group of a row may be shorter
 * @throws ShapeError unless w is a matrix; ValueError for another group
 * Source: Dettmers et al. 2022 (LLM.int8()), row-wise absmax; groups as in GPTQ
 */
export function quantizeInt8(w: Tensor, { group = 0 }: { readonly group?: number } = {}): Int8Matrix {
  const [values, scales] = quantizeInt8Op([w], [group])
  return { values, scales, group }
}

/**
 * The matrix that int8 values stand for: value x scale in float32, rounded once to `dtype`. Not
 * differentiable.
 * @param options dtype: f32 (default) | bf16 | f64
 * @returns [N, K]
 * @throws ShapeError when the scales do not fit the values
 */
export function dequantizeInt8(
  { values, scales, group }: Int8Matrix,
  { dtype = 'f32' }: { readonly dtype?: DType } = {},
): Tensor {
  return dequantizeInt8Op([values, scales], [group, dtypeCodes[dtype]])[0]
}
