import { loadAddon } from './addon.ts'
import { findCudaPlugin } from './cuda-plugin.ts'
import {
  ConfigError,
  DeviceError,
  DisposedError,
  FuselmError,
  nativeError,
  OutOfMemoryError,
} from './errors.ts'
import { type Kernel, parseSignature } from './kernel.ts'
import type {
  NativeAddon,
  NativeEnvironment,
  NativeKernel,
  NativeOptions,
  NativeTraceEvent,
} from './native.ts'
import { checkInteger, checkOptions, nearestName } from './options.ts'
import { endProfile, profileDevice } from './profile.ts'
import { Queue } from './queue.ts'
import type { Storage } from './storage.ts'

/** Instruction levels, each containing those before it. */
export const ISA_LEVELS = ['generic', 'avx2', 'avx512', 'avx512bf16', 'amx'] as const
export type IsaLevel = (typeof ISA_LEVELS)[number]

/** `auto`: the first GPU where one is usable, else the CPU. `cuda` is `cuda:0`. */
export type DeviceName = 'auto' | 'cpu' | 'cuda' | `cuda:${number}`

export interface DeviceOptions {
  /** Default: FUSELM_DEVICE, else `cpu`. */
  device?: DeviceName
  /** Worker threads. Default: FUSELM_THREADS, else the CPUs this process may use. */
  threads?: number
  /** Highest instruction level to use. Default: FUSELM_ISA, else the machine's. */
  isa?: IsaLevel
  /** Bytes of buffers the device may hold; 0 is no limit. */
  memoryLimit?: number
  /** Commands and uploads not yet executed, in bytes, past which enqueueing throws. */
  maxBytesInFlight?: number
  /**
   * For tests: every buffer ends at an inaccessible page and starts as NaN, so a kernel that reads
   * or writes past its end faults. Slow.
   */
  guard?: boolean
  /** Path of the addon. Default: FUSELM_ADDON, else the usual places. */
  addon?: string
  /** Path of the CUDA plugin. Default: FUSELM_CUDA_PLUGIN, beside the addon, or that of the package fuselm-cuda. */
  cudaPlugin?: string
}

const OPTION_NAMES = [
  'device',
  'threads',
  'isa',
  'memoryLimit',
  'maxBytesInFlight',
  'guard',
  'addon',
  'cudaPlugin',
]
/** Of the command format (native/core/runtime.h). */
const FIRST_KERNEL_CODE = 16
const MAX_BUFFER_ID = 2 ** 24 - 1
/** Telling V8 costs a call; below this nobody would notice. */
const EXTERNAL_STEP = 16 * 2 ** 20
const DEFAULT_MAX_BYTES_IN_FLIGHT = 256 * 2 ** 20

/** What the device holds. Bytes are exact after a fence, `liveStorages` at once. */
export interface MemoryReport {
  /** Tensor handles not disposed yet. */
  readonly liveTensors: number
  /** Storages that JavaScript holds on this device in this environment. */
  readonly liveStorages: number
  /** Their bytes. */
  readonly enqueuedBytes: number
  readonly liveBytes: number
  readonly liveBuffers: number
  readonly peakBytes: number
  readonly cachedBytes: number
  readonly workspaceBytes: number
}

interface Waiter {
  resolve: () => void
  reject: (error: FuselmError) => void
}

function threadsOption(value: number | undefined): number {
  if (value !== undefined) return checkInteger('Device.open', 'threads', value, 1, 1024)
  const text = process.env['FUSELM_THREADS']
  if (text === undefined || text === '') return 0
  if (/^\d{1,4}$/.test(text) && Number(text) >= 1 && Number(text) <= 1024) return Number(text)
  throw new ConfigError(`FUSELM_THREADS must be an integer from 1 to 1024, received '${text}'`)
}

function oneOf<T extends string>(where: string, value: string, known: readonly T[]): T {
  if ((known as readonly string[]).includes(value)) return value as T
  const near = nearestName(value, known)
  throw new ConfigError(
    `${where} must be one of ${known.join(', ')}, received '${value}'` +
      (near === undefined ? '' : `; did you mean '${near}'?`),
  )
}

