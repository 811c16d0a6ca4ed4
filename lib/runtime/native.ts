/** The shape of the addon (native/binding). Nothing else in TypeScript knows it. */

/** A kernel as registered for one instruction level. */
export interface NativeVariant {
  readonly level: string
  readonly dtypes: number
  readonly executions: number
  readonly nanoseconds: number
}

export interface NativeKernel {
  readonly signature: string
  /** Bit per dtype code that the first floating argument may have. */
  readonly dtypes: number
  readonly level: string
  readonly transactional: boolean
  readonly executions: number
  readonly nanoseconds: number
  /** Best level first; a call runs the first that takes its dtype. */
  readonly variants: readonly NativeVariant[]
}

export interface NativeMemory {
  readonly liveBytes: number
  readonly liveBuffers: number
  readonly peakBytes: number
  readonly cachedBytes: number
  readonly workspaceBytes: number
}

export interface NativeTraceEvent {
  readonly code: number
  readonly queue: number
  readonly step: number
  readonly startNs: number
  readonly endNs: number
  readonly bytes: number
  readonly shapes: string
}

/** `code` is 0 for success, else one of native/core/error.h. */
export type OnCompletion = (token: number, code: number, message: string, step: number) => void

export interface NativeEnvironment {
  /** What kernels are compiled for: an instruction level, or the plugin's name. */
  readonly level: string
  /** `cpu`, or as the driver names the GPU. */
  readonly name: string
  readonly threads: number
  createQueue(priority: number): number
  /** Copies `count` words. Returns the bytes in flight over all queues. */
  submit(queue: number, words: Uint32Array, count: number): number
  registerHost(token: number, memory: ArrayBuffer, byteOffset: number, bytes: number): void
  cancel(owner: number): void
  pendingCommands(): number
  pendingBytes(): number
  memory(): NativeMemory
  kernels(): NativeKernel[]
  /** The first failure since the last call; null when there was none. */
  takeFailure(): { code: number; message: string; step: number } | null
  setTracing(on: boolean): void
  takeTrace(): NativeTraceEvent[]
  adjustExternalMemory(change: number): void
  failAllocation(nth: number): void
  /** Keeps the process alive until unref(): called while a promise waits. */
  ref(): void
  unref(): void
  close(): void
}

export interface NativeOptions {
  readonly kind: 'cpu' | 'cuda'
  /** Which of the plugin's devices. */
  readonly ordinal: number
  /** Path of the plugin; empty: the usual places. */
  readonly plugin: string
  readonly level: string
  /** 0: as many as the process may use. */
  readonly threads: number
  readonly memoryLimit: number
  readonly guard: boolean
}

export interface NativeCudaStatus {
  readonly path: string
  readonly loaded: boolean
  readonly build: string
  /** Of the products of matrices; empty without a device. */
  readonly matrixLibrary: string
  readonly reason: string
  readonly devices: readonly {
    readonly name: string
    readonly computeCapability: string
    readonly multiprocessors: number
    readonly memoryBytes: number
  }[]
}

export interface NativeAddon {
  /** Raised whenever this interface changes, so that a stale build is named as such. */
  readonly abi: number
  readonly machineLevel: string
  readonly defaultThreads: number
  cudaStatus(path?: string): NativeCudaStatus
  /** An exclusive lock of an open file, dropped when it closes. */
  tryLock(fd: number): 'locked' | 'held' | 'unsupported'
  Environment: new (options: NativeOptions, onCompletion: OnCompletion) => NativeEnvironment
}

export const ADDON_ABI = 3
