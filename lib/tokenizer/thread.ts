// A worker thread of the tokenizer, from the side of whoever asks.

import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { packageRoot } from '../runtime/addon.ts'
import { AbortError, ConfigError, DeviceError, FormatError } from '../runtime/errors.ts'
import type { Answer, Request } from './worker.ts'

type WithoutId<T> = T extends unknown ? Omit<T, 'id'> : never

interface Waiting {
  resolve(value: unknown): void
  reject(error: unknown): void
  readonly onProgress: ((tokens: number) => void) | undefined
}

const IDLE_MS = 5000

/** An error of the worker as the class it had there. */
function revive({ name, code, message }: Answer & { type: 'failed' }): Error {
  if (name === 'FormatError') return new FormatError(message)
  if (name === 'ConfigError') return new ConfigError(message)
  return code === '' ? new DeviceError(`tokenizer: ${message}`) : Object.assign(new Error(message), { code })
}

/** Started when first asked, ended after some seconds without work; never keeps the process alive idle. */
export class TokenizerThread {
  readonly #data: unknown
  readonly #waiting = new Map<number, Waiting>()
  #worker: Worker | undefined
  #nextId = 0
  #idle: NodeJS.Timeout | undefined

  constructor(data: unknown = null) {
    this.#data = data
  }

  /** @throws what the work threw, with class and code; AbortError's reason when `signal` aborts */
  ask<T>(
    request: WithoutId<Request>,
    options: { signal?: AbortSignal | undefined; onProgress?: ((tokens: number) => void) | undefined } = {},
  ): Promise<T> {
    const { signal, onProgress } = options
    if (signal?.aborted) return Promise.reject(signal.reason ?? new AbortError())
    const worker = this.#start()
    const id = this.#nextId++
    return new Promise<T>((resolve, reject) => {
      const abort = (): void => {
        const waiting = this.#waiting.get(id)
        this.#waiting.delete(id)
        waiting?.reject(signal?.reason ?? new AbortError())
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
      worker.postMessage({ ...request, id })
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
          "tokenizer: this package's files were not found; keep fuselm external to the bundle",
        )
      }
      const worker = new Worker(join(root, 'dist', 'tokenizer', 'worker.js'), {
        workerData: this.#data,
        execArgv: [],
      })
      worker.on('message', (answer: Answer) => this.#receive(answer))
      worker.on('error', (error) => {
        if (this.#worker === worker) this.#worker = undefined
        this.#fail(new DeviceError(`tokenizer: its thread failed: ${error.message}`, { cause: error }))
      })
      this.#worker = worker
    }
    this.#worker.ref()
    return this.#worker
  }

  #receive(answer: Answer): void {
    const waiting = this.#waiting.get(answer.id)
    if (answer.type === 'progress') {
      waiting?.onProgress?.(answer.tokens)
      return
    }
    this.#waiting.delete(answer.id)
    if (this.#waiting.size === 0) {
      this.#worker?.unref()
      this.#idle = setTimeout(() => this.close(), IDLE_MS).unref()
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
