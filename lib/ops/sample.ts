import { ValueError } from '../runtime/errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add, div, equal, less, mul, sub, where } from './binary.ts'
import { cast, concat } from './copy.ts'
import { full, iota } from './create.ts'
import { referenceLogSum } from './cross_entropy.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { uniform } from './random.ts'
import { argmax, max, sum } from './reduce.ts'
import { exp } from './unary.ts'

export const sampleOp = defineOp({
  name: 'sample',
  inputs: [
    { name: 'logits', dtype: 'float', layout: 'rows' },
    { name: 'key', dtype: 'u32' },
    { name: 'history', dtype: 'i32', optional: true },
  ],
  outputs: [{ name: 'ids' }, { name: 'logprobs' }],
  attributes: ['temperature', 'topK', 'topP', 'minP', 'repetitionPenalty'],
  infer: ([logits, key, history], [temperature, topK, topP, minP, repetitionPenalty]) => {
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
    if (!(minP >= 0 && minP <= 1)) throw new ValueError(`sample: minP must be in [0, 1], received ${minP}`)
    if (!(repetitionPenalty > 0 && repetitionPenalty < Number.POSITIVE_INFINITY)) {
      throw new ValueError(
        `sample: repetitionPenalty must be a number above 0, received ${repetitionPenalty}`,
      )
    }
    if (history !== null && (history.rank !== 2 || history.shape[0] !== rows)) {
      throw shapeError('sample', 'history', `[${rows}, L] to match logits [${logits.shape}]`, history)
    }
    return [spec([rows ?? 0], 'i32'), spec([rows ?? 0], 'f32')]
  },
  // Ranks by comparing all pairs [B, V, V], where the kernel searches thresholds.
  reference: ([logits, key, history], [temperature, topK, topP, minP, repetitionPenalty]) => {
    const [rows = 0, size = 0] = logits.shape
    if (rows === 0) return [full([0], 0, { dtype: 'i32' }), full([0], 0)]
    const given = cast(logits, 'f64')
    const index = iota(size, { dtype: 'f64' })
    const ids = (): Tensor => {
      const wide = history === null ? given : penalized(given, history, repetitionPenalty)
      if (temperature === 0) return argmax(wide)
      return drawn(div(sub(wide, max(wide, [1], true)), temperature))
    }
    const drawn = (z: Tensor): Tensor => {
      const one = z.unsqueeze(2) // the token ranked
      const other = z.unsqueeze(1) // those it is ranked among
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
      const nucleus = topP < 1 ? where(less(before, mul(total, topP)), weights, zero) : weights
      const kept = where(less(nucleus, minP), zero, nucleus) // the largest weighs 1
      const lower = cast(less(index.unsqueeze(0), add(index.unsqueeze(1), 0.5)), 'f64')
      const cumulative = sum(mul(kept.unsqueeze(1), lower), [2])
      const draws = Array.from({ length: rows }, (_, row) =>
        uniform([1], key.slice(0, row, row + 1).reshape([4])),
      )
      const wanted = mul(cast(concat(draws, 0), 'f64').unsqueeze(1), sum(kept, [1], true))
      return cast(sum(cast(less(cumulative, add(wanted, 1e-300)), 'f64'), [1]), 'i32')
    }
    const chosen = ids()
    const picked = where(
      equal(index, cast(chosen, 'f64').unsqueeze(1)),
      given,
      full([1], 0, { dtype: 'f64' }),
    )
    return [chosen, cast(sub(sum(picked, [1]), referenceLogSum(given)), 'f32')]
  },
  differentiable: false,
})

/** Hugging Face's rule: the logits of tokens in `history` lose, whatever their sign. */
function penalized(logits: Tensor, history: Tensor, penalty: number): Tensor {
  const [, size = 0] = logits.shape
  const named = cast(equal(history.unsqueeze(2), iota(size)), 'f64') // [B, L, V]
  const seen = less(full([1], 0, { dtype: 'f64' }), sum(named, [1]))
  const positive = less(full([1], 0, { dtype: 'f64' }), logits)
  return where(seen, where(positive, div(logits, penalty), mul(logits, penalty)), logits)
}

export interface SampleOptions {
  /** 0 takes the largest logit. Default 1. */
  readonly temperature?: number
  /** Keep the k largest (and what equals the k-th); 0 keeps all. Default 0. */
  readonly topK?: number
  /** Keep the fewest largest whose probabilities reach this, at least one. Default 1. */
  readonly topP?: number
  /** Keep what is at least this share as probable as the likeliest. Default 0. */
  readonly minP?: number
  /** i32 [B, L]: tokens that `repetitionPenalty` is for; -1 is none. */
  readonly history?: Tensor | null
  /** Divides positive logits of tokens in `history` and multiplies negative ones. Default 1. */
  readonly repetitionPenalty?: number
}

/**
 * Draws one token per row: repetition penalty, temperature, then top-k, top-p, min-p, then one Philox
 * uniform per row (the order of Hugging Face's generate). A row's token depends on its logits, history
 * and key only, not on the batch.
 * @param logits [B, V] f32 | bf16
 * @param key u32 [B, 4]: seed low, seed high, step, call
 * @returns ids i32 [B]; logprobs f32 [B], the tokens' log-probabilities by the logits as given
 * @throws ShapeError, ValueError (also, where the values are awaited, for a row without a largest
 *   finite logit, and for a token of the history outside the vocabulary)
 * Source: Keskar et al. 2019 (penalty); Holtzman et al. 2020 (top-p); Nguyen et al. 2024 (min-p);
 *   Philox4x32-10 by Salmon et al. 2011
 */
export function sample(
  logits: Tensor,
  key: Tensor,
  options: SampleOptions = {},
): { readonly ids: Tensor; readonly logprobs: Tensor } {
  const { temperature = 1, topK = 0, topP = 1, minP = 0, history = null, repetitionPenalty = 1 } = options
  const penalty = history === null ? 1 : repetitionPenalty
  const [ids, logprobs] = sampleOp([logits, key, history], [temperature, topK, topP, minP, penalty])
  return { ids, logprobs }
}