function choice<T extends string>(
  option: string | undefined,
  name: string,
  variable: string,
  known: readonly T[],
  otherwise: T,
): T {
  if (option !== undefined) return oneOf(`Device.open: ${name}`, String(option), known)
  const text = process.env[variable]
  return text === undefined || text === '' ? otherwise : oneOf(variable, text, known)
}

/** Which device a name means, and by which plugin; `auto` asks it. */
function place(
  addon: NativeAddon,
  { device: name, cudaPlugin }: DeviceOptions,
): { kind: 'cpu' | 'cuda'; ordinal: number; plugin: string } {
  const text = name ?? (process.env['FUSELM_DEVICE'] || 'cpu')
  const where = name === undefined ? 'FUSELM_DEVICE' : 'Device.open: device'
  const numbered = /^cuda:(\d{1,3})$/.exec(text)
  const kind = numbered === null ? oneOf(where, text, ['auto', 'cpu', 'cuda'] as const) : 'cuda'
  if (kind === 'cpu') return { kind, ordinal: 0, plugin: '' }
  const plugin = findCudaPlugin(addon, cudaPlugin)
  if (kind === 'cuda') return { kind, ordinal: Number(numbered?.[1] ?? 0), plugin }
  const usable = addon.cudaStatus(plugin).devices.length > 0
  return { kind: usable ? 'cuda' : 'cpu', ordinal: 0, plugin }
}

let defaultDevice: Device | null = null
const named = new Map<DeviceName, Device>()

/**
 * Memory, threads and kernels. Devices opened with the same options share one native device per
 * process; each has buffers and queues of its own.
 */
export class Device {
  readonly kind: 'cpu' | 'cuda'
  /** `cpu`, or the GPU's name as its driver gives it. */
  readonly name: string
  /** Of a GPU's kernels, `cuda`. */
  readonly isa: IsaLevel | 'cuda'
  readonly threads: number
  /** Highest instruction level of this machine, whatever `isa` caps it to. */
  readonly machineLevel: IsaLevel
  readonly maxBytesInFlight: number
  /** The queue of priority 0 that every device has. */
  readonly queue: Queue
  /** Where ops enqueue now (see Queue.use). */
  activeQueue: Queue
  closed = false
  /** @internal Counted by Tensor. */
  liveTensors = 0
  /** @internal Above zero, `maxBytesInFlight` is not enforced: for work that must not stop half-way. */
  unbounded = 0

  readonly #native: NativeEnvironment
  readonly #kernels = new Map<string, Kernel>()
  readonly #queues: Queue[] = []
  readonly #waiters = new Map<number, Waiter>()
  #buffers = 0
  #tokens = 0
  #events = 0
  #owners = 0
  #liveStorages = 0
  #liveBytes = 0
  /** Bytes that V8 has not been told of yet. */
  #external = 0

  /**
   * Opens a device.
   * @throws ConfigError (unknown option or name), ValueError (number out of range),
   *   DeviceError (the addon cannot be loaded; there is no such GPU, and why)
   */
  static open(options: DeviceOptions = {}): Device {
    checkOptions('Device.open', options, OPTION_NAMES)
    const level = choice(options.isa, 'isa', 'FUSELM_ISA', ISA_LEVELS, 'amx')
    const threads = threadsOption(options.threads)
    const memoryLimit = checkInteger(
      'Device.open',
      'memoryLimit',
      options.memoryLimit ?? 0,
      0,
      Number.MAX_SAFE_INTEGER,
    )
    const maxBytesInFlight = checkInteger(
      'Device.open',
      'maxBytesInFlight',
      options.maxBytesInFlight ?? DEFAULT_MAX_BYTES_IN_FLIGHT,
      1,
      Number.MAX_SAFE_INTEGER,
    )
    const guard = options.guard === true
    const addon = loadAddon(options.addon)
    const where = guarded(() => place(addon, options))
    return new Device(addon, { ...where, level, threads, memoryLimit, guard }, maxBytesInFlight)
  }

