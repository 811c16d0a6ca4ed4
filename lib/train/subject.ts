// What a run trains: a whole model, or an adapter beside it.

import type { LoraAdapter } from '../adapters/adapter.ts'
import { holdForTraining } from '../adapters/base.ts'
import type { CausalLm } from '../models/causal-lm.ts'
import type { DropoutKeys } from '../nn/dropout.ts'
import type { WeightAdapter } from '../nn/layers.ts'
import { ConfigError } from '../runtime/errors.ts'
import type { Tensor } from '../tensor/tensor.ts'

/** A model, and how it is kept. */
export interface TrainTarget {
  readonly model: CausalLm
  /** Writes the model as a folder. */
  save(folder: string): Promise<void>
  /** Puts the weights of such a folder into the model. */
  restore(folder: string): Promise<void>
  /** Continues a prompt; an abort may end it early. */
  sample?(prompt: string, adapter: LoraAdapter | null, signal?: AbortSignal): Promise<string>
}

export interface Subject {
  readonly kind: 'model' | 'adapter'
  readonly model: CausalLm
  parameters(): ReadonlyMap<string, Tensor>
  /** What tells this subject from another one, for a run that is resumed. */
  readonly identity: Readonly<Record<string, unknown>>
  /** What a training step's forward is given. */
  training(keys: DropoutKeys): WeightAdapter | null
  /** What an evaluation's is given. */
  readonly judged: WeightAdapter | null
  save(folder: string): Promise<void>
  restore(folder: string): Promise<void>
  /** Makes what generation reads what it is now. */
  publish(): Promise<void>
  sample(prompt: string, signal: AbortSignal): Promise<string> | undefined
  /** @returns ends the training, with everything else as it was */
  begin(): () => void
}

/** @throws ConfigError for an adapter of another model */
export function subjectOf(target: TrainTarget, adapter: LoraAdapter | null): Subject {
  const { model } = target
  if (adapter === null) {
    return {
      kind: 'model',
      model,
      parameters: () => model.namedParameters(),
      identity: {},
      training: () => null,
      judged: null,
      save: (folder) => target.save(folder),
      restore: (folder) => target.restore(folder),
      publish: async () => undefined,
      sample: (prompt, signal) => target.sample?.(prompt, null, signal),
      begin: () => holdForTraining(model, 'whole'),
    }
  }
  if (adapter.model !== model) throw new ConfigError('Trainer: the adapter belongs to another model')
  return {
    kind: 'adapter',
    model,
    parameters: () => adapter.namedParameters(),
    identity: { adapter: adapter.config },
    training: (keys) => adapter.withDropout(keys),
    judged: adapter,
    save: (folder) => adapter.save(folder),
    restore: (folder) => adapter.restore(folder),
    publish: () => adapter.publish(),
    sample: (prompt, signal) => target.sample?.(prompt, adapter, signal),
    begin() {
      const unhold = adapter.beginTraining()
      try {
        const release = holdForTraining(model, 'adapter')
        return () => {
          release()
          unhold()
        }
      } catch (error) {
        unhold()
        throw error
      }
    },
  }
}
