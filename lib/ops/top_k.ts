import { ValueError } from '../runtime/errors.ts'
import { elementCount } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add, equal, less, maximum, mul, sub, where } from './binary.ts'
import { cast } from './copy.ts'
import { full, iota, zeros } from './create.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { sum } from './reduce.ts'
import { scatterAdd } from './take.ts'

export const topKOp = defineOp({
  name: 'top_k',
  inputs: [{ name: 'x', dtype: 'float', layout: 'rows' }],
  outputs: [{ name: 'values' }, { name: 'indices' }],
  attributes: ['k'],
  infer: ([x], [k]) => {
    const size = x.shape.at(-1) ?? 0
    if (x.rank < 1) throw shapeError('topK', 'x', 'of rank 1 or more', x)
    if (!(Number.isInteger(k) && k >= 1 && k <= size)) {
      throw new ValueError(`topK: k must be an integer from 1 to ${size} (the last axis), received ${k}`)
    }
    const shape = [...x.shape.slice(0, -1), k]
    return [spec(shape, x.dtype), spec(shape, 'i32')]
  },
  // Ranks by comparing all pairs [N, V, V], where the kernel keeps a heap.
  reference: ([x], [k]) => {
    const size = x.shape.at(-1) ?? 0
    const { device } = x
    const wide = x.dtype === 'f64' ? 'f64' : 'f32'
    const values = cast(x, wide).reshape([-1, size])
    const number = equal(values, values) // 0 for NaN, which is above all numbers
    const one = values.unsqueeze(2) // the element ranked
    const other = values.unsqueeze(1) // those it is ranked among
    const float = (mask: Tensor): Tensor => cast(mask, 'f32')
    const isNan = sub(1, float(number))
    const nanAbove = mul(isNan.unsqueeze(1), float(number).unsqueeze(2))
    const above = maximum(float(less(one, other)), nanAbove)
    const same = maximum(float(equal(one, other)), mul(isNan.unsqueeze(1), isNan.unsqueeze(2)))
    const index = iota(size, { dtype: 'f32', device })
    const before = float(less(index.unsqueeze(0), index.unsqueeze(1)))
    const rank = sum(add(above, mul(same, before)), [2]) // [N, V]
    const chosen = equal(rank.unsqueeze(1), iota(k, { dtype: 'f32', device }).unsqueeze(1)) // [N, k, V]
    const zero = full([1], 0, { dtype: wide, device })
    const shape = [...x.shape.slice(0, -1), k]
    return [
      cast(sum(where(chosen, values.unsqueeze(1), zero), [2]), x.dtype).reshape(shape),
      cast(sum(mul(float(chosen), index), [2]), 'i32').reshape(shape),
    ]
  },
  saves: ['indices'],
  vjp: ({ inputs: [x], outputs: [, indices], grads: [dvalues], attributes: [k] }) => {
    const size = x.shape.at(-1) ?? 0
    const rows = elementCount(x.shape) / Math.max(size, 1)
    const { device } = dvalues
    const wide = x.dtype === 'f64' ? 'f64' : 'f32'
    const starts = iota(rows, { dtype: 'i32', device, step: size }).reshape([rows, 1])
    const at = add(indices.reshape([rows, k]), starts)
    const base = zeros([rows * size, 1], { dtype: wide, device })
    const dx = scatterAdd(base, at, cast(dvalues, wide).reshape([rows, k, 1]))
    return [cast(dx, x.dtype).reshape(x.shape)]
  },
})

/**
 * The k largest elements of the last axis, largest first; of equal ones the one with the lower index
 * first. NaN counts as larger than every number (PyTorch's rule).
 * @param x [..., V] f32 | bf16
 * @param k from 1 to V
 * @returns values [..., k] like x, differentiable; indices i32 [..., k]
 * @throws ShapeError for a scalar; ValueError for k outside 1 .. V
 */
export function topK(x: Tensor, k: number): { readonly values: Tensor; readonly indices: Tensor } {
  const [values, indices] = topKOp([x], [k])
  return { values, indices }
}
