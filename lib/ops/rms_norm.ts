import type { Tensor } from '../tensor/tensor.ts'
import { add, mul } from './binary.ts'
import { cast } from './copy.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { mean } from './reduce.ts'
import { rsqrt } from './unary.ts'

export const rmsNormBackwardOp = defineOp({
  name: 'rms_norm.backward',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'x', dtype: 'float', layout: 'rows' },
    { name: 'w', dtype: 'float', mixed: true },
    { name: 'rstd', dtype: 'f32' },
    { name: 'dw', dtype: ['f32', 'f64'], inPlace: true, optional: true }, // absent: w is frozen
  ],
  outputs: [{ name: 'dx' }],
  attributes: ['eps', 'accumulate'],
  infer: ([, x]) => [spec(x.shape, x.dtype)],
  differentiable: false,
  reference: { gradientOf: 'rms_norm' },
})

export const rmsNormOp = defineOp({
  name: 'rms_norm',
  inputs: [
    { name: 'x', dtype: 'float', layout: 'rows' },
    { name: 'w', dtype: 'float', mixed: true },
  ],
  outputs: [{ name: 'y' }, { name: 'rstd', saved: true }],
  attributes: ['eps'],
  infer: ([x, w]) => {
    if (x.rank < 1) throw shapeError('rmsNorm', 'x', 'of rank 1 or more', x)
    if (w.rank !== 1 || w.shape[0] !== x.shape.at(-1)) {
      throw shapeError('rmsNorm', 'w', `[${x.shape.at(-1)}] to match x [${x.shape}]`, w)
    }
    return [spec(x.shape, x.dtype), spec(x.shape.slice(0, -1), 'f32')]
  },
  reference: ([x, w], [eps]) => {
    const wide = x.dtype === 'f64' ? 'f64' : 'f32'
    const a = cast(x, wide)
    const rstd = rsqrt(add(mean(mul(a, a), [-1], true), eps))
    return [cast(mul(mul(a, rstd), cast(w, wide)), x.dtype), null]
  },
  saves: ['x', 'w', 'rstd'],
  vjp: ({ inputs: [x, w], outputs: [, rstd], attributes: [eps], grads: [dy], needs, gradTarget }) => {
    const dw = needs(1) ? gradTarget(1) : null
    const [dx] = rmsNormBackwardOp([dy, x, w, rstd, dw?.tensor ?? null], [eps, dw?.accumulate ?? false])
    return [dx, dw?.tensor ?? null]
  },
})

/**
 * Root-mean-square norm over the last axis, y = x / sqrt(mean(x^2) + eps) * w; float32 inside.
 * @param x [..., D] f32 | bf16
 * @param w [D] f32 | bf16, whichever x is
 * @param options eps, added to the mean square; 1e-6 when not said
 * @returns like x
 * @throws ShapeError if w is not [D]
 * Source: Zhang & Sennrich 2019
 */
export function rmsNorm(x: Tensor, w: Tensor, { eps = 1e-6 }: { readonly eps?: number } = {}): Tensor {
  return rmsNormOp([x, w], [eps])[0]
}
