// Shape letters: B batch, T queries, S slots of the cache, H query heads, Hkv key heads, D head size.
import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add, div, less, mul, sub } from './binary.ts'
import { cast } from './copy.ts'
import { iota } from './create.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { checkHeads, checkWindow, defaultScale, maskedAttention } from './masked-attention.ts'

export const cachedAttentionOp = defineOp({
  name: 'cached_attention',
  inputs: [
    { name: 'q', dtype: 'float', layout: 'rows' },
    { name: 'k', dtype: 'float', layout: 'rows' },
    { name: 'v', dtype: 'float', layout: 'rows' },
    { name: 'start', dtype: 'i32', layout: 'any' },
    { name: 'first', dtype: 'i32', layout: 'any', optional: true },
  ],
  outputs: [{ name: 'out' }],
  attributes: ['scale', 'window'],
  infer: ([q, k, v, start, first], [scale, window]) => {
    checkHeads('cachedAttention', [q, k, v], { scale, window })
    const [batch = 0, length = 0] = q.shape
    const slots = k.shape[1] ?? 0
    for (const [name, x] of [
      ['start', start],
      ['first', first],
    ] as const) {
      if (x !== null && !sameShape(x.shape, [batch]))
        throw shapeError('cachedAttention', name, `[${batch}]`, x)
    }
    if (length > slots) {
      throw shapeError('cachedAttention', 'q', `[B, T, H, D] with T of at most the ${slots} slots of k`, q)
    }
    return [spec(q.shape, q.dtype)]
  },
  differentiable: false,
  reference: ([q, k, v, start, first], [scale, window]) => {
    const [batch = 0, length = 0] = q.shape
    const [, slots = 0] = k.shape
    const { device } = q
    const perRow = (x: Tensor): Tensor => x.reshape([batch, 1, 1, 1])
    const slot = iota(slots, { device })
    const newest = perRow(add(start, length - 1))
    // slot s holds the latest position s + n S that is not past the newest: float64 divides exactly
    const passed = div(cast(sub(newest, slot), 'f64'), slots)
    const position = add(slot, mul(cast(passed, 'i32'), slots))
    const own = add(perRow(start), iota(length, { device }).reshape([length, 1]))
    const outside = [less(newest, slot), less(own, position)]
    if (window > 0) outside.push(less(position, sub(own, window - 1)))
    if (first !== null) outside.push(less(position, perRow(first)))
    return [maskedAttention(q, k, v, { scale, outside })]
  },
  flops: ([q, k], [, window]) => {
    const slots = k.shape[1] ?? 0
    return 4 * q.shape.reduce((n, d) => n * d, 1) * (window > 0 ? Math.min(window, slots) : slots)
  },
})

export interface CachedAttentionOptions {
  /** Sliding window: how many positions a query sees up to its own; all when not said. */
  readonly window?: number | null
  /** i32 [B]: first position that queries of a row may see (left padding); 0 when not said. */
  readonly first?: Tensor | null
  /** Factor on q k^T; 1 / sqrt(D) when not said. */
  readonly scale?: number
}

/**
 * Attention of new queries over a cache they have been appended to (`kvCacheAppend`): query t of row
 * b stands at position start[b] + t and sees the positions up to its own. A cache is a ring: position
 * x stands in slot x mod S, so a row that has outgrown it needs a window with window + T - 1 <= S.
 * Scores and sums are float32. Query head h uses key head floor(h / (H / Hkv)). Not differentiable.
 * @param q [B, T, H, D] f32 | bf16, last axis dense
 * @param k [B, S, Hkv, D]; any order of the other axes in memory, [B, Hkv, S, D] is the fastest
 * @param v like k
 * @param start i32 [B]: positions before these queries; read when the command runs
 * @returns like q; zeros for a query whose window is empty
 * @throws ShapeError, ValueError as attention; when it runs, ValueError for a row past the cache
 */
export function cachedAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  start: Tensor,
  { window = null, first = null, scale = defaultScale(q) }: CachedAttentionOptions = {},
): Tensor {
  return cachedAttentionOp([q, k, v, start, first], [scale, checkWindow('cachedAttention', window)])[0]
}
