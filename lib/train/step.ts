// One optimizer step: micro-batches, one loss over all their targets, one update.

import '../autograd/backward.ts' // Tensor.backward
import type { Batch } from '../data/rows.ts'
import type { CausalLm } from '../models/causal-lm.ts'
import type { DropoutKeys } from '../nn/dropout.ts'
import type { WeightAdapter } from '../nn/layers.ts'
import { tensor } from '../ops/create.ts'
import type { AdamW } from '../optim/adam-w.ts'
import { ValueError } from '../runtime/errors.ts'
import { noGrad } from '../tensor/mode.ts'
import { scope } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'

export interface StepInputs {
  readonly model: CausalLm
  readonly optimizer: AdamW
  readonly batches: readonly Batch[]
  readonly dropout: { readonly p: number; readonly keys: DropoutKeys } | null
  readonly recompute: boolean | number
  readonly adapter: WeightAdapter | null
}

export interface StepValues {
  /** Mean over all targets of the step, in nats. */
  readonly loss: number
  /** Of all gradients, before clipping. */
  readonly gradientNorm: number
}

/** A batch on the model's device, for the scope it is made in. */
export function upload(
  model: CausalLm,
  batch: Batch,
): Record<'ids' | 'labels' | 'positions' | 'first', Tensor> {
  const shape = [batch.rows, batch.length]
  const device = (model.parameters()[0] as Tensor).device
  const make = (values: Int32Array): Tensor => tensor(values, { shape, dtype: 'i32', device })
  const { ids, labels, positions, first } = batch
  return { ids: make(ids), labels: make(labels), positions: make(positions), first: make(first) }
}

/**
 * Enqueues a step, one micro-batch in a turn of the event loop. What it returns comes once the step ran;
 * the next may be enqueued before.
 * The loss is normalised by the targets of all micro-batches together, so that gradients do not depend on
 * how a step is split.
 */
export async function enqueueStep(inputs: StepInputs): Promise<{ readonly values: Promise<StepValues> }> {
  const { model, optimizer, batches, dropout, recompute, adapter } = inputs
  const queue = (model.parameters()[0] as Tensor).device.activeQueue
  const targets = batches.reduce((sum, batch) => sum + batch.targets, 0)
  const losses: Promise<number>[] = []
  for (const batch of batches) {
    if (batch.targets > 0) {
      losses.push(
        taken(
          scope(() => {
            const { ids, labels, positions, first } = upload(model, batch)
            const { device } = ids
            const scale = tensor([1 / targets], { dtype: 'f32', shape: [], device })
            const options = { positions, first, scale, dropout, adapter, checkpoint: recompute }
            const loss = model.loss(ids, labels, options)
            loss.backward()
            return loss
          }),
        ),
      )
    }
    await queue.ready()
  }
  // rows whose tokens are all context teach nothing: there is no gradient to step by
  if (targets === 0) return { values: Promise.resolve({ loss: Number.NaN, gradientNorm: Number.NaN }) }
  const norm = taken(optimizer.step())
  const values = Promise.all([Promise.all(losses), norm]).then(([parts, gradientNorm]) => ({
    loss: parts.reduce((sum, part) => sum + part, 0),
    gradientNorm,
  }))
  values.catch(() => undefined) // it is reported where the step is awaited
  return { values }
}

/** A scalar's value, its tensor given back at once: what is queued on it still runs. */
function taken(scalar: Tensor): Promise<number> {
  const value = scalar.item()
  value.catch(() => undefined)
  scalar.dispose()
  return value
}

export interface Evaluation {
  /** Mean over all targets, in nats. */
  readonly loss: number
  /** e to the loss. */
  readonly perplexity: number
  /** Targets that were judged. */
  readonly tokens: number
}

/**
 * The loss of a model over batches; nothing is trained and nothing dropped. An abort cancels what has not run.
 * @throws ValueError when they have no target; the signal's reason
 */
export async function evaluate(
  model: CausalLm,
  batches: AsyncIterable<Batch>,
  { signal, adapter = null }: { readonly signal?: AbortSignal; readonly adapter?: WeightAdapter | null } = {},
): Promise<Evaluation> {
  const { device } = model.parameters()[0] as Tensor
  const owner = device.newOwner()
  const cancel = (): void => device.cancel(owner)
  let sum = 0
  let tokens = 0
  let pending: { value: Promise<number>; targets: number } | null = null
  const settle = async (): Promise<void> => {
    if (pending === null) return
    sum += (await pending.value) * pending.targets
    tokens += pending.targets
    pending = null
  }
  const lossOf = (batch: Batch): Tensor =>
    scope(() =>
      noGrad(() => {
        const { ids, labels, positions, first } = upload(model, batch)
        return model.loss(ids, labels, { positions, first, adapter })
      }),
    )
  signal?.addEventListener('abort', cancel, { once: true })
  try {
    for await (const batch of batches) {
      signal?.throwIfAborted()
      if (batch.targets === 0) continue
      const value = taken(device.activeQueue.withOwner(owner, () => lossOf(batch)))
      await settle()
      pending = { value, targets: batch.targets }
    }
    await settle()
  } catch (error) {
    throw signal?.aborted ? signal.reason : error
  } finally {
    signal?.removeEventListener('abort', cancel)
  }
  if (tokens === 0) throw new ValueError('evaluate: there is nothing to judge: no token is a target')
  const loss = sum / tokens
  return { loss, perplexity: Math.exp(loss), tokens }
}
