// An adapter in the weights of its base: W + scale B A, made in float32 and rounded once. The weights
// before are kept, so that taking it out again gives the same bits.

import type { CausalLm } from '../models/causal-lm.ts'
import { Embedding, Linear } from '../nn/layers.ts'
import { parameter } from '../nn/module.ts'
import { add, mul } from '../ops/binary.ts'
import { cast } from '../ops/copy.ts'
import { matmul } from '../ops/matmul.ts'
import { ConfigError } from '../runtime/errors.ts'
import { noGrad } from '../tensor/mode.ts'
import { keep, scope } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { Target } from './targets.ts'
import type { AdapterTensors, Term, Whole } from './weights.ts'

interface Exchanged extends Target {
  readonly field: 'weight' | 'bias'
  readonly before: Tensor
  readonly now: Tensor
  readonly version: number
}

/** What {@link merge} put in the place of what. */
export type Merged = readonly Exchanged[]

/** @throws ConfigError for layers whose weights cannot take a term */
export function checkMergeable(where: string, model: CausalLm, targets: readonly Target[]): void {
  for (const { path, module } of targets) {
    if (module instanceof Linear && module.source !== null) {
      throw new ConfigError(
        `${where}: ${path} holds int8 weights, and a merge would round them again; the float weights they ` +
          'were made from are the base: load those, merge there and quantise the result, or leave the adapter beside',
      )
    }
    if (module instanceof Embedding && model.lmHead === null && module.weight === model.inputEmbedding) {
      throw new ConfigError(
        `${where}: ${path} is tied to the output layer, which the adapter does not change; untie them ` +
          '(tieWordEmbeddings: false) or leave the adapter beside',
      )
    }
  }
}

/** The weights of the targets from now on are those with the adapter in them. */
export function merge(targets: readonly Target[], tensors: AdapterTensors): Merged {
  return targets.flatMap(({ path, module }) => {
    const exchange = (field: 'weight' | 'bias', make: () => Tensor): Exchanged => {
      const holder = module as { weight: Tensor; bias?: Tensor | null }
      const before = holder[field] as Tensor
      const now = parameter(noGrad(() => scope(() => keep(make()))))
      now.requiresGrad = before.requiresGrad
      holder[field] = now
      return { path, module, field, before, now, version: now.storage.version }
    }
    const whole = tensors.wholes.get(module)
    if (whole !== undefined)
      return wholeParts(whole).map(([field, own]) => exchange(field, () => mul(own, 1)))
    const term = tensors.terms.get(module) as Term
    return [exchange('weight', () => mergedWeight(module, term))]
  })
}

function wholeParts({ weight, bias }: Whole): (readonly ['weight' | 'bias', Tensor])[] {
  return [['weight', weight] as const, ...(bias === null ? [] : [['bias', bias] as const])]
}

function mergedWeight(module: Linear | Embedding, { a, b, scale }: Term): Tensor {
  const wide = module.weight.dtype === 'f64' ? 'f64' : 'f32'
  const product = matmul(cast(b, wide), cast(a, wide)) // [out, in]; of an embedding [D, V]
  const delta = mul(module instanceof Embedding ? product.transpose() : product, scale)
  return cast(add(cast(module.weight, wide), delta), module.weight.dtype)
}

/**
 * The weights are again those before the merge, bit for bit.
 * @throws ConfigError when something else was written or merged into them since; nothing is changed then
 */
export function unmerge(where: string, merged: Merged): void {
  for (const { path, module, field, now, version } of merged) {
    const holder = module as { weight: Tensor; bias?: Tensor | null }
    if (holder[field] === now && now.storage.version === version) continue
    throw new ConfigError(
      `${where}: ${path}.${field} was written or merged into since, which taking the adapter out would undo`,
    )
  }
  for (const { module, field, before, now } of merged) {
    const holder = module as { weight: Tensor; bias?: Tensor | null }
    holder[field] = before
    before.requiresGrad = now.requiresGrad
    now.dispose()
  }
}
