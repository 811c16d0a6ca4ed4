import { ValueError } from '../runtime/errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add, div, equal, less, mul, sub, where } from './binary.ts'
import { cast, concat } from './copy.ts'
import { full, iota } from './create.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { uniform } from './random.ts'
import { argmax, max, sum } from './reduce.ts'
import { exp } from './unary.ts'

export const sampleOp = defineOp({
  name: 'sample',
  inputs: [
    { name: 'logits', dtype: 'float', layout: 'rows' },
    { name: 'key', dtype: 'u32' },
  ],
  outputs: [{ name: 'ids' }],
  attributes: ['temperature', 'topK', 'topP'],
  infer: ([logits, key], [temperature, topK, topP]) => {
    const [rows, size] = logits.shape
    if (logits.rank !== 2 || size === 0) throw shapeError('sample', 'logits', '[B, V] with V > 0', logits)
    if (key.rank !== 2 || key.shape[0] !== rows || key.shape[1] !== 4) {
      throw shapeError('sample', 'key', `[${rows},4] to match logits [${logits.shape}]`, key)
    }
    if (!(temperature >= 0 && temperature < Number.POSITIVE_INFINITY)) {
      throw new ValueError(`sample: temperature must be a number >= 0, received ${temperature}`)
    }
    if (!(Number.isInteger(topK) && topK >= 0)) {
      throw new ValueError(`sample: topK must be an integer >= 0, received ${topK}`)
    }
    if (!(topP > 0 && topP <= 1)) throw new ValueError(`sample: topP must be in (0, 1], received ${topP}`)
    return [spec([rows ?? 0], 'i32')]
  },
  // Ranks by comparing all pairs [B, V, V], where the kernel searches thresholds.
  reference: ([logits, key], [temperature, topK, topP]) => {
    const [rows = 0, size = 0] = logits.shape
    if (temperature === 0 || rows === 0) return [rows === 0 ? full([0], 0, { dtype: 'i32' }) : argmax(logits)]
    const wide = cast(logits, 'f64')
    const z = div(sub(wide, max(wide, [1], true)), temperature)
    const one = z.unsqueeze(2) // the token ranked
    const other = z.unsqueeze(1) // those it is ranked among
    const index = iota(size, { dtype: 'f64' })
    const above = cast(less(one, other), 'f64')
    const tiesBefore = mul(
      cast(equal(one, other), 'f64'),
      cast(less(index.unsqueeze(0), index.unsqueeze(1)), 'f64'),
    )
    const zero = full([1], 0, { dtype: 'f64' })
    const all = exp(z)
    // ties with the k-th are kept
    const weights = topK > 0 ? where(less(sum(above, [2]), topK), all, zero) : all
    const total = sum(weights, [1], true)
    // the mass ranked before a token; its own share is kept while that is short of topP
    const before = sum(mul(add(above, tiesBefore), weights.unsqueeze(1)), [2])
    const kept = topP < 1 ? where(less(before, mul(total, topP)), weights, zero) : weights
    const lower = cast(less(index.unsqueeze(0), add(index.unsqueeze(1), 0.5)), 'f64')
    const cumulative = sum(mul(kept.unsqueeze(1), lower), [2])
    const draws = Array.from({ length: rows }, (_, row) =>
      uniform([1], key.slice(0, row, row + 1).reshape([4])),
    )
    const wanted = mul(cast(concat(draws, 0), 'f64').unsqueeze(1), sum(kept, [1], true))
    return [cast(sum(cast(less(cumulative, add(wanted, 1e-300)), 'f64'), [1]), 'i32')]
  },
  differentiable: false,
})

export interface SampleOptions {
  /** 0 takes the largest logit. Default 1. */
  readonly temperature?: number
  /** Keep the k largest (and what equals the k-th); 0 keeps all. Default 0. */
  readonly topK?: number
  /** Keep the fewest largest whose probabilities reach this, at least one. Default 1. */
  readonly topP?: number
}

/**
 * Draws one token per row: temperature, then top-k, then top-p, then one Philox uniform per row. A
 * row's token depends on its logits and key only, not on the batch.
 * @param logits [B, V] f32 | bf16
 * @param key u32 [B, 4]: seed low, seed high, step, call
 * @returns i32 [B]
 * @throws ShapeError, ValueError (also, where the values are awaited, for a row without a largest
 *   finite logit)
 * Source: Holtzman et al. 2020 (top-p); Philox4x32-10 by Salmon et al. 2011
 */
export function sample(
  logits: Tensor,
  key: Tensor,
  { temperature = 1, topK = 0, topP = 1 }: SampleOptions = {},
): Tensor {
  return sampleOp([logits, key], [temperature, topK, topP])[0]
}