  /** The device that ops use when nobody opened one: opened at first use. */
  static default(): Device {
    if (defaultDevice === null || defaultDevice.closed) defaultDevice = Device.open()
    return defaultDevice
  }

  /**
   * The device an option means: itself, or the one shared by all who name it so, opened at first use.
   * @throws as {@link Device.open} does
   */
  static of(device: Device | DeviceName): Device {
    if (device instanceof Device) return device
    const known = named.get(device)
    if (known !== undefined && !known.closed) return known
    const opened = Device.open({ device })
    named.set(device, opened)
    return opened
  }

  /** Makes this the device that {@link Device.default} returns. */
  makeDefault(): this {
    defaultDevice = this
    return this
  }

  private constructor(addon: NativeAddon, options: NativeOptions, maxBytesInFlight: number) {
    this.#native = guarded(
      () => new addon.Environment(options, (token, code, message) => this.#complete(token, code, message)),
    )
    this.machineLevel = addon.machineLevel as IsaLevel
    this.kind = options.kind
    this.name = this.#native.name
    this.isa = options.kind === 'cuda' ? 'cuda' : (this.#native.level as IsaLevel)
    this.threads = this.#native.threads
    this.maxBytesInFlight = maxBytesInFlight
    for (const [index, kernel] of this.#native.kernels().entries()) {
      this.#kernels.set(kernel.signature, {
        ...parseSignature(kernel.signature),
        signature: kernel.signature,
        code: FIRST_KERNEL_CODE + index,
        dtypes: kernel.dtypes,
        level: kernel.level,
      })
    }
    this.queue = this.createQueue()
    this.activeQueue = this.queue
    profileDevice(this)
  }

  /** A queue of its own order. Only strictly higher priorities overtake running work. */
  createQueue({ priority = 0 }: { priority?: number } = {}): Queue {
    this.#open('createQueue')
    checkInteger('createQueue', 'priority', priority, -100, 100)
    const queue = new Queue(
      this,
      guarded(() => this.#native.createQueue(priority)),
      priority,
    )
    this.#queues.push(queue)
    return queue
  }

  /** The kernel registered under this signature, or undefined. */
  kernel(signature: string): Kernel | undefined {
    return this.#kernels.get(signature)
  }

  /** Every kernel with its executions since the device opened. */
  kernels(): NativeKernel[] {
    this.#open('kernels')
    return this.#native.kernels()
  }

  memory(): MemoryReport {
    this.#open('memory')
    return {
      liveTensors: this.liveTensors,
      liveStorages: this.#liveStorages,
      enqueuedBytes: this.#liveBytes,
      ...this.#native.memory(),
    }
  }

  /**
   * Resolves when all queues have run what was enqueued before the call.
   * @throws (rejects) the first failure of a command that no promise has reported yet
   */
  async sync(): Promise<void> {
    this.#open('sync')
    await Promise.all(this.#queues.map((queue) => queue.fence()))
    const failure = this.closed ? null : this.#native.takeFailure()
    if (failure !== null) throw nativeError(failure.code, failure.message)
  }

  /** A number for Queue.withOwner and {@link cancel}. */
  newOwner(): number {
    return ++this.#owners
  }

  /**
   * Drains what the owner enqueued and what has not started: kernels are skipped, their outputs
   * poisoned with AbortError; memory is freed in order as always.
   */
  cancel(owner: number): void {
    checkInteger('device.cancel', 'owner', owner, 1, 2 ** 32 - 1)
    if (this.closed) return
    for (const queue of this.#queues) queue.flush()
    this.#native.cancel(owner)
  }

  /** Records what is executed from now on; {@link takeTrace} hands it out. */
  setTracing(on: boolean): void {
    this.#open('setTracing')
    this.#native.setTracing(on)
  }

  takeTrace(): NativeTraceEvent[] {
    this.#open('takeTrace')
    return this.#native.takeTrace()
  }

  /** Test hook: the nth allocation from now fails (1 is the next); 0 turns it off. */
  failAllocation(nth: number): void {
    this.#open('failAllocation')
    this.#native.failAllocation(checkInteger('failAllocation', 'nth', nth, 0, 2 ** 31))
  }

  /** Discards queued work, frees every buffer and rejects what is awaited. Idempotent. */
  close(): void {
    if (this.closed) return
    endProfile(this)
    this.closed = true
    if (defaultDevice === this) defaultDevice = null
    this.#native.close()
    const waiters = [...this.#waiters.values()]
    this.#waiters.clear()
    for (const { reject } of waiters) reject(new DisposedError('device closed while awaited'))
  }

  [Symbol.dispose](): void {
    this.close()
  }

  /** @internal */
  nextBufferId(): number {
    if (this.#buffers === MAX_BUFFER_ID) {
      throw new OutOfMemoryError(`device: ${MAX_BUFFER_ID} buffers are live; dispose some`)
    }
    return ++this.#buffers
  }

  /** @internal */
  nextToken(): number {
    return ++this.#tokens
  }

  /** @internal */
  nextEvent(): number {
    return ++this.#events
  }

  /** @internal */
  countAlloc(bytes: number): void {
    this.#liveStorages++
    this.#liveBytes += bytes
  }

  /** @internal Tells V8 of memory that hangs on JavaScript objects, in large steps. */
  reportExternal(bytes: number): void {
    this.#external += bytes
    if (Math.abs(this.#external) < EXTERNAL_STEP || this.closed) return
    this.#native.adjustExternalMemory(this.#external)
    this.#external = 0
  }

  /** @internal Called by Storage.release at zero holders. */
  free(storage: Storage): void {
    this.#liveStorages--
    this.#liveBytes -= storage.bytes
    if (storage.reported) this.reportExternal(-storage.bytes)
    let queue = storage.soleQueue
    if (!this.closed) {
      if (queue === null) {
        // Waiting for every user belongs on the least urgent of them.
        const users = [...(storage.uses?.keys() ?? [])]
        queue = users.reduce((a, b) => (b.priority < a.priority ? b : a))
        for (const [user, use] of storage.uses ?? []) {
          queue.waitFor(user, Math.max(use.read, use.written))
        }
      }
      queue.freeBuffer(storage)
    }
    storage.id = 0
    storage.soleQueue = null
    storage.uses = null
  }

  /** @internal Memory that an upload reads or a read fills, until the token completes. */
  registerHost(memory: ArrayBuffer, byteOffset: number, bytes: number): number {
    const token = this.nextToken()
    guarded(() => this.#native.registerHost(token, memory, byteOffset, bytes))
    return token
  }

  /** @internal Settles when the token completes; keeps the process alive meanwhile. */
  completion(token: number): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#waiters.size === 0) this.#native.ref()
      this.#waiters.set(token, { resolve, reject })
    })
  }

  /** @internal */
  submit(queue: number, words: Uint32Array, count: number): number {
    return guarded(() => this.#native.submit(queue, words, count))
  }

  /** @internal */
  pendingBytes(): number {
    return this.#native.pendingBytes()
  }

  /** @internal */
  busy(commands: number): boolean {
    if (this.closed) return false
    return (
      this.#native.pendingCommands() > commands || this.#native.pendingBytes() > this.maxBytesInFlight / 2
    )
  }

  #open(what: string): void {
    if (this.closed) throw new DisposedError(`device.${what}: the device is closed`)
  }

  #complete(token: number, code: number, message: string): void {
    const waiter = this.#waiters.get(token)
    if (waiter === undefined) return
    this.#waiters.delete(token)
    if (this.#waiters.size === 0) this.#native.unref()
    if (code === 0) {
      waiter.resolve()
    } else {
      // Reported here, so sync() need not report it again.
      this.#native.takeFailure()
      waiter.reject(nativeError(code, message))
    }
  }
}

/** Gives an error of the addon its class. */
function guarded<T>(call: () => T): T {
  try {
    return call()
  } catch (error) {
    const code = (error as { fuselmCode?: unknown }).fuselmCode
    if (typeof code === 'number') throw nativeError(code, (error as Error).message)
    throw error instanceof FuselmError ? error : new DeviceError(String(error), { cause: error })
  }
}
