// A worker thread of this package, from the side of whoever asks.

import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { packageRoot } from './addon.ts'
import { AbortError, ConfigError, DeviceError, FormatError, ValueError } from './errors.ts'
import type { Answer, HandedText, HoldRequest } from './worker-server.ts'

interface Waiting {
  resolve(value: unknown): void
  reject(error: unknown): void
  readonly onProgress: ((progress: never) => void) | undefined
}

interface AskOptions<Progress> {
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: ((progress: Progress) => void) | undefined
}

const IDLE_MS = 5000
const PART_UNITS = 1 << 18 // copying 10 Mi characters takes up to 60 ms, these one or two
const CLASSES = { FormatError, ConfigError, ValueError } as const

/** An error of the worker as the class it had there. */
function revive({ name, code, message }: Answer & { type: 'failed' }): Error {
  if (Object.hasOwn(CLASSES, name)) return new CLASSES[name as keyof typeof CLASSES](message)
  return code === ''
    ? new DeviceError(`worker thread: ${message}`)
    : Object.assign(new Error(message), { code })
}

/** Started when first asked, ended after some seconds without work; never keeps the process alive idle. */
export class WorkerThread<Request> {
  readonly #script: string
  readonly #data: unknown
  readonly #keep: boolean
  readonly #waiting = new Map<number, Waiting>()
  #worker: Worker | undefined
  #nextId = 0
  #nextHeld = 0
  #idle: NodeJS.Timeout | undefined

  /**
   * @param script below dist/, such as `tokenizer/worker.js`
   * @param options.keep the thread holds state: it ends only by `close`
   */
  constructor(script: string, { data = null, keep = false }: { data?: unknown; keep?: boolean } = {}) {
    this.#script = script
    this.#data = data
    this.#keep = keep
  }

  /**
   * A text as a request may carry it: a long one goes over in parts, since the event loop waits while a
   * message is copied.
   */
  async hand(text: string, signal?: AbortSignal): Promise<HandedText> {
    if (text.length <= PART_UNITS) return text
    const held = this.#nextHeld++
    for (let at = 0; at < text.length; at += PART_UNITS) {
      await this.#post({ hold: { held, part: text.slice(at, at + PART_UNITS) } }, { signal })
    }
    return { held, length: text.length }
  }

  /** @throws what the work threw, with class and code; the signal's reason when it aborts */
  ask<T, Progress = never>(request: Request, options: AskOptions<Progress> = {}): Promise<T> {
    return this.#post<T, Progress>({ request }, options)
  }

  #post<T, Progress = never>(
    message: { readonly request: Request } | { readonly hold: HoldRequest },
    options: AskOptions<Progress>,
  ): Promise<T> {
    const { signal, onProgress } = options
    if (signal?.aborted) return Promise.reject(signal.reason)
    const id = this.#nextId++
    return new Promise<T>((resolve, reject) => {
      const worker = this.#start()
      const abort = (): void => {
        this.#waiting.get(id)?.reject(signal?.reason)
        this.#waiting.delete(id)
        // what runs cannot be stopped, but nobody else may wait for it
        if (this.#waiting.size === 0) this.close()
      }
      const settled = (): void => signal?.removeEventListener('abort', abort)
      this.#waiting.set(id, {
        resolve: (value) => {
          settled()
          resolve(value as T)
        },
        reject: (error) => {
          settled()
          reject(error)
        },
        onProgress,
      })
      signal?.addEventListener('abort', abort, { once: true })
      try {
        worker.postMessage({ id, ...message })
      } catch (error) {
        // something in it cannot be copied to another thread
        this.#waiting.delete(id)
        settled()
        reject(new ValueError((error as Error).message, { cause: error }))
      }
    })
  }

  /** Ends the thread; whoever waits gets an AbortError. */
  close(): void {
    clearTimeout(this.#idle)
    const worker = this.#worker
    this.#worker = undefined
    this.#fail(new AbortError())
    void worker?.terminate()
  }

  #start(): Worker {
    clearTimeout(this.#idle)
    if (this.#worker === undefined) {
      const root = packageRoot()
      if (root === undefined) {
        throw new DeviceError(
          "worker thread: fuselm's files were not found; keep the package external to the bundle",
        )
      }
      const worker = new Worker(join(root, 'dist', this.#script), { workerData: this.#data, execArgv: [] })
      worker.on('message', (answer: Answer) => this.#receive(answer))
      worker.on('error', (error) => {
        if (this.#worker === worker) this.#worker = undefined
        this.#fail(new DeviceError(`worker thread: ${error.message}`, { cause: error }))
      })
      this.#worker = worker
    }
    this.#worker.ref()
    return this.#worker
  }

  #receive(answer: Answer): void {
    const waiting = this.#waiting.get(answer.id)
    if (answer.type === 'progress') {
      waiting?.onProgress?.(answer.value as never)
      return
    }
    this.#waiting.delete(answer.id)
    if (this.#waiting.size === 0) {
      this.#worker?.unref()
      if (!this.#keep) this.#idle = setTimeout(() => this.close(), IDLE_MS).unref()
    }
    if (answer.type === 'done') waiting?.resolve(answer.value)
    else waiting?.reject(revive(answer))
  }

  #fail(error: Error): void {
    const waiting = [...this.#waiting.values()]
    this.#waiting.clear()
    for (const { reject } of waiting) reject(error)
  }
}
