// Who trains a model: itself, or adapters beside it. While adapters train, the parameters of their base
// take no gradients.

import type { CausalLm } from '../models/causal-lm.ts'
import { ConfigError } from '../runtime/errors.ts'
import type { Tensor } from '../tensor/tensor.ts'

interface Hold {
  readonly whole: boolean
  runs: number
  readonly frozen: readonly Tensor[]
}

const holds = new WeakMap<CausalLm, Hold>()

/**
 * Takes a model for a training run: its parameters for themselves, or frozen for adapters, of which several
 * may train at once.
 * @returns gives it back, with the parameters as they were
 * @throws ConfigError when another run has it
 */
export function holdForTraining(model: CausalLm, what: 'whole' | 'adapter'): () => void {
  let hold = holds.get(model)
  if (hold !== undefined && (hold.whole || what === 'whole')) {
    throw new ConfigError(
      `Trainer: ${hold.whole ? 'another run trains this model' : 'an adapter of this model is in training'}; ` +
        'wait for its end',
    )
  }
  if (hold === undefined) {
    const frozen = what === 'whole' ? [] : model.parameters().filter(({ requiresGrad }) => requiresGrad)
    hold = { whole: what === 'whole', runs: 0, frozen }
    for (const parameter of frozen) parameter.requiresGrad = false
    holds.set(model, hold)
  }
  hold.runs++
  let held = true
  return () => {
    if (!held || hold === undefined) return
    held = false
    if (--hold.runs > 0) return
    holds.delete(model)
    for (const parameter of hold.frozen) if (!parameter.disposed) parameter.requiresGrad = true
  }
}

/** @throws ConfigError while a run trains the model or an adapter of it */
export function checkNotInTraining(where: string, model: CausalLm): void {
  if (!holds.has(model)) return
  throw new ConfigError(`${where}: the model is in training; wait for the end of the run`)
}
