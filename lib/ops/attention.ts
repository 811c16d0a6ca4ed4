// Shape letters: B batch, T queries, S keys, H query heads, Hkv key heads, D head size.
import { ValueError } from '../runtime/errors.ts'
import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add, div, equal, less, mul, sub, where } from './binary.ts'
import { cast } from './copy.ts'
import { full, iota } from './create.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { matmul } from './matmul.ts'
import { max, sum } from './reduce.ts'
import { exp } from './unary.ts'

export const attentionBackwardOp = defineOp({
  name: 'attention.backward',
  inputs: [
    { name: 'dout', dtype: 'float', layout: 'rows' },
    { name: 'q', dtype: 'float', layout: 'rows' },
    { name: 'k', dtype: 'float', layout: 'rows' },
    { name: 'v', dtype: 'float', layout: 'rows' },
    { name: 'out', dtype: 'float', layout: 'rows' },
    { name: 'lse', dtype: 'f32' },
    { name: 'first', dtype: 'i32', layout: 'any', optional: true },
    { name: 'last', dtype: 'i32', layout: 'any', optional: true },
  ],
  outputs: [{ name: 'dq' }, { name: 'dk' }, { name: 'dv' }],
  attributes: ['scale', 'causal'],
  infer: ([, q, k, v]) => [spec(q.shape, q.dtype), spec(k.shape, k.dtype), spec(v.shape, v.dtype)],
  differentiable: false,
  reference: { gradientOf: 'attention' },
  flops: ([, q, k], [, causal]) => 2.5 * forwardFlops(q.shape, k.shape, causal),
})

export const attentionOp = defineOp({
  name: 'attention',
  inputs: [
    { name: 'q', dtype: 'float', layout: 'rows' },
    { name: 'k', dtype: 'float', layout: 'rows' },
    { name: 'v', dtype: 'float', layout: 'rows' },
    { name: 'first', dtype: 'i32', layout: 'any', optional: true },
    { name: 'last', dtype: 'i32', layout: 'any', optional: true },
  ],
  outputs: [{ name: 'out' }, { name: 'lse', saved: true }],
  attributes: ['scale', 'causal'],
  infer: ([q, k, v, first, last], [scale]) => {
    if (q.rank !== 4) throw shapeError('attention', 'q', '[B, T, H, D]', q)
    const [batch = 0, length = 0, heads = 0, size = 0] = q.shape
    const [kBatch, , keyHeads = 0, kSize] = k.shape
    if (size < 1) throw shapeError('attention', 'q', '[B, T, H, D] with D of 1 or more', q)
    if (k.rank !== 4 || kBatch !== batch || kSize !== size) {
      throw shapeError('attention', 'k', `[${batch},S,Hkv,${size}] to match q [${q.shape}]`, k)
    }
    if (keyHeads < 1 || heads % keyHeads !== 0) {
      throw shapeError('attention', 'k', `with a number of heads that divides the ${heads} of q`, k)
    }
    if (!sameShape(v.shape, k.shape)) throw shapeError('attention', 'v', `[${k.shape}] like k`, v)
    for (const [name, bound] of [
      ['first', first],
      ['last', last],
    ] as const) {
      if (bound !== null && !sameShape(bound.shape, [batch, length])) {
        throw shapeError('attention', name, `[${batch},${length}]`, bound)
      }
    }
    if (!(scale > 0 && scale < Infinity)) {
      throw new ValueError(`attention: scale must be positive and finite, received ${scale}`)
    }
    return [spec(q.shape, q.dtype), spec([batch, heads, length], 'f32')]
  },
  reference: ([q, k, v, first, last], [scale, causal]) => {
    const [batch = 0, length = 0, heads = 0] = q.shape
    const [, keys = 0, keyHeads = 0] = k.shape
    if (q.size === 0 || keys === 0) return [mul(q, 0), null]
    const wide = q.dtype === 'f64' ? 'f64' : 'f32'
    const { device } = q
    /** [B, S, Hkv, D] to [B, H, S, D], each key head repeated for its group of query heads. */
    const spread = (x: Tensor): Tensor => {
      const [, rows = 0, , size = 0] = x.shape
      const apart = cast(x, wide).permute([0, 2, 1, 3]).unsqueeze(2)
      return apart.expand([batch, keyHeads, heads / keyHeads, rows, size]).reshape([batch, heads, rows, size])
    }
    const query = cast(q, wide).permute([0, 2, 1, 3])
    const scores = mul(matmul(query, spread(k).transpose()), scale)

    const key = iota(keys, { device })
    const perQuery = (bound: Tensor): Tensor => bound.reshape([batch, 1, length, 1])
    const outside: Tensor[] = []
    if (causal) outside.push(less(iota(length, { device, start: keys - length }).reshape([length, 1]), key))
    if (first !== null) outside.push(less(key, perQuery(first)))
    if (last !== null) outside.push(less(perQuery(last), key))
    /** `value` put where a query may not look. */
    const masked = (x: Tensor, value: number): Tensor => {
      const filler = full([], value, { dtype: wide, device })
      return outside.reduce((kept, mask) => where(mask, filler, kept), x)
    }
    const kept = masked(scores, -1e30)
    const weights = masked(exp(sub(kept, max(kept, [-1], true).detach())), 0)
    const total = sum(weights, [-1], true)
    // an empty interval: 0 / 1
    const empty = cast(equal(total, 0), wide)
    const out = matmul(div(weights, add(total, empty)), spread(v))
    return [cast(out.permute([0, 2, 1, 3]), q.dtype), null]
  },
  saves: ['q', 'k', 'v', 'first', 'last', 'out', 'lse'],
  vjp: ({ inputs: [q, k, v, first, last], outputs: [out, lse], attributes, grads: [dout] }) => {
    const [dq, dk, dv] = attentionBackwardOp([dout, q, k, v, out, lse, first, last], attributes)
    return [dq, dk, dv, null, null]
  },
  flops: ([q, k], [, causal]) => forwardFlops(q.shape, k.shape, causal),
})

/** Two products of T x S x D per head; causal ones do about half of them. */
function forwardFlops(q: readonly number[], k: readonly number[], causal: number): number {
  return 4 * q.reduce((n, d) => n * d, 1) * (k[1] ?? 0) * (causal ? 0.5 : 1)
}

export interface AttentionOptions {
  /** Query t sees keys up to t + S - T, so that the last query sees them all; true when not said. */
  readonly causal?: boolean
  /** i32 [B, T]: first key each query may see (documents, left padding, sliding windows). */
  readonly first?: Tensor | null
  /** i32 [B, T]: last key each query may see; with `causal` the smaller of the two counts. */
  readonly last?: Tensor | null
  /** Factor on q k^T; 1 / sqrt(D) when not said. */
  readonly scale?: number
}

/**
 * softmax(scale q k^T) v per head, over one interval of keys for each query; a query with an empty
 * interval gives zeros. Scores and sums are float32; no T x S matrix is stored. Query head h uses
 * key head floor(h / (H / Hkv)).
 * @param q [B, T, H, D] f32 | bf16, last axis dense
 * @param k [B, S, Hkv, D], Hkv dividing H
 * @param v like k
 * @returns like q
 * @throws ShapeError if shapes do not fit; ValueError if scale is not positive
 * Source: Vaswani et al. 2017; Dao 2023 (FlashAttention-2)
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const { causal = true, first = null, last = null, scale = 1 / Math.sqrt(q.shape.at(-1) ?? 1) } = options
  return attentionOp([q, k, v, first, last], [scale, causal])[0]
}
