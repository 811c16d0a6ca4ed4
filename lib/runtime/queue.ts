import type { Device } from './device.ts'
import { DeviceError, DisposedError, QueueFullError, ValueError } from './errors.ts'
import type { Kernel } from './kernel.ts'
import { checkInteger } from './options.ts'
import { Storage, type TensorArg } from './storage.ts'

/** Controls of the command format (native/core/runtime.h). */
const ALLOC = 1
const FREE = 2
const WRITE = 3
const UPLOAD = 4
const READ = 5
const FENCE = 6
const SIGNAL = 7
const WAIT = 8
const MARK = 9
const MEND = 10

/** A batch goes out when it is this long, so the executor starts before the turn ends. */
const FLUSH_WORDS = 8192
/** Uploads up to this many bytes travel inside the record. */
const INLINE_BYTES = 65536
/** ready() lets this many commands stay queued, so the executor never runs dry meanwhile. */
const READY_COMMANDS = 4096
const MAX_RANK = 8
const TWO_32 = 4294967296

const float64 = new Float64Array(1)
const float64Words = new Uint32Array(float64.buffer)

/**
 * An ordered list of commands on a device. Calls write records into a Uint32Array that goes to
 * the native side in batches: on size, at the end of the microtask, or when something is awaited.
 */
export class Queue {
  readonly device: Device
  readonly id: number
  readonly priority: number
  /** Owner of the records written now (see {@link withOwner}); 0 is nobody. */
  owner = 0
  /** Number of kernels and copies enqueued so far. */
  sequence = 0

