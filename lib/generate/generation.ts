// Answers as they come: text, tokens and their probabilities; why and where they end.

import type { CausalLm } from '../models/causal-lm.ts'
import type { KvCache, KvCacheOptions } from '../nn/kv-cache.ts'
import type { WeightAdapter } from '../nn/layers.ts'
import type { Device } from '../runtime/device.ts'
import { ValueError } from '../runtime/errors.ts'
import type { Queue } from '../runtime/queue.ts'
import { withQueue } from '../tensor/mode.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { DecodeStream } from '../tokenizer/decode.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { decode, type Reading } from './decoding.ts'
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

function generationQueue({ device }: Tensor): Queue {
  let queue = queues.get(device)
  if (queue === undefined) {
    queue = device.createQueue({ priority: 1 })
    queues.set(device, queue)
  }
  return queue
}

/** Runs `fn` (synchronous) on the queue that generates: elsewhere it would wait for what trains. */
export function onGenerationQueue<T>(model: CausalLm, fn: () => T): T {
  return withQueue(generationQueue(model.inputEmbedding), fn)
}

/** A cache for {@link generateRows}. */
export function makeGenerationCache(model: CausalLm, options: Partial<KvCacheOptions>): KvCache {
  return onGenerationQueue(model, () => model.makeCache(options))
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

  /**
   * The piece that a token makes; null for one that only ends the answer.
   * @param last no token follows
   */
  take(
    tokenId: number,
    logprob: number,
    { eos, last }: { eos: boolean; last: boolean },
  ): GeneratedPiece | null {
    let text = ''
    if (!eos) {
      this.tokenIds.push(tokenId)
      text = this.#stop.push(this.#stream.push(tokenId))
    }
    if (!this.#stop.stopped && (eos || last)) {
      text += this.#stop.push(this.#stream.end()) + this.#stop.end()
      this.finishReason = eos ? 'eos' : 'length'
    }
    if (this.#stop.stopped) this.finishReason = 'stop'
    this.text += text
    return eos && text === '' ? null : { text, tokenId, logprob }
  }
}

export interface GenerationInputs {
  readonly model: CausalLm
  readonly tokenizer: Tokenizer
  readonly eosTokenIds: ReadonlySet<number>
  /** Whole prompts. */
  readonly prompts: readonly Int32Array[]
  readonly cache: KvCache
  /** What of the one prompt the cache holds already; kept up to date. Nothing when left out. */
  readonly reading?: Reading
  /** Number of each prompt in a larger batch; 0, 1, ... when left out. */
  readonly rowNumbers?: readonly number[]
  readonly adapter?: WeightAdapter | null
  readonly settings: GenerateSettings
}

export interface RowPiece extends GeneratedPiece {
  readonly row: number
}

/**
 * Continues a batch of prompts until every row has ended.
 * @returns the answers; an abort ends them where they are, with the text that was certain by then
 * @throws the signal's reason when it aborts before the first token
 */
export async function* generateRows(inputs: GenerationInputs): AsyncGenerator<RowPiece, Completion[], void> {
  const { model, tokenizer, prompts, cache, settings, eosTokenIds, reading = { standing: 0 } } = inputs
  const cached = reading.standing
  const longest = Math.max(...prompts.map(({ length }) => length))
  if (prompts.some(({ length }) => length === 0)) throw new ValueError('generate: the prompt has no tokens')
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
    reading,
    histories: prompts,
    ...(inputs.rowNumbers && { rowNumbers: inputs.rowNumbers }),
    adapter: inputs.adapter ?? null,
    settings,
    queue: generationQueue(model.inputEmbedding),
  })
  for await (const { ids, logprobs, last } of steps) {
    for (const [row, state] of rows.entries()) {
      if (settings.signal?.aborted) break
      if (state.finishReason !== null) continue
      const tokenId = ids[row] as number
      const eos = eosTokenIds.has(tokenId)
      const piece = state.take(tokenId, logprobs[row] as number, { eos, last })
      if (piece !== null) yield { row, ...piece }
    }
    if (settings.signal?.aborted || rows.every(({ finishReason }) => finishReason !== null)) break
  }
  return rows.map(({ text, tokenIds, finishReason }, row) => ({
    text,
    tokenIds,
    finishReason: finishReason ?? 'aborted',
    usage: { promptTokens: (prompts[row] as Int32Array).length, completionTokens: tokenIds.length },
  }))
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
