// The training step that several benches share: a reference model on random tokens.

import {
  AdamW,
  Llama,
  type LlamaConfig,
  type LossOptions,
  noGrad,
  ops,
  referenceModels,
  scope,
  type Tensor,
  tensor,
} from 'fuselm'

export type ModelName = keyof typeof referenceModels

export const shapes: Readonly<Record<ModelName, { readonly batch: number; readonly context: number }>> = {
  '1M': { batch: 32, context: 128 },
  '10M': { batch: 16, context: 256 },
  '124M': { batch: 4, context: 1024 },
}

const BATCHES = 8

/** How every bench trains, and its peers. */
export const settings = { learningRate: 3e-4, weightDecay: 0.01, clipNorm: 1 } as const

/** @throws Error naming the models there are */
export function modelName(name: string): ModelName {
  if (Object.hasOwn(referenceModels, name)) return name as ModelName
  throw new Error(`--model must be one of ${Object.keys(referenceModels).join(', ')}, received ${name}`)
}

export interface TrainedModel {
  readonly model: Llama
  readonly batch: number
  readonly context: number
  /** [BATCHES, batch, context], used round and round. */
  readonly tokens: Int32Array
  /** Enqueues one step; the loss is the caller's to dispose. */
  step(options?: LossOptions): Tensor
  /** The weights as a float32 model, for a peer to start from. */
  floatCopy(): Llama
  dispose(): void
}

/** xorshift32: uniform ids that any program can make again. */
function randomIds(count: number, vocabSize: number): Int32Array {
  let state = 0x9e3779b9
  return Int32Array.from({ length: count }, () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % vocabSize
  })
}

export function trainer(
  name: ModelName,
  dtype: 'f32' | 'bf16' = 'bf16',
  batch: number = shapes[name].batch,
): TrainedModel {
  const { context } = shapes[name]
  const size = batch * context
  const model = new Llama(referenceModels[name], { dtype, seed: 1 })
  const config: LlamaConfig = model.config
  const tokens = randomIds(BATCHES * size, config.vocabSize)
  const optimizer = new AdamW({ parameters: model.namedParameters(), betas: [0.9, 0.95], ...settings })
  let steps = 0
  return {
    model,
    batch,
    context,
    tokens,
    step(options) {
      const at = (steps++ % BATCHES) * size
      return scope(() => {
        const ids = tensor(tokens.subarray(at, at + size), { shape: [batch, context], dtype: 'i32' })
        const loss = model.loss(ids, ids, options)
        loss.backward()
        optimizer.step()
        return loss
      })
    },
    floatCopy() {
      const copy = new Llama(config, { dtype: 'f32', seed: 1 })
      scope(() =>
        noGrad(() => {
          const state = [...model.stateDict()].map(([path, t]) => [path, ops.cast(t, 'f32')] as const)
          copy.loadStateDict(new Map(state))
        }),
      )
      return copy
    },
    dispose() {
      model.dispose()
      optimizer.dispose()
    },
  }
}
