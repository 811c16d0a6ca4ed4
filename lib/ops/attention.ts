// Shape letters: B batch, T queries, S keys, H query heads, Hkv key heads, D head size.
import { ValueError } from '../runtime/errors.ts'
import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { less, sub } from './binary.ts'
import { iota } from './create.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { checkHeads, checkWindow, defaultScale, maskedAttention } from './masked-attention.ts'

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
  attributes: ['scale', 'causal', 'window'],
  infer: ([, q, k, v]) => [spec(q.shape, q.dtype), spec(k.shape, k.dtype), spec(v.shape, v.dtype)],
  differentiable: false,
  reference: { gradientOf: 'attention' },
  flops: ([, q, k], [, causal, window]) => 2.5 * forwardFlops(q.shape, k.shape, causal, window),
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
  attributes: ['scale', 'causal', 'window'],
  infer: ([q, k, v, first, last], [scale, causal, window]) => {
    checkHeads('attention', [q, k, v], { scale, window })
    if (window > 0 && !causal) throw new ValueError('attention: a window needs causal: true')
    const [batch = 0, length = 0, heads = 0] = q.shape
    for (const [name, bound] of [
      ['first', first],
      ['last', last],
    ] as const) {
      if (bound !== null && !sameShape(bound.shape, [batch, length])) {
        throw shapeError('attention', name, `[${batch},${length}]`, bound)
      }
    }
    return [spec(q.shape, q.dtype), spec([batch, heads, length], 'f32')]
  },
  reference: ([q, k, v, first, last], [scale, causal, window]) => {
    const [batch = 0, length = 0] = q.shape
    const [, keys = 0] = k.shape
    const { device } = q
    const key = iota(keys, { device })
    const own = iota(length, { device, start: keys - length }).reshape([length, 1])
    const perQuery = (bound: Tensor): Tensor => bound.reshape([batch, 1, length, 1])
    const outside: Tensor[] = []
    if (causal) outside.push(less(own, key))
    if (window > 0) outside.push(less(key, sub(own, window - 1)))
    if (first !== null) outside.push(less(key, perQuery(first)))
    if (last !== null) outside.push(less(perQuery(last), key))
    return [maskedAttention(q, k, v, { scale, outside }), null]
  },
  saves: ['q', 'k', 'v', 'first', 'last', 'out', 'lse'],
  vjp: ({ inputs: [q, k, v, first, last], outputs: [out, lse], attributes, grads: [dout] }) => {
    const [dq, dk, dv] = attentionBackwardOp([dout, q, k, v, out, lse, first, last], attributes)
    return [dq, dk, dv, null, null]
  },
  flops: ([q, k], [, causal, window]) => forwardFlops(q.shape, k.shape, causal, window),
})

/** Two products of T x S x D per head; causal ones do about half of them, or a band. */
function forwardFlops(q: readonly number[], k: readonly number[], causal: number, window: number): number {
  const keys = (k[1] ?? 0) * (causal ? 0.5 : 1)
  return 4 * q.reduce((n, d) => n * d, 1) * (window > 0 ? Math.min(window, keys) : keys)
}

export interface AttentionOptions {
  /** Query t sees keys up to t + S - T, so that the last query sees them all; true when not said. */
  readonly causal?: boolean
  /** Sliding window: how many keys a query sees up to its own (with `causal`); all when not said. */
  readonly window?: number | null
  /** i32 [B, T]: first key each query may see (documents, left padding); the larger of the two counts. */
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
 * @throws ShapeError if shapes do not fit; ValueError if scale is not positive or window not a whole
 *   number of 1 or more
 * Source: Vaswani et al. 2017; Dao 2023 (FlashAttention-2)
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const { causal = true, window = null, first = null, last = null, scale = defaultScale(q) } = options
  return attentionOp([q, k, v, first, last], [scale, causal, checkWindow('attention', window)])[0]
}
