// Shape letters: B batch, T tokens, S slots of the cache, G key heads, D head size.
import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add, div, less, maximum, mul, sub, where } from './binary.ts'
import { cast, copyInto } from './copy.ts'
import { iota } from './create.ts'
import { defineOp, shapeError } from './define.ts'
import { take } from './take.ts'

export const kvCacheAppendOp = defineOp({
  name: 'kv_cache_append',
  inputs: [
    { name: 'k_cache', dtype: 'float', layout: 'rows', inPlace: true },
    { name: 'v_cache', dtype: 'float', layout: 'rows', inPlace: true },
    { name: 'k', dtype: 'float', layout: 'rows' },
    { name: 'v', dtype: 'float', layout: 'rows' },
    { name: 'start', dtype: 'i32', layout: 'any' },
  ],
  outputs: [],
  infer: ([kCache, vCache, k, v, start]) => {
    const fail = (name: string, expected: string, x: { readonly shape: readonly number[] }): never => {
      throw shapeError('kvCacheAppend', name, expected, x)
    }
    if (kCache.rank !== 4) fail('k_cache', '[B, S, G, D]', kCache)
    const [batch = 0, , heads = 0, size = 0] = kCache.shape
    const [kBatch, , kHeads, kSize] = k.shape
    if (!sameShape(vCache.shape, kCache.shape)) fail('v_cache', `[${kCache.shape}] like k_cache`, vCache)
    if (k.rank !== 4 || kBatch !== batch || kHeads !== heads || kSize !== size) {
      fail('k', `[${batch},T,${heads},${size}] to match k_cache`, k)
    }
    if (!sameShape(v.shape, k.shape)) fail('v', `[${k.shape}] like k`, v)
    if (!sameShape(start.shape, [batch])) fail('start', `[${batch}]`, start)
    return []
  },
  differentiable: false,
  reference: ([kCache, vCache, k, v, start]) => {
    const [batch = 0, length = 0, heads = 0, size = 0] = k.shape
    const [, slots = 0] = kCache.shape
    if (k.size === 0 || slots === 0) return []
    const { device } = k
    const rowStart = start.reshape([batch, 1])
    const slot = iota(slots, { device })
    // the latest token t with (start + t) mod S = slot; below 0 when none was given
    const newest = add(rowStart, length - 1)
    const back = sub(newest, slot)
    const fits = cast(less(back, 0), 'i32')
    const turns = sub(cast(div(cast(add(back, mul(fits, slots)), 'f64'), slots), 'i32'), fits)
    const token = sub(add(slot, mul(turns, slots)), rowStart)
    const none = less(token, 0)
    const row = mul(iota(batch, { device }).reshape([batch, 1]), length)
    const rows = add(row, maximum(token, 0))
    for (const [cache, x] of [
      [kCache, k],
      [vCache, v],
    ] as const) {
      const fresh = take(x.reshape([batch * length, heads * size]), rows).reshape(kCache.shape)
      copyInto(cache, where(none.reshape([batch, slots, 1, 1]), cache, fresh))
    }
    return []
  },
})

/**
 * Writes the keys and values of new tokens into a cache, in place: token t of row b goes to slot
 * (start[b] + t) mod S. Of more tokens than slots only the last S are kept. Not differentiable.
 * @param kCache [B, S, G, D] f32 | bf16, last axis dense
 * @param vCache like kCache
 * @param k [B, T, G, D], of the caches' dtype
 * @param v like k
 * @param start i32 [B]: tokens that each row held before; read when the command runs
 * @throws ShapeError if shapes or dtypes do not fit
 */
export function kvCacheAppend(kCache: Tensor, vCache: Tensor, k: Tensor, v: Tensor, start: Tensor): void {
  kvCacheAppendOp([kCache, vCache, k, v, start])
}
