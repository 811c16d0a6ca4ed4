import { dropout } from '../ops/dropout.ts'
import { randomKey } from '../ops/random.ts'
import type { Device } from '../runtime/device.ts'
import { checkInteger } from '../runtime/options.ts'
import { drawOnce } from '../tensor/region.ts'
import type { Tensor } from '../tensor/tensor.ts'

/**
 * Where a training step's dropout masks come from: each call has a key of its own, and the same step
 * has the same ones whenever it is run again.
 */
export class DropoutKeys {
  readonly #seed: number
  #step = 0
  #calls = 0

  /** @param options seed, a whole number, 0 to 2^53 - 1. Default 0 */
  constructor({ seed = 0 }: { readonly seed?: number } = {}) {
    this.#seed = checkInteger('DropoutKeys', 'seed', seed, 0, Number.MAX_SAFE_INTEGER)
  }

  /** Call once per training step, before the forward. */
  begin(step: number): void {
    this.#step = checkInteger('DropoutKeys.begin', 'step', step, 0, 2 ** 32 - 1)
    this.#calls = 0
  }

  /** u32 [4]: seed, step, number of the call in the step. */
  next(device: Device): Tensor {
    // a checkpoint region that runs again drops what it dropped before
    const drawn = drawOnce(() => ({ step: this.#step, call: this.#calls++ }))
    return randomKey(this.#seed, { ...drawn, device })
  }
}

/** Dropout of a call: an argument, never a state of the model. */
export interface DropoutOptions {
  /** Probability of an element to be zeroed, in [0, 1]. */
  readonly p: number
  readonly keys: DropoutKeys
}

/** `x` with dropout, or as it is when there is none. */
export function applyDropout(x: Tensor, options: DropoutOptions | null | undefined): Tensor {
  return options == null || options.p === 0 ? x : dropout(x, options.keys.next(x.device), options.p)
}
