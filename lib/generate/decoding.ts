// Continues a batch of token rows on the device: the sampled token feeds the next step without a way up to
// JavaScript, which reads each one while the next is computed.

import type { CausalLm } from '../models/causal-lm.ts'
import type { KvCache } from '../nn/kv-cache.ts'
import { tensor } from '../ops/create.ts'
import { linear } from '../ops/linear.ts'
import type { Queue } from '../runtime/queue.ts'
import { noGrad, withQueue } from '../tensor/mode.ts'
import { keep, scope } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { GenerateSettings } from './options.ts'
import { Sampler } from './sampler.ts'

const PIECE = 128 // tokens of a prompt that go through the model at a time: others get their turn between

export interface DecodedStep {
  /** One per row. */
  readonly ids: ArrayLike<number>
  /** Natural logarithm of each one's probability, before temperature and cuts. */
  readonly logprobs: ArrayLike<number>
}

interface Enqueued {
  readonly ids: Tensor
  readonly values: Promise<DecodedStep>
}

export interface DecodingInputs {
  readonly model: CausalLm
  /** Tokens that the cache does not hold yet, for every row alike many; padded ones by the cache. */
  readonly prompts: readonly Int32Array[]
  readonly cache: KvCache
  /** Tokens of each row from its very first, for the repetition penalty. */
  readonly histories: readonly Int32Array[]
  readonly settings: GenerateSettings
  readonly queue: Queue
}

/** Steps of tokens, without end: whoever reads decides when it is enough. */
export async function* decode(inputs: DecodingInputs): AsyncGenerator<DecodedStep, void, void> {
  const { model, prompts, cache, queue, settings } = inputs
  const { signal } = settings
  const rows = prompts.length
  const length = prompts[0]?.length ?? 0
  const { device } = model.parameters()[0] as Tensor
  const run = <T>(fn: () => T): T => withQueue(queue, () => noGrad(() => scope(fn)))

  const sampler = run(() => new Sampler(settings, inputs.histories, device))
  const sampled = (hidden: Tensor, step: number): Enqueued => {
    const last = hidden.slice(1, (hidden.shape[1] ?? 1) - 1).reshape([rows, -1])
    const logits = linear(last, model.head())
    const { ids, logprobs } = sampler.draw(logits, step)
    const values = Promise.all([ids.toArray(), logprobs.toArray()]).then(([a, b]) => ({
      ids: a as ArrayLike<number>,
      logprobs: b as ArrayLike<number>,
    }))
    values.catch(() => undefined) // it is thrown where the step is awaited
    return { ids: keep(ids), values }
  }

  let current: Enqueued | null = null
  try {
    for (let at = 0; at < length; at += PIECE) {
      signal?.throwIfAborted()
      const end = Math.min(length, at + PIECE)
      current = run(() => {
        const piece = new Int32Array(rows * (end - at))
        prompts.forEach((ids, row) => {
          piece.set(ids.subarray(at, end), row * (end - at))
        })
        const ids = tensor(piece, { shape: [rows, end - at], dtype: 'i32', device })
        const hidden = model.hidden(ids, { cache })
        return end === length ? sampled(hidden, 0) : null
      })
      await queue.ready()
    }
    for (let step = 1; current !== null; step++) {
      const { ids }: Enqueued = current
      const following: Enqueued | null =
        cache.length < cache.capacity
          ? run(() => sampled(model.hidden(ids.reshape([rows, 1]), { cache }), step))
          : null
      const { values } = current
      current.ids.dispose()
      current = following
      yield await values
    }
  } finally {
    current?.ids.dispose()
    sampler.dispose()
  }
}
