// What generation reads of an adapter: a copy that nobody writes. A new one takes its place when it is
// there; the old one is freed with its last reader.

import type { Tensor } from '../tensor/tensor.ts'
import { type AdapterTensors, AdapterWeights } from './weights.ts'

class Copy {
  readonly tensors: AdapterTensors
  readonly weights: AdapterWeights
  /** Of the parameters when it was made. */
  readonly versions: readonly number[]
  readers = 1 // the publication itself

  constructor(tensors: AdapterTensors, versions: readonly number[]) {
    this.tensors = tensors
    this.weights = new AdapterWeights(tensors)
    this.versions = versions
  }

  release(): void {
    if (--this.readers > 0) return
    const { terms, wholes } = this.tensors
    for (const { a, b } of terms.values()) {
      a.dispose()
      b.dispose()
    }
    for (const { weight, bias } of wholes.values()) {
      weight.dispose()
      bias?.dispose()
    }
  }
}

/** A copy in use. */
export interface Lease {
  readonly weights: AdapterWeights
  /** The same for the same copy. */
  readonly version: object
  release(): void
}

export class Publication {
  readonly #make: () => AdapterTensors
  readonly #parameters: readonly Tensor[]
  #current: Copy | null = null
  #holds = 0
  #made = 0
  #shown = 0
  #disposed = false

  /** @param parameters what `make` copies */
  constructor(make: () => AdapterTensors, parameters: readonly Tensor[]) {
    this.#make = make
    this.#parameters = parameters
  }

  async publish(): Promise<void> {
    const number = ++this.#made
    const copy = this.#copy()
    try {
      // whoever generates meanwhile does not wait for the work that was enqueued before
      await this.#parameters[0]?.device.activeQueue.fence()
    } catch (error) {
      copy.release()
      throw error
    }
    this.#show(copy, number)
  }

  lease(): Lease {
    const versions = this.#versions()
    const stale = this.#current?.versions.some((version, i) => version !== versions[i]) ?? true
    if (this.#current === null || (stale && this.#holds === 0)) this.#show(this.#copy(), ++this.#made)
    const copy = this.#current as unknown as Copy
    copy.readers++
    let open = true
    return {
      weights: copy.weights,
      version: copy,
      release: () => {
        if (open) copy.release()
        open = false
      },
    }
  }

  hold(): () => void {
    this.#holds++
    let held = true
    return () => {
      if (held) this.#holds--
      held = false
    }
  }

  dispose(): void {
    this.#disposed = true
    this.#current?.release()
    this.#current = null
  }

  #versions(): number[] {
    return this.#parameters.map(({ storage }) => storage.version)
  }

  #copy(): Copy {
    return new Copy(this.#make(), this.#versions())
  }

  #show(copy: Copy, number: number): void {
    // a later one was quicker, or nobody will read it
    if (this.#disposed || number < this.#shown) {
      copy.release()
      return
    }
    this.#shown = number
    this.#current?.release()
    this.#current = copy
  }
}
