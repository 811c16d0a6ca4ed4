import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { addInto } from './add-into.ts'
import { add } from './binary.ts'
import { cast, copyInto } from './copy.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { layerNorm, layerNormBackwardOp } from './layer_norm.ts'
import { sum } from './reduce.ts'

export const addLayerNormBackwardOp = defineOp({
  name: 'add_layer_norm.backward',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'dh', dtype: 'float', layout: 'rows', optional: true }, // absent: only y was used
    { name: 'h', dtype: 'float', layout: 'rows' },
    { name: 'w', dtype: 'float', mixed: true },
    { name: 'mean', dtype: 'f32' },
    { name: 'rstd', dtype: 'f32' },
    { name: 'dw', dtype: ['f32', 'f64'], inPlace: true, optional: true }, // absent: frozen
    { name: 'db', dtype: ['f32', 'f64'], inPlace: true, optional: true },
  ],
  outputs: [{ name: 'dx' }],
  attributes: ['eps', 'accumulate'],
  infer: ([, , h]) => [spec(h.shape, h.dtype)],
  differentiable: false,
  reference: ([dy, dh, h, w, mean, rstd, dw, db], attributes) => {
    const [dx] = layerNormBackwardOp([dy, h, w, mean, rstd, dw, db], attributes)
    return [dh === null ? dx : add(dx, dh)]
  },
})

export const addLayerNormOp = defineOp({
  name: 'add_layer_norm',
  inputs: [
    { name: 'x', dtype: 'float', layout: 'rows' },
    { name: 'residual', dtype: 'float', layout: 'rows' },
    { name: 'w', dtype: 'float', mixed: true },
    { name: 'b', dtype: 'float', mixed: true, optional: true },
  ],
  outputs: [
    { name: 'h', sparse: true },
    { name: 'y' },
    { name: 'mean', saved: true },
    { name: 'rstd', saved: true },
  ],
  attributes: ['eps'],
  infer: ([x, residual, w, b]) => {
    if (x.rank < 1) throw shapeError('addLayerNorm', 'x', 'of rank 1 or more', x)
    if (!sameShape(x.shape, residual.shape)) {
      throw shapeError('addLayerNorm', 'residual', `[${x.shape}] like x`, residual)
    }
    const size = x.shape.at(-1)
    if (w.rank !== 1 || w.shape[0] !== size) {
      throw shapeError('addLayerNorm', 'w', `[${size}] to match x [${x.shape}]`, w)
    }
    if (b !== null && (b.rank !== 1 || b.shape[0] !== size || b.dtype !== w.dtype)) {
      throw shapeError('addLayerNorm', 'b', `${w.dtype}[${size}] like w`, b)
    }
    const like = spec(x.shape, x.dtype)
    const rows = spec(x.shape.slice(0, -1), 'f32')
    return [like, like, rows, rows]
  },
  reference: ([x, residual, w, b], [eps]) => {
    const h = add(x, residual)
    return [h, layerNorm(h, w, { b, eps }), null, null]
  },
  saves: ['h', 'w', 'mean', 'rstd'],
  vjp: ({ inputs, outputs: [h, , mean, rstd], attributes: [eps], grads: [dh, dy], needs, gradTarget }) => {
    const [, , w, b] = inputs
    const dw = needs(2) ? gradTarget(2) : null
    const db = b !== null && needs(3) ? gradTarget(3) : null
    // as in layerNorm: one `accumulate` for both
    const together = dw === null || db?.accumulate === dw.accumulate
    const [dx] = addLayerNormBackwardOp(
      [dy, dh, h, w, mean, rstd, dw?.tensor ?? null, together ? (db?.tensor ?? null) : null],
      [eps, (dw ?? db)?.accumulate ?? false],
    )
    if (db !== null && !together) {
      const write = db.accumulate ? addInto : copyInto
      const leading = dy.shape.slice(1).map((_, axis) => axis)
      write(db.tensor, sum(cast(dy, db.tensor.dtype), leading))
    }
    return [dx, dx, dw?.tensor ?? null, db?.tensor ?? null]
  },
})

/**
 * A step of the residual stream and the norm after it, h = x + residual and y = layerNorm(h), in one
 * trip through memory, forward and backward.
 * @param x [..., D] f32 | bf16
 * @param residual like x
 * @param w [D] f32 | bf16, whichever x is
 * @param options b [D] of w's dtype, none when not said; eps, added to the variance, 1e-5 when not said
 * @returns h and y, like x; y is of h as rounded to x's dtype
 * @throws ShapeError if residual is not like x, or w or b not [D]
 */
export function addLayerNorm(
  x: Tensor,
  residual: Tensor,
  w: Tensor,
  { b = null, eps = 1e-5 }: { readonly b?: Tensor | null; readonly eps?: number } = {},
): readonly [h: Tensor, y: Tensor] {
  const [h, y] = addLayerNormOp([x, residual, w, b], [eps])
  return [h, y]
}
