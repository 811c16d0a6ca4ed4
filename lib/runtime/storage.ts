import type { Device } from './device.ts'
import { DisposedError } from './errors.ts'
import type { Queue } from './queue.ts'

/**
 * A native buffer, by its id. Allocated and freed by records, so memory follows execution order:
 * releasing a storage that queued commands still use is safe.
 */
export class Storage {
  readonly device: Device
  /** Buffer id; 0 once freed. */
  id: number
  readonly bytes: number
  /** Handles, views and gradient nodes that need it; freed at zero. */
  holders = 1
  /** Enqueued writes. A saved tensor whose version moved cannot be used by backward. */
  version = 0
  /** The only queue that ever used it; null once a second one has, and after it is freed. */
  soleQueue: Queue | null
  /** Uses per queue (sequence numbers), kept only while several queues use it. */
  uses: Map<Queue, { read: number; written: number }> | null = null

  /** Whether V8 counts its bytes (see {@link collectable}). */
  reported = false

  constructor(device: Device, queue: Queue, id: number, bytes: number) {
    this.device = device
    this.soleQueue = queue
    this.id = id
    this.bytes = bytes
  }

  get freed(): boolean {
    return this.id === 0
  }

  /** Where reading it waits least: the only queue that used it, else the active one. */
  get readQueue(): Queue {
    return this.soleQueue ?? this.device.activeQueue
  }

  /**
   * Says that only the garbage collector may ever free it, so that V8 counts its bytes when it decides
   * whether to collect. What scopes and dispose() free is not worth a collection.
   */
  collectable(): void {
    if (this.reported || this.id === 0) return
    this.reported = true
    this.device.reportExternal(this.bytes)
  }

  retain(): void {
    if (this.id === 0) throw new DisposedError('storage: used after it was freed')
    this.holders++
  }

  /** Drops one holder; the last one enqueues the free. Never throws, and never twice. */
  release(): void {
    if (this.id === 0 || --this.holders > 0) return
    this.device.free(this)
  }
}

/**
 * What the encoder needs of a tensor; Tensor satisfies it. `offset` and `strides` are in elements.
 * All instances should share one hidden class: enqueue is monomorphic.
 */
export interface TensorArg {
  readonly storage: Storage
  /** Code of the dtype in the command format (lib/tensor/dtype.ts). */
  readonly dtypeCode: number
  readonly offset: number
  readonly shape: readonly number[]
  readonly strides: readonly number[]
}
