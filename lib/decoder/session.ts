// A conversation: keys and values of what was read stay from turn to turn.

import type { LoraAdapter } from '../adapters/adapter.ts'
import type { Lease } from '../adapters/publication.ts'
import {
  type Completion,
  type GeneratedPiece,
  Generation,
  type GenerationInputs,
  generateRows,
  makeGenerationCache,
  onGenerationQueue,
} from '../generate/generation.ts'
import {
  completeGenerateOptions,
  type GenerateOptions,
  type GenerateSettings,
  type GenerationDefaults,
} from '../generate/options.ts'
import type { CausalLm } from '../models/causal-lm.ts'
import type { KvCache } from '../nn/kv-cache.ts'
import { ValueError } from '../runtime/errors.ts'
import { type AdapterChoice, leaseOf } from './adapters.ts'
import type { Prompt } from './decoder.ts'

export interface SessionOptions {
  /** Most tokens the conversation may come to. Default maxPositionEmbeddings. */
  readonly capacity?: number
  /** The adapter to answer with. Default none. */
  readonly adapter?: AdapterChoice | null
}

const FIRST_CAPACITY = 1024 // tokens; a long context is not reserved before it is used

interface SessionParts extends Pick<GenerationInputs, 'model' | 'tokenizer' | 'eosTokenIds'> {
  readonly capacity: number
  readonly adapter: LoraAdapter | null
  readonly defaults: GenerationDefaults
  encode(prompt: Prompt): Promise<Int32Array>
}

/** Keys and values of a conversation: a turn reads only what is new. */
export class Session {
  /** Grows with the conversation, to `capacity`. */
  #cache: KvCache
  readonly #parts: SessionParts
  readonly #model: CausalLm
  /** What the cache holds for certain, whatever became of the last answer. */
  #tokens = new Int32Array(0)
  /** Which copy of the adapter read them. */
  #version: object | null = null
  #busy = false
  #disposed = false

  /** @internal */
  constructor(parts: SessionParts) {
    this.#model = parts.model
    const capacity = Math.min(FIRST_CAPACITY, parts.capacity)
    this.#cache = makeGenerationCache(parts.model, { capacity })
    this.#parts = parts
  }

  /** Tokens that the next turn need not read again when it begins with them. */
  get length(): number {
    return this.#tokens.length
  }

  /**
   * Continues the prompt, a whole conversation each time; what it shares with the last one is not read
   * again, also when the last answer was left, aborted, or failed.
   * @throws ConfigError, ValueError naming the option; ValueError, where the answer is read, while
   *   another one of this session still is
   */
  generate(prompt: Prompt, options: GenerateOptions = {}): Generation {
    const settings = completeGenerateOptions('Session.generate', options, this.#parts.defaults)
    return new Generation(() => this.#answer(prompt, settings))
  }

  dispose(): void {
    this.#disposed = true
    this.#cache.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  async *#answer(
    prompt: Prompt,
    settings: GenerateSettings,
  ): AsyncGenerator<GeneratedPiece, Completion, void> {
    if (this.#busy) throw new ValueError('Session.generate: the answer before is still being read')
    this.#busy = true
    let lease: Lease | null = null
    try {
      const ids = await this.#parts.encode(prompt)
      const { capacity } = this.#parts
      if (ids.length >= capacity) {
        throw new ValueError(
          `Session.generate: the conversation must have fewer than ${capacity} tokens, received ${ids.length}`,
        )
      }
      lease = leaseOf(this.#parts.adapter)
      // what an older copy of the adapter made of the tokens does not go with the new one
      if (lease !== null && lease.version !== this.#version) this.#tokens = new Int32Array(0)
      this.#version = lease?.version ?? null
      const reading = { standing: this.#reuse(ids) }
      await this.#makeRoom(Math.min(capacity, ids.length + settings.maxNewTokens))
      const rows = generateRows({
        ...this.#parts,
        adapter: lease?.weights ?? null,
        prompts: [ids],
        cache: this.#cache,
        reading,
        settings,
      })
      const answer: number[] = []
      try {
        for (let next = await rows.next(); ; next = await rows.next()) {
          if (next.done) return next.value[0] as Completion
          answer.push(next.value.tokenId)
          yield next.value
        }
      } finally {
        await rows.return([])
        this.#tokens = Int32Array.of(...ids, ...answer).subarray(0, reading.standing)
      }
    } finally {
      lease?.release()
      this.#busy = false
    }
  }

  /** A larger cache in the place of one that is too small; if there is no memory for it, all stays as it was. */
  async #makeRoom(tokens: number): Promise<void> {
    if (tokens <= this.#cache.capacity) return
    const capacity = Math.min(this.#parts.capacity, Math.max(tokens, 2 * this.#cache.capacity))
    const larger = makeGenerationCache(this.#model, { capacity })
    try {
      onGenerationQueue(this.#model, () => larger.copyFrom(this.#cache))
      await larger.settled()
    } catch (error) {
      larger.dispose()
      throw error
    }
    const smaller = this.#disposed ? larger : this.#cache
    if (!this.#disposed) this.#cache = larger
    smaller.dispose()
  }

  /** Cuts the cache to what it shares with the prompt; at least one token is left to read. */
  #reuse(ids: Int32Array): number {
    const most = Math.min(this.#tokens.length, ids.length - 1)
    let shared = 0
    while (shared < most && this.#tokens[shared] === ids[shared]) shared++
    onGenerationQueue(this.#model, () => {
      try {
        this.#cache.recover(shared)
      } catch (error) {
        if (!(error instanceof ValueError)) throw error
        shared = 0
        this.#cache.recover(0) // a sliding window has rolled past it
      }
    })
    this.#tokens = this.#tokens.subarray(0, shared)
    return shared
  }
}
