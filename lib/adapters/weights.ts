// One set of an adapter's tensors as a call goes through them: the ones that train, or a copy for
// generation.

import type { DropoutKeys } from '../nn/dropout.ts'
import type { Embedding, Linear, WeightAdapter } from '../nn/layers.ts'
import { add, mul } from '../ops/binary.ts'
import { cast, contiguous } from '../ops/copy.ts'
import { embedding } from '../ops/embedding.ts'
import { type LinearOperand, linear } from '../ops/linear.ts'
import type { Tensor } from '../tensor/tensor.ts'

/** A layer's low-rank term. */
export interface Term {
  /** [r, in] */
  readonly a: Tensor
  /** [out, r] */
  readonly b: Tensor
  readonly scale: number
}

/** A layer's own copy of all it has. */
export interface Whole {
  readonly weight: Tensor
  readonly bias: Tensor | null
}

export interface AdapterTensors {
  readonly terms: ReadonlyMap<Linear | Embedding, Term>
  readonly wholes: ReadonlyMap<Linear | Embedding, Whole>
}

export class AdapterWeights implements WeightAdapter {
  readonly #tensors: AdapterTensors
  readonly #dropout: { readonly p: number; readonly keys: DropoutKeys } | null

  constructor(
    tensors: AdapterTensors,
    dropout: { readonly p: number; readonly keys: DropoutKeys } | null = null,
  ) {
    this.#tensors = tensors
    this.#dropout = dropout === null || dropout.p === 0 ? null : dropout
  }

  linear(layer: Linear, operand: LinearOperand): LinearOperand {
    const whole = this.#tensors.wholes.get(layer)
    if (whole !== undefined) return whole
    const term = this.#tensors.terms.get(layer)
    if (term === undefined) return operand
    const dropout = this.#dropout
    const lora = {
      ...term,
      dropout: dropout === null ? null : { p: dropout.p, key: dropout.keys.next(term.a.device) },
    }
    return { ...operand, lora }
  }

  embedding(layer: Embedding, ids: Tensor, rows: () => Tensor): Tensor {
    const whole = this.#tensors.wholes.get(layer)
    if (whole !== undefined) return embedding(ids, whole.weight)
    const own = rows()
    const term = this.#tensors.terms.get(layer)
    if (term === undefined) return own
    const low = embedding(ids, contiguous(term.a.transpose()))
    const delta = mul(linear(low, { weight: term.b }), term.scale)
    return add(own, cast(delta, own.dtype))
  }
}
