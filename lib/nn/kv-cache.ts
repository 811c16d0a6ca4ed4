// The keys and values of past tokens: what a decoder attends to while it generates. Models take one
// as an argument; what to keep of it between calls is decided above them.
// Shapes: B batch, S slots, G key-value heads, K head size, T new tokens.

import { attention } from '../ops/attention.ts'
import { add, maximum, sub } from '../ops/binary.ts'
import { cachedAttention } from '../ops/cached_attention.ts'
import { copyInto } from '../ops/copy.ts'
import { empty, fill, iota, tensor, zeros } from '../ops/create.ts'
import { kvCacheAppend } from '../ops/kv_cache_append.ts'
import { Device } from '../runtime/device.ts'
import { DisposedError, ValueError } from '../runtime/errors.ts'
import { checkInteger, checkOptions } from '../runtime/options.ts'
import type { DType } from '../tensor/dtype.ts'
import { noGrad } from '../tensor/mode.ts'
import { keep, scope } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'

/** What a cache holds of a model. */
export interface KvCacheShape {
  readonly layers: number
  readonly kvHeads: number
  readonly headDim: number
  /** Sliding window of the model's attention; null: every token sees all before it. */
  readonly window: number | null
  /** Of the model's activations. */
  readonly dtype: DType
  readonly device?: Device
}

export interface KvCacheOptions {
  /** Rows. Default 1. */
  readonly batch?: number
  /** Most tokens a row may come to. With a sliding window memory does not grow with it. */
  readonly capacity: number
  /** With a sliding window: most tokens of a call, the first one aside. Default 128. */
  readonly pieceLength?: number
  /** Left padding of each row: so many first tokens are seen by none and have position 0. Default 0. */
  readonly padding?: readonly number[] | null
}

const MAX_POSITIONS = 2 ** 30

/** The part of a cache that one layer's attention goes through. */
export interface LayerCache {
  /**
   * Appends the keys and values of new tokens, and attends from the new queries to all so far.
   * @param q [B, T, H, K] @param k [B, T, G, K] @param v [B, T, G, K] @returns [B, T, H, K]
   */
  attend(q: Tensor, k: Tensor, v: Tensor): Tensor
}

/**
 * Keys and values of a batch of rows, in memory reserved at once: 2 layers B S G K elements, with S the
 * capacity, or window + pieceLength - 1 when that is less: with a sliding window slots are used in turn.
 * A forward appends its tokens to every row; its last step is `advance`. Inside `noGrad` only.
 */
export class KvCache {
  readonly batch: number
  readonly capacity: number
  readonly window: number | null
  readonly #slots: number
  readonly #layers: readonly { readonly k: Tensor; readonly v: Tensor }[]
  /** i32 [B]: tokens in each row. A buffer, so that a recorded step can be replayed. */
  readonly #start: Tensor
  /** i32 [B], or null without padding. */
  readonly #first: Tensor | null
  readonly #lengths: number[]
  /** End of what was ever written, which the slots of a ring are counted from. */
  #written = 0
  #disposed = false

