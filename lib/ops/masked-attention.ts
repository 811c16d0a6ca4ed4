// What attention and cached_attention share: checks, and the softmax over what a query may see.
// Shape letters: B batch, T queries, S keys, H query heads, Hkv key heads, D head size.
import { ValueError } from '../runtime/errors.ts'
import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add, div, equal, mul, sub, where } from './binary.ts'
import { cast } from './copy.ts'
import { full } from './create.ts'
import { shapeError } from './define.ts'
import { matmul } from './matmul.ts'
import { max, sum } from './reduce.ts'
import type { TensorMeta } from './spec.ts'
import { exp } from './unary.ts'

/** @throws ShapeError unless q is [B, T, H, D], k and v [B, S, Hkv, D] with Hkv dividing H; ValueError */
export function checkHeads(
  op: string,
  [q, k, v]: readonly [TensorMeta, TensorMeta, TensorMeta],
  { scale, window }: { readonly scale: number; readonly window: number },
): void {
  if (q.rank !== 4) throw shapeError(op, 'q', '[B, T, H, D]', q)
  const [batch = 0, , heads = 0, size = 0] = q.shape
  const [kBatch, , keyHeads = 0, kSize] = k.shape
  if (size < 1) throw shapeError(op, 'q', '[B, T, H, D] with D of 1 or more', q)
  if (k.rank !== 4 || kBatch !== batch || kSize !== size) {
    throw shapeError(op, 'k', `[${batch},S,Hkv,${size}] to match q [${q.shape}]`, k)
  }
  if (keyHeads < 1 || heads % keyHeads !== 0) {
    throw shapeError(op, 'k', `with a number of heads that divides the ${heads} of q`, k)
  }
  if (!sameShape(v.shape, k.shape)) throw shapeError(op, 'v', `[${k.shape}] like k`, v)
  if (!(scale > 0 && scale < Infinity)) {
    throw new ValueError(`${op}: scale must be positive and finite, received ${scale}`)
  }
  if (!(window >= 0 && window < 2 ** 31)) {
    throw new ValueError(`${op}: window must be from 0 (none) to 2^31 - 1, received ${window}`)
  }
}

/** The attribute of a window option: 0 for none. */
export function checkWindow(op: string, window: number | null): number {
  if (window !== null && !(Number.isInteger(window) && window >= 1)) {
    throw new ValueError(`${op}: window must be a whole number of 1 or more, received ${window}`)
  }
  return window ?? 0
}

export function defaultScale(q: Tensor): number {
  return 1 / Math.sqrt(q.shape.at(-1) ?? 1)
}

export interface MaskedAttentionOptions {
  readonly scale: number
  /** u8, broadcast to [B, H, T, S]: 1 where a query may not look. */
  readonly outside: readonly Tensor[]
}

/** softmax(scale q k^T) v by primitives; zeros where a query may look nowhere. */
export function maskedAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { scale, outside }: MaskedAttentionOptions,
): Tensor {
  const [batch = 0, , heads = 0] = q.shape
  const [, keys = 0, keyHeads = 0] = k.shape
  if (q.size === 0 || keys === 0) return mul(q, 0)
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
  return cast(out.permute([0, 2, 1, 3]), q.dtype)
}