  #words = new Uint32Array(FLUSH_WORDS * 2)
  #bytes = new Uint8Array(this.#words.buffer)
  #length = 0
  #scheduled = false
  #inFlight = 0
  readonly #freeIds: number[] = []
  /** Sequence number of each other queue that this one has waited for. */
  readonly #waitedFor = new Map<Queue, number>()
  #checkpoint: Promise<void> | null = null
  readonly #flushTask = (): void => {
    this.#scheduled = false
    if (!this.device.closed) this.flush()
  }

  /** Use {@link Device.createQueue}. */
  constructor(device: Device, id: number, priority: number) {
    this.device = device
    this.id = id
    this.priority = priority
  }

  /** Makes this the queue that ops enqueue on while `body` (synchronous) runs. */
  use<T>(body: () => T): T {
    const before = this.device.activeQueue
    this.device.activeQueue = this
    try {
      return synchronous('queue.use', body())
    } finally {
      this.device.activeQueue = before
    }
  }

  /** Records written while `body` (synchronous) runs belong to `owner` (Device.newOwner). */
  withOwner<T>(owner: number, body: () => T): T {
    const before = this.owner
    this.owner = checkInteger('queue.withOwner', 'owner', owner, 0, TWO_32 - 1)
    try {
      return synchronous('queue.withOwner', body())
    } finally {
      this.owner = before
    }
  }

  /** A new buffer of `bytes`, uninitialised. `forKernel` names its user in error messages. */
  alloc(bytes: number, forKernel = 0): Storage {
    if (!Number.isSafeInteger(bytes) || bytes < 0) {
      throw new ValueError(`alloc: bytes must be a size, received ${String(bytes)}`)
    }
    const id = this.#freeIds.pop() ?? this.device.nextBufferId()
    const p = this.#begin(7, ALLOC)
    const words = this.#words
    words[p + 3] = id
    words[p + 4] = bytes >>> 0
    words[p + 5] = bytes / TWO_32
    words[p + 6] = forKernel
    this.#end(p + 7)
    this.device.countAlloc(bytes)
    return new Storage(this.device, this, id, bytes)
  }

  /**
   * Writes one kernel record. Tensors are inputs, outputs, then repeats of the group, as in the
   * signature; null is an absent optional one. Bumps the version of every storage it writes.
   * Allocates nothing and checks no shapes: that is the op's part, and the launcher's.
   * @throws DisposedError, DeviceError (storage of another device), QueueFullError
   */
  enqueue(kernel: Kernel, tensors: readonly (TensorArg | null)[], attributes: readonly number[]): void {
    const count = tensors.length
    const { writes, fixed, group } = kernel
    const repeats = count - fixed
    if (repeats !== 0 && (repeats < 0 || group === 0 || repeats % group !== 0)) {
      throw new ValueError(`${kernel.name}: ${count} tensors do not fit ${kernel.signature}`)
    }
    let shared = false
    for (let i = 0; i < count; i++) {
      const tensor = tensors[i] as TensorArg | null
      if (tensor !== null && tensor.storage.soleQueue !== this) {
        shared = true
        break
      }
    }
    if (shared) this.#order(kernel, tensors)
    const start = this.#begin(4 + count * (4 + MAX_RANK * 4) + attributes.length * 2, kernel.code)
    const words = this.#words
    words[start + 3] = count | (attributes.length << 16)
    let p = start + 4
    for (let i = 0; i < count; i++) {
      const tensor = tensors[i] as TensorArg | null
      if (tensor === null) {
        words[p++] = 0
        continue
      }
      const storage = tensor.storage
      const shape = tensor.shape
      const strides = tensor.strides
      const rank = shape.length
      words[p] = storage.id
      words[p + 1] = tensor.dtypeCode | (rank << 8)
      words[p + 2] = tensor.offset
      words[p + 3] = tensor.offset / TWO_32
      p += 4
      for (let d = 0; d < rank; d++, p += 2) {
        const n = shape[d] as number
        words[p] = n
        words[p + 1] = n / TWO_32
      }
      for (let d = 0; d < rank; d++, p += 2) {
        const n = strides[d] as number
        words[p] = n
        words[p + 1] = n / TWO_32
      }
      if (writes[i < fixed ? i : fixed + ((i - fixed) % group)]) storage.version++
    }
    for (let i = 0; i < attributes.length; i++, p += 2) {
      float64[0] = attributes[i] as number
      words[p] = float64Words[0] as number
      words[p + 1] = float64Words[1] as number
    }
    this.sequence++
    this.#end(p)
    if (shared) this.#noteUses(kernel, tensors)
  }

  /**
   * Copies `bytes` into the storage. Up to 64 KB travel inline; more is copied once more into
   * memory that the addon keeps until the upload has run, unless `owned` says that the caller
   * never touches it again.
   */
  write(storage: Storage, byteOffset: number, bytes: Uint8Array, owned = false): void {
    if (byteOffset + bytes.length > storage.bytes) {
      throw new ValueError(
        `write: ${bytes.length} bytes at ${byteOffset} do not fit a buffer of ${storage.bytes}`,
      )
    }
    if (bytes.length === 0) return
    this.#use(storage, true)
    storage.version++
    if (bytes.length <= INLINE_BYTES) {
      const length = 7 + ((bytes.length + 3) >>> 2)
      const p = this.#begin(length, WRITE)
      const words = this.#words
      words[p + 3] = storage.id
      words[p + 4] = byteOffset
      words[p + 5] = byteOffset / TWO_32
      words[p + 6] = bytes.length
      words[p + length - 1] = 0
      this.#bytes.set(bytes, (p + 7) * 4)
      this.#end(p + length)
      return
    }
    const kept = owned && bytes.buffer instanceof ArrayBuffer ? bytes : Uint8Array.from(bytes)
    const token = this.device.registerHost(kept.buffer as ArrayBuffer, kept.byteOffset, kept.length)
    const p = this.#begin(7, UPLOAD)
    const words = this.#words
    words[p + 3] = storage.id
    words[p + 4] = byteOffset
    words[p + 5] = byteOffset / TWO_32
    words[p + 6] = token
    this.#end(p + 7)
  }

  /**
   * Bytes of the storage as they are once everything enqueued before has run.
   * @param memory where to, from its beginning; nobody may touch it meanwhile. Default: fresh memory
   * @throws (rejects) what poisoned the storage: OutOfMemoryError, AbortError, ...
   */
  read(
    storage: Storage,
    byteOffset: number,
    bytes: number,
    memory = new ArrayBuffer(bytes),
  ): Promise<ArrayBuffer> {
    if (byteOffset + bytes > storage.bytes) {
      throw new ValueError(`read: ${bytes} bytes at ${byteOffset} are not in a buffer of ${storage.bytes}`)
    }
    if (bytes === 0) return Promise.resolve(memory)
    this.#use(storage, false)
    const token = this.device.registerHost(memory, 0, bytes)
    const p = this.#begin(9, READ)
    const words = this.#words
    words[p + 3] = storage.id
    words[p + 4] = byteOffset
    words[p + 5] = byteOffset / TWO_32
    words[p + 6] = bytes
    words[p + 7] = bytes / TWO_32
    words[p + 8] = token
    this.#end(p + 9)
    const done = this.device.completion(token).then(() => memory)
    this.flush()
    return done
  }

  /** Resolves when everything enqueued before has run. */
  fence(): Promise<void> {
    const token = this.device.nextToken()
    const p = this.#begin(4, FENCE, false)
    this.#words[p + 3] = token
    this.#end(p + 4)
    const done = this.device.completion(token)
    this.flush()
    return done
  }

  /**
   * Back-pressure, for step boundaries: resolves at once while little is in flight, else when the
   * work enqueued before the previous call has run. Never rejects for a failed command.
   */
  async ready(): Promise<void> {
    const previous = this.#checkpoint
    const checkpoint = this.fence().catch(() => {})
    this.#checkpoint = checkpoint
    if (!this.device.busy(READY_COMMANDS)) return
    if (previous !== null) await previous
    if (this.device.busy(READY_COMMANDS)) await checkpoint
  }

  /** Names the training step in error messages and traces of what follows. */
  mark(step: number): void {
    checkInteger('queue.mark', 'step', step, 0, TWO_32 - 1)
    const p = this.#begin(4, MARK, false)
    this.#words[p + 3] = step
    this.#end(p + 4)
  }

  /**
   * Takes what the storage holds as valid again, whatever failed to write it: for who knows which part
   * of it still stands. One that was never allocated stays as it is.
   */
  mend(storage: Storage): void {
    this.#use(storage, true)
    storage.version++
    this.#control(MEND, storage.id)
  }

  /** Hands what is written so far to the executor. */
  flush(): void {
    const length = this.#length
    if (length === 0) return
    this.#length = 0
    this.#inFlight = this.device.submit(this.id, this.#words, length)
  }

  /** @internal The storage's last holder is gone. */
  freeBuffer(storage: Storage): void {
    const p = this.#begin(4, FREE, false)
    this.#words[p + 3] = storage.id
    this.#end(p + 4)
    this.#freeIds.push(storage.id)
  }

  /** @internal Makes later commands of this queue run after `other` has reached `sequence`. */
  waitFor(other: Queue, sequence: number): void {
    if (other === this || (this.#waitedFor.get(other) ?? 0) >= sequence) return
    const event = this.device.nextEvent()
    other.#control(SIGNAL, event)
    // Submitted before our wait can be: a wait whose signal is never sent would hang the queue.
    other.flush()
    this.#control(WAIT, event)
    this.#waitedFor.set(other, other.sequence)
  }

  #control(code: number, value: number): void {
    const p = this.#begin(4, code, false)
    this.#words[p + 3] = value
    this.#end(p + 4)
  }

  /** Orders one use of a storage among queues. */
  #use(storage: Storage, written: boolean): void {
    if (storage.soleQueue !== this) {
      this.#orderOne(storage, written)
      this.sequence++
      this.#noteUse(storage, written)
    } else {
      this.sequence++
    }
  }

  #orderOne(storage: Storage, written: boolean): void {
    if (storage.device !== this.device) {
      throw new DeviceError('queue: a tensor belongs to another device; copy it through the host')
    }
    if (storage.freed) throw new DisposedError('tensor used after it was disposed')
    const sole = storage.soleQueue
    if (sole === this) return
    if (sole !== null) {
      storage.uses = new Map([[sole, { read: sole.sequence, written: sole.sequence }]])
      storage.soleQueue = null
    }
    for (const [queue, use] of storage.uses ?? []) {
      this.waitFor(queue, written ? Math.max(use.read, use.written) : use.written)
    }
  }

  #noteUse(storage: Storage, written: boolean): void {
    const uses = storage.uses
    if (uses === null) return
    let use = uses.get(this)
    if (use === undefined) {
      use = { read: 0, written: 0 }
      uses.set(this, use)
    }
    if (written) use.written = this.sequence
    else use.read = this.sequence
  }

  #order(kernel: Kernel, tensors: readonly (TensorArg | null)[]): void {
    for (let i = 0; i < tensors.length; i++) {
      const tensor = tensors[i]
      if (tensor) this.#orderOne(tensor.storage, isWritten(kernel, i))
    }
  }

  #noteUses(kernel: Kernel, tensors: readonly (TensorArg | null)[]): void {
    for (let i = 0; i < tensors.length; i++) {
      const tensor = tensors[i]
      if (tensor) this.#noteUse(tensor.storage, isWritten(kernel, i))
    }
  }

  /** Room for a record of at most `words`; writes its code and owner; returns its start. */
  #begin(words: number, code: number, mayThrow = true): number {
    if (this.device.closed) throw new DisposedError('queue: its device is closed')
    if (mayThrow && this.#inFlight > this.device.maxBytesInFlight) this.#checkInFlight()
    const start = this.#length
    if (start + words > this.#words.length) this.#grow(start + words)
    if (!this.#scheduled) {
      this.#scheduled = true
      queueMicrotask(this.#flushTask)
    }
    this.#words[start + 1] = code
    this.#words[start + 2] = this.owner
    return start
  }

  #end(end: number): void {
    this.#words[this.#length] = end - this.#length
    this.#length = end
    if (end >= FLUSH_WORDS) this.flush()
  }

  #grow(words: number): void {
    const next = new Uint32Array(2 ** Math.ceil(Math.log2(words)))
    next.set(this.#words.subarray(0, this.#length))
    this.#words = next
    this.#bytes = new Uint8Array(next.buffer)
  }

  /**
   * Throws now what enqueueing would.
   * @throws QueueFullError
   */
  checkRoom(): void {
    this.#checkInFlight()
  }

  #checkInFlight(): void {
    this.#inFlight = this.device.pendingBytes()
    const limit = this.device.maxBytesInFlight
    if (this.#inFlight <= limit || this.device.unbounded > 0) return
    throw new QueueFullError(
      `queue: ${this.#inFlight} bytes of commands and uploads in flight, over maxBytesInFlight ` +
        `(${limit}); put \`await queue.ready()\` at step boundaries`,
    )
  }
}

function isWritten(kernel: Kernel, i: number): boolean {
  const { fixed, group, writes } = kernel
  return writes[i < fixed ? i : fixed + ((i - fixed) % group)] === true
}

/** A callback that returns a promise would leave its effect on while others run. */
function synchronous<T>(where: string, result: T): T {
  if (typeof result === 'object' && result !== null && 'then' in result) {
    throw new ValueError(`${where}: the callback must be synchronous, it returned a promise`)
  }
  return result
}
