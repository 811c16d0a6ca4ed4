import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add } from './binary.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { rmsNorm, rmsNormBackwardOp } from './rms_norm.ts'

export const addRmsNormBackwardOp = defineOp({
  name: 'add_rms_norm.backward',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'dh', dtype: 'float', layout: 'rows', optional: true }, // absent: only y was used
    { name: 'h', dtype: 'float', layout: 'rows' },
    { name: 'w', dtype: 'float', mixed: true },
    { name: 'rstd', dtype: 'f32' },
    { name: 'dw', dtype: ['f32', 'f64'], inPlace: true, optional: true }, // absent: w is frozen
  ],
  outputs: [{ name: 'dx' }],
  attributes: ['eps', 'accumulate'],
  infer: ([, , h]) => [spec(h.shape, h.dtype)],
  differentiable: false,
  reference: ([dy, dh, h, w, rstd, dw], attributes) => {
    const [dx] = rmsNormBackwardOp([dy, h, w, rstd, dw], attributes)
    return [dh === null ? dx : add(dx, dh)]
  },
})

export const addRmsNormOp = defineOp({
  name: 'add_rms_norm',
  inputs: [
    { name: 'x', dtype: 'float', layout: 'rows' },
    { name: 'residual', dtype: 'float', layout: 'rows' },
    { name: 'w', dtype: 'float', mixed: true },
  ],
  outputs: [{ name: 'h', sparse: true }, { name: 'y' }, { name: 'rstd', saved: true }],
  attributes: ['eps'],
  infer: ([x, residual, w]) => {
    if (x.rank < 1) throw shapeError('addRmsNorm', 'x', 'of rank 1 or more', x)
    if (!sameShape(x.shape, residual.shape)) {
      throw shapeError('addRmsNorm', 'residual', `[${x.shape}] like x`, residual)
    }
    if (w.rank !== 1 || w.shape[0] !== x.shape.at(-1)) {
      throw shapeError('addRmsNorm', 'w', `[${x.shape.at(-1)}] to match x [${x.shape}]`, w)
    }
    const like = spec(x.shape, x.dtype)
    return [like, like, spec(x.shape.slice(0, -1), 'f32')]
  },
  reference: ([x, residual, w], [eps]) => {
    const h = add(x, residual)
    return [h, rmsNorm(h, w, { eps }), null]
  },
  saves: ['h', 'w', 'rstd'],
  vjp: ({ inputs: [, , w], outputs: [h, , rstd], attributes: [eps], grads: [dh, dy], needs, gradTarget }) => {
    const dw = needs(2) ? gradTarget(2) : null
    const [dx] = addRmsNormBackwardOp(
      [dy, dh, h, w, rstd, dw?.tensor ?? null],
      [eps, dw?.accumulate ?? false],
    )
    return [dx, dx, dw?.tensor ?? null]
  },
})

/**
 * A step of the residual stream and the norm after it, h = x + residual and y = rmsNorm(h), in one trip
 * through memory, forward and backward.
 * @param x [..., D] f32 | bf16
 * @param residual like x
 * @param w [D] f32 | bf16, whichever x is
 * @param options eps, added to the mean square; 1e-6 when not said
 * @returns h and y, like x; y is of h as rounded to x's dtype
 * @throws ShapeError if residual is not like x, or w not [D]
 */
export function addRmsNorm(
  x: Tensor,
  residual: Tensor,
  w: Tensor,
  { eps = 1e-6 }: { readonly eps?: number } = {},
): readonly [h: Tensor, y: Tensor] {
  const [h, y] = addRmsNormOp([x, residual, w], [eps])
  return [h, y]
}