  /** @throws ConfigError for unknown options, ValueError for values out of range, OutOfMemoryError */
  constructor(shape: KvCacheShape, options: KvCacheOptions) {
    checkOptions('KvCache', options, ['batch', 'capacity', 'pieceLength', 'padding'])
    const { layers, kvHeads, headDim, window, dtype, device = Device.default() } = shape
    const { batch = 1, capacity, pieceLength = 128, padding = null } = options
    this.batch = checkInteger('KvCache', 'batch', batch, 1, 2 ** 20)
    this.capacity = checkInteger('KvCache', 'capacity', capacity, 1, MAX_POSITIONS)
    checkInteger('KvCache', 'pieceLength', pieceLength, 1, MAX_POSITIONS)
    if (padding !== null && padding.length !== batch) {
      throw new ValueError(`KvCache: padding must have ${batch} values, received ${padding.length}`)
    }
    for (const count of padding ?? []) checkInteger('KvCache', 'padding', count, 0, capacity)
    this.window = window
    this.#slots = window === null ? capacity : Math.min(capacity, window + pieceLength - 1)
    this.#lengths = new Array<number>(batch).fill(0)
    // heads before slots: what a step reads of one head is contiguous
    const make = (): Tensor =>
      scope(() =>
        keep(empty([batch, kvHeads, this.#slots, headDim], { dtype, device }).permute([0, 2, 1, 3])),
      )
    this.#layers = Array.from({ length: layers }, () => ({ k: make(), v: make() }))
    this.#start = keep(zeros([batch], { dtype: 'i32', device }))
    this.#first = padding === null ? null : keep(tensor(padding, { dtype: 'i32', device }))
  }

  /** Tokens in each row, padding included. */
  get lengths(): readonly number[] {
    return this.#lengths
  }

  /** Tokens in the longest row. */
  get length(): number {
    return Math.max(...this.#lengths)
  }

  /** Bytes of keys and values. */
  get bytes(): number {
    return this.#layers.reduce((n, { k, v }) => n + k.storage.bytes + v.storage.bytes, 0)
  }

  /**
   * Called by a model before its layers.
   * @param steps T, tokens appended to every row
   * @param lengths of them, how many are real in each row, the rest being padding on the right; all
   *   when left out
   * @returns i32 [B, T]: the position of each new token in its row, padding on the left not counted
   * @throws ValueError when the rows have no room
   */
  begin(steps: number, lengths: readonly number[] | null = null): Tensor {
    this.#check(steps, lengths)
    return noGrad(() =>
      scope(() => {
        const { device } = this.#start
        const counted = this.#first === null ? this.#start : sub(this.#start, this.#first)
        return maximum(add(counted.unsqueeze(1), iota(steps, { device })), 0)
      }),
    )
  }

  /** What layer `index` attends through. */
  layer(index: number): LayerCache {
    return { attend: (q, k, v) => this.#attend(index, q, k, v) }
  }

  /** Called by a model after its layers, with what `begin` was given. */
  advance(steps: number, lengths: readonly number[] | null = null): void {
    this.#check(steps, lengths)
    noGrad(() =>
      scope(() => {
        const more = lengths === null ? steps : tensor(lengths, { dtype: 'i32', device: this.#start.device })
        copyInto(this.#start, add(this.#start, more))
      }),
    )
    this.#written = Math.max(this.#written, this.length + steps)
    for (let b = 0; b < this.batch; b++) this.#lengths[b] = (this.#lengths[b] ?? 0) + (lengths?.[b] ?? steps)
  }

  /**
   * Forgets all tokens past the first `length` of every row.
   * @throws ValueError for a length that a row has not, or of which a sliding window is overwritten
   */
  truncate(length: number): void {
    this.#checkAlive()
    checkInteger('KvCache.truncate', 'length', length, 0, Math.min(...this.#lengths))
    if (length > 0 && this.window !== null && length - this.window + 1 < this.#written - this.#slots) {
      throw new ValueError(
        `KvCache.truncate: the window before token ${length} is overwritten; the cache holds the last ` +
          `${this.#slots} of ${this.#written} tokens`,
      )
    }
    noGrad(() => fill(this.#start, length))
    this.#lengths.fill(length)
    if (length === 0) this.#written = 0
  }

  /**
   * Takes over the tokens of another cache of the same model and number of rows, whose capacity may be
   * smaller.
   * @throws ValueError for a cache with tokens, or one that cannot hold them in the same slots
   */
  copyFrom(other: KvCache): void {
    this.#checkAlive()
    other.#checkAlive()
    const alike = other.#slots === this.#slots || other.#written <= other.#slots
    if (this.#written > 0 || other.#slots > this.#slots || !alike || other.batch !== this.batch) {
      throw new ValueError('KvCache.copyFrom: it must be empty, and as large as the other one')
    }
    noGrad(() =>
      scope(() => {
        for (const [i, { k, v }] of other.#layers.entries()) {
          const own = this.#layers[i] as { k: Tensor; v: Tensor }
          copyInto(own.k.slice(1, 0, other.#slots), k)
          copyInto(own.v.slice(1, 0, other.#slots), v)
        }
        copyInto(this.#start, other.#start)
      }),
    )
    this.#written = other.#written
    for (const [b, length] of other.#lengths.entries()) this.#lengths[b] = length
  }

  /**
   * Resolves when what was enqueued on it has run.
   * @throws (rejects) what made its memory, or something in it, unusable: OutOfMemoryError, ...
   */
  async settled(): Promise<void> {
    this.#checkAlive()
    const all = [...this.#layers.flatMap(({ k, v }) => [k, v]), this.#start]
    await Promise.all(
      all.map(({ storage }) => storage.readQueue.read(storage, 0, Math.min(4, storage.bytes))),
    )
  }

  /**
   * Goes back to the first `length` tokens after a command failed or was cancelled: what that made
   * unreadable can be written again. The caller knows that these tokens were read before it.
   * @throws as `truncate`
   */
  recover(length: number): void {
    this.#checkAlive()
    const { activeQueue } = this.#start.device
    for (const { k, v } of this.#layers) {
      activeQueue.mend(k.storage)
      activeQueue.mend(v.storage)
    }
    activeQueue.mend(this.#start.storage)
    this.truncate(length)
  }

  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    for (const { k, v } of this.#layers) {
      k.dispose()
      v.dispose()
    }
    this.#start.dispose()
    this.#first?.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  #attend(index: number, q: Tensor, k: Tensor, v: Tensor): Tensor {
    this.#checkAlive()
    const layer = this.#layers[index]
    if (layer === undefined) {
      throw new ValueError(`KvCache: made for ${this.#layers.length} layers, received layer ${index}`)
    }
    kvCacheAppend(layer.k, layer.v, k, v, this.#start)
    const { window } = this
    if (this.#written > 0) {
      return cachedAttention(q, layer.k, layer.v, this.#start, { window, first: this.#first })
    }
    // the first tokens see each other only, however many there are
    const first = this.#first?.unsqueeze(1).expand([this.batch, q.shape[1] ?? 0]) ?? null
    return attention(q, k, v, { window, first })
  }

  #checkAlive(): void {
    if (this.#disposed) throw new DisposedError('KvCache: used after dispose()')
  }

  #check(steps: number, lengths: readonly number[] | null): void {
    this.#checkAlive()
    if (lengths !== null && lengths.length !== this.batch) {
      throw new ValueError(`KvCache: lengths must have ${this.batch} values, received ${lengths.length}`)
    }
    for (const n of lengths ?? []) checkInteger('KvCache', 'lengths', n, 0, steps)
    const end = this.length + steps
    if (end > this.capacity) {
      throw new ValueError(
        `KvCache: ${steps} more tokens after ${this.length} pass its capacity of ${this.capacity}`,
      )
    }
    if (this.window === null || end <= this.#slots) return
    const room = this.#slots - this.window + 1
    if (this.#written > 0 && steps > room) {
      throw new ValueError(
        `KvCache: takes at most ${room} tokens at a time (pieceLength) once it rolls over, received ${steps}`,
      )
    }
    const padded = steps - Math.min(steps, ...(lengths ?? []))
    if (padded > room) {
      throw new ValueError(`KvCache: rows of a call may differ by ${room} tokens at most, received ${padded}`)
    }
  }
}
