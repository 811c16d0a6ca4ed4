// Continues a batch of token rows on the device: the sampled token feeds the next step without a way up to
// JavaScript, which reads each one while the next is computed.

import type { CausalLm } from '../models/causal-lm.ts'
import type { KvCache } from '../nn/kv-cache.ts'
import type { WeightAdapter } from '../nn/layers.ts'
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
  /** No step follows: as many as were asked for, or the cache is full. */
  readonly last: boolean
}

type Drawn = Omit<DecodedStep, 'last'>

interface Enqueued {
  readonly ids: Tensor
  readonly values: Promise<Drawn>
}

/** How far a cache has come. */
export interface Reading {
  /** Its first tokens that were read for certain: what came after may have failed, or been cancelled. */
  standing: number
}

export interface DecodingInputs {
  readonly model: CausalLm
  /** Tokens that the cache does not hold yet, for every row alike many; padded ones by the cache. */
  readonly prompts: readonly Int32Array[]
  readonly cache: KvCache
  /** Kept up to date. */
  readonly reading: Reading
  /** Tokens of each row from its very first, for the repetition penalty. */
  readonly histories: readonly Int32Array[]
  /** Number of each row in the whole batch, on which its draws depend; 0, 1, ... when left out. */
  readonly rowNumbers?: readonly number[]
  readonly adapter?: WeightAdapter | null
  readonly settings: GenerateSettings
  readonly queue: Queue
}

/**
 * Steps of tokens: `maxNewTokens` of them, or fewer. Leaving, and an abort, cancel what has not run: the
 * cache then holds `reading.standing` tokens.
 * @throws the signal's reason when it aborts before the first step; after that an abort ends the steps
 */
export async function* decode(inputs: DecodingInputs): AsyncGenerator<DecodedStep, void, void> {
  const { model, prompts, cache, queue, settings, reading, histories, adapter = null } = inputs
  const { rowNumbers = [...prompts.keys()] } = inputs
  const { signal, maxNewTokens } = settings
  signal?.throwIfAborted()
  const rows = prompts.length
  const length = prompts[0]?.length ?? 0
  const { device } = model.parameters()[0] as Tensor
  const owner = device.newOwner()
  const run = <T>(fn: () => T): T =>
    withQueue(queue, () => queue.withOwner(owner, () => noGrad(() => scope(fn))))
  const cancel = (): void => device.cancel(owner)

  const capacity = cache.capacity + 1
  const sampler = run(() => new Sampler(settings, { histories, rowNumbers, capacity, device }))
  const sampled = (hidden: Tensor, step: number): Enqueued => {
    const reached = cache.length
    const last = hidden.slice(1, (hidden.shape[1] ?? 1) - 1).reshape([rows, -1])
    const logits = linear(last, model.head({ adapter }))
    const { ids, logprobs } = sampler.draw(logits, step)
    const values = Promise.all([ids.toArray(), logprobs.toArray()]).then(([a, b]): Drawn => {
      reading.standing = reached
      return { ids: a as ArrayLike<number>, logprobs: b as ArrayLike<number> }
    })
    values.catch(() => undefined) // it is thrown where the step is awaited
    return { ids: keep(ids), values }
  }
  /** One value of a piece that nothing is drawn from, which tells whether it was read. */
  const noticed = (hidden: Tensor): null => {
    const reached = cache.length
    const value = hidden.slice(0, 0, 1).slice(1, 0, 1).slice(2, 0, 1)
    value.toArray().then(
      () => {
        reading.standing = reached
      },
      () => undefined, // whatever failed fails the first step, too
    )
    return null
  }

  let current: Enqueued | null = null
  signal?.addEventListener('abort', cancel, { once: true })
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
        const hidden = model.hidden(ids, { cache, adapter })
        return end === length ? sampled(hidden, 0) : noticed(hidden)
      })
      await queue.ready()
    }
    for (let step = 1; current !== null; step++) {
      const { ids }: Enqueued = current
      const following: Enqueued | null =
        step < maxNewTokens && cache.length < cache.capacity
          ? run(() => sampled(model.hidden(ids.reshape([rows, 1]), { cache, adapter }), step))
          : null
      const { values } = current
      current.ids.dispose()
      current = following
      let drawn: Drawn
      try {
        drawn = await values
      } catch (error) {
        if (!signal?.aborted) throw error
        if (step === 1) throw signal.reason
        return
      }
      yield { ...drawn, last: following === null }
    }
  } finally {
    signal?.removeEventListener('abort', cancel)
    if (current !== null) cancel()
    current?.ids.dispose()
    sampler.dispose()
  }
}
