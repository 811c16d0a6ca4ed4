import type { Tensor } from '../tensor/tensor.ts'
import { addInto } from './add-into.ts'
import { add, mul, sub } from './binary.ts'
import { cast, copyInto } from './copy.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { mean as meanOf, sum } from './reduce.ts'
import { rsqrt } from './unary.ts'

export const layerNormBackwardOp = defineOp({
  name: 'layer_norm.backward',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'x', dtype: 'float', layout: 'rows' },
    { name: 'w', dtype: 'float', mixed: true },
    { name: 'mean', dtype: 'f32' },
    { name: 'rstd', dtype: 'f32' },
    { name: 'dw', dtype: ['f32', 'f64'], inPlace: true, optional: true }, // absent: frozen
    { name: 'db', dtype: ['f32', 'f64'], inPlace: true, optional: true },
  ],
  outputs: [{ name: 'dx' }],
  attributes: ['eps', 'accumulate'],
  infer: ([, x]) => [spec(x.shape, x.dtype)],
  differentiable: false,
  reference: ([dy, x, w, mean, rstd, dw, db], [, accumulate]) => {
    const wide = x.dtype === 'f64' ? 'f64' : 'f32'
    const column = (statistic: Tensor): Tensor => cast(statistic, wide).unsqueeze(-1)
    const d = cast(dy, wide)
    const normal = mul(sub(cast(x, wide), column(mean)), column(rstd))
    const g = mul(d, cast(w, wide))
    const pulled = mul(normal, meanOf(mul(g, normal), [-1], true))
    const dx = mul(sub(sub(g, meanOf(g, [-1], true)), pulled), column(rstd))
    const leading = x.shape.slice(1).map((_, axis) => axis)
    const write = accumulate === 0 ? copyInto : addInto
    if (dw !== null) write(dw, cast(sum(mul(d, normal), leading), dw.dtype))
    if (db !== null) write(db, cast(sum(d, leading), db.dtype))
    return [cast(dx, x.dtype)]
  },
})

export const layerNormOp = defineOp({
  name: 'layer_norm',
  inputs: [
    { name: 'x', dtype: 'float', layout: 'rows' },
    { name: 'w', dtype: 'float', mixed: true },
    { name: 'b', dtype: 'float', mixed: true, optional: true },
  ],
  outputs: [{ name: 'y' }, { name: 'mean', saved: true }, { name: 'rstd', saved: true }],
  attributes: ['eps'],
  infer: ([x, w, b]) => {
    if (x.rank < 1) throw shapeError('layerNorm', 'x', 'of rank 1 or more', x)
    const size = x.shape.at(-1)
    if (w.rank !== 1 || w.shape[0] !== size) {
      throw shapeError('layerNorm', 'w', `[${size}] to match x [${x.shape}]`, w)
    }
    if (b !== null && (b.rank !== 1 || b.shape[0] !== size || b.dtype !== w.dtype)) {
      throw shapeError('layerNorm', 'b', `${w.dtype}[${size}] like w`, b)
    }
    const rows = spec(x.shape.slice(0, -1), 'f32')
    return [spec(x.shape, x.dtype), rows, rows]
  },
  reference: ([x, w, b], [eps]) => {
    const wide = x.dtype === 'f64' ? 'f64' : 'f32'
    const a = cast(x, wide)
    const centred = sub(a, meanOf(a, [-1], true))
    const rstd = rsqrt(add(meanOf(mul(centred, centred), [-1], true), eps))
    const scaled = mul(mul(centred, rstd), cast(w, wide))
    return [cast(b === null ? scaled : add(scaled, cast(b, wide)), x.dtype), null, null]
  },
  saves: ['x', 'w', 'mean', 'rstd'],
  vjp: ({
    inputs: [x, w, b],
    outputs: [, mean, rstd],
    attributes: [eps],
    grads: [dy],
    needs,
    gradTarget,
  }) => {
    const dw = needs(1) ? gradTarget(1) : null
    const db = b !== null && needs(2) ? gradTarget(2) : null
    // the kernel has one `accumulate` for both; a bias beside a weight that was used elsewhere is
    // summed apart
    const together = dw === null || db?.accumulate === dw.accumulate
    const [dx] = layerNormBackwardOp(
      [dy, x, w, mean, rstd, dw?.tensor ?? null, together ? (db?.tensor ?? null) : null],
      [eps, (dw ?? db)?.accumulate ?? false],
    )
    if (db !== null && !together) {
      const write = db.accumulate ? addInto : copyInto
      const leading = dy.shape.slice(1).map((_, axis) => axis)
      write(db.tensor, sum(cast(dy, db.tensor.dtype), leading))
    }
    return [dx, dw?.tensor ?? null, db?.tensor ?? null]
  },
})

/**
 * Layer norm over the last axis, y = (x - mean) / sqrt(variance + eps) * w + b, with the biased
 * variance; float32 inside.
 * @param x [..., D] f32 | bf16
 * @param w [D] f32 | bf16, whichever x is
 * @param options b [D] of w's dtype, none when not said; eps, added to the variance, 1e-5 when not said
 * @returns like x
 * @throws ShapeError if w or b is not [D]
 * Source: Ba, Kiros & Hinton 2016
 */
export function layerNorm(
  x: Tensor,
  w: Tensor,
  { b = null, eps = 1e-5 }: { readonly b?: Tensor | null; readonly eps?: number } = {},
): Tensor {
  return layerNormOp([x, w, b], [eps])[0]
}
