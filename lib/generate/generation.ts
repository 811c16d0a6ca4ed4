// Answers as they come: text, tokens and their probabilities; why and where they end.

import type { CausalLm } from '../models/causal-lm.ts'
import type { KvCache } from '../nn/kv-cache.ts'
import type { Device } from '../runtime/device.ts'
import { ValueError } from '../runtime/errors.ts'
import type { Queue } from '../runtime/queue.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { DecodeStream } from '../tokenizer/decode.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { decode } from './decoding.ts'
import type { FinishReason, GenerateSettings } from './options.ts'
import { StopFilter } from './stop.ts'

/** What one token adds. */
export interface GeneratedPiece {
  /** Whole characters; empty while one is open, or what may become a stop text is held back. */
  readonly text: string
  readonly tokenId: number
  /** Natural logarithm of its probability, before temperature and cuts. */
  readonly logprob: number
}

export interface Usage {
  readonly promptTokens: number
  readonly completionTokens: number
}

/** An answer at its end. */
export interface Completion {
  readonly text: string
  readonly tokenIds: readonly number[]
  readonly finishReason: FinishReason
  readonly usage: Usage
}

// Generation overtakes training between two tiles of a running command.
const queues = new WeakMap<Device, Queue>()

function generationQueue(device: Device): Queue {
  let queue = queues.get(device)
  if (queue === undefined) {
    queue = device.createQueue({ priority: 1 })
    queues.set(device, queue)
  }
  return queue
}

class Row {
  readonly #stream: DecodeStream
  readonly #stop: StopFilter
  readonly tokenIds: number[] = []
  text = ''
  finishReason: FinishReason | null = null

  constructor(tokenizer: Tokenizer, stops: readonly string[]) {
    this.#stream = tokenizer.decodeStream()
    this.#stop = new StopFilter(stops)
  }

  /** The piece that a token makes; null when it ends the answer without one. */
  take(tokenId: number, logprob: number, eos: ReadonlySet<number>): GeneratedPiece | null {
    if (eos.has(tokenId)) {
      this.finishReason = 'eos'
      return null
    }
    this.tokenIds.push(tokenId)
    const text = this.#stop.push(this.#stream.push(tokenId))
    this.text += text
    if (this.#stop.stopped) this.finishReason = 'stop'
    return { text, tokenId, logprob }
  }

  /** Ends the row; what was held back. */
  finish(reason: FinishReason): string {
    this.finishReason ??= reason
    if (this.#stop.stopped) return ''
    const rest = this.#stop.push(this.#stream.end()) + this.#stop.end()
    this.text += rest
    return rest
  }
}

export interface GenerationInputs {
  readonly model: CausalLm
  readonly tokenizer: Tokenizer
  readonly eosTokenIds: ReadonlySet<number>
  /** Whole prompts. */
  readonly prompts: readonly Int32Array[]
  readonly cache: KvCache
  /** Tokens of the one prompt that the cache holds already. */
  readonly cached?: number
  readonly settings: GenerateSettings
}

export interface RowPiece extends GeneratedPiece {
  readonly row: number
}

/**
 * Continues a batch of prompts until every row has ended.
 * @returns the answers; an abort ends them where they are and is thrown by the caller
 */
export async function* generateRows(inputs: GenerationInputs): AsyncGenerator<RowPiece, Completion[], void> {
  const { model, tokenizer, prompts, cache, cached = 0, settings, eosTokenIds } = inputs
  const { device } = model.parameters()[0] as Tensor
  const longest = Math.max(...prompts.map(({ length }) => length))
  if (longest === 0) throw new ValueError('generate: the prompt has no tokens')
  const padded = prompts.map((ids) => {
    const row = new Int32Array(longest - cached)
    row.set(ids.subarray(cached), longest - ids.length)
    return row
  })
  const rows = prompts.map(() => new Row(tokenizer, settings.stop))
  const steps = decode({
    model,
    prompts: padded,
    cache,
    histories: prompts,
    settings,
    queue: generationQueue(device),
  })
  let reason: FinishReason = 'length'
  let count = 0
  for await (const { ids, logprobs } of steps) {
    if (settings.signal?.aborted) {
      reason = 'aborted'
      break
    }
    for (const [row, state] of rows.entries()) {
      if (state.finishReason !== null) continue
      const piece = state.take(ids[row] as number, logprobs[row] as number, eosTokenIds)
      if (piece !== null) yield { row, ...piece }
    }
    if (++count === settings.maxNewTokens || rows.every(({ finishReason }) => finishReason !== null)) break
  }
  const completions: Completion[] = []
  for (const [row, state] of rows.entries()) {
    const rest = state.finish(reason)
    if (rest !== '') yield { row, text: rest, tokenId: state.tokenIds.at(-1) as number, logprob: 0 }
    completions.push({
      text: state.text,
      tokenIds: state.tokenIds,
      finishReason: state.finishReason as FinishReason,
      usage: { promptTokens: (prompts[row] as Int32Array).length, completionTokens: state.tokenIds.length },
    })
  }
  return completions
}

/**
 * One answer: read it piece by piece, or wait for its text. It begins when it is first asked for; leaving
 * the loop frees what it holds.
 */
export class Generation implements AsyncIterable<GeneratedPiece> {
  readonly #start: () => AsyncGenerator<GeneratedPiece, Completion, void>
  #completion: Completion | null = null
  #started = false

  /** @internal */
  constructor(start: () => AsyncGenerator<GeneratedPiece, Completion, void>) {
    this.#start = start
  }

  /** Why it ended; null before. */
  get finishReason(): FinishReason | null {
    return this.#completion?.finishReason ?? null
  }

  /** Tokens read and written; null before the end. */
  get usage(): Usage | null {
    return this.#completion?.usage ?? null
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<GeneratedPiece, void, void> {
    if (this.#started) throw new ValueError('Generation: it can be read once')
    this.#started = true
    this.#completion = yield* this.#start()
  }

  /** The whole answer. */
  async text(): Promise<string> {
    return (await this.completion()).text
  }

  /** The whole answer with its tokens. */
  async completion(): Promise<Completion> {
    for await (const _ of this);
    return this.#completion as Completion
  }
}
