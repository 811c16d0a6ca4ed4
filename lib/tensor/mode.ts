// What is switched on while a synchronous callback runs. Being synchronous is what makes it safe:
// no other async flow can run between switching on and off.

import type { Device } from '../runtime/device.ts'
import { ValueError } from '../runtime/errors.ts'
import type { Queue } from '../runtime/queue.ts'

export interface Mode {
  /** Gradient nodes are recorded. */
  grad: boolean
  /** Ops run their reference instead of their kernel. */
  reference: boolean
  /** Where ops without inputs make their outputs; null is the default device. */
  device: Device | null
}

/** @internal Per thread: modules are instantiated once per worker. */
export const mode: Mode = { grad: true, reference: false, device: null }

/** @internal A callback that returned a promise would go on after its mode was switched off. */
export function checkSynchronous(where: string, result: unknown): void {
  if (
    (typeof result === 'object' || typeof result === 'function') &&
    result !== null &&
    'then' in result &&
    typeof result.then === 'function'
  ) {
    // What the flow still throws has no other reader; the error below is the one to see.
    result.then(undefined, () => {})
    throw new ValueError(
      `${where}: the callback must be synchronous, it returned a promise; await outside of it`,
    )
  }
}

function withMode<T>(where: string, key: 'grad' | 'reference', value: boolean, fn: () => T): T {
  const before = mode[key]
  mode[key] = value
  try {
    const result = fn()
    checkSynchronous(where, result)
    return result
  } finally {
    mode[key] = before
  }
}

/**
 * Runs `fn` (synchronous) without recording gradients.
 * @throws ValueError if `fn` returns a promise
 */
export function noGrad<T>(fn: () => T): T {
  return withMode('noGrad', 'grad', false, fn)
}

/** Runs `fn` (synchronous) recording gradients, also inside `noGrad`. */
export function enableGrad<T>(fn: () => T): T {
  return withMode('enableGrad', 'grad', true, fn)
}

/** Runs `fn` (synchronous) with new tensors made on `device`. */
export function withDevice<T>(device: Device, fn: () => T): T {
  const before = mode.device
  mode.device = device
  try {
    const result = fn()
    checkSynchronous('withDevice', result)
    return result
  } finally {
    mode.device = before
  }
}

/** Runs `fn` (synchronous) with ops enqueued on `queue`. Tensors may cross queues freely. */
export function withQueue<T>(queue: Queue, fn: () => T): T {
  return queue.use(fn)
}

/**
 * Runs `fn` (synchronous) with every op served by its reference, composed of primitives.
 * @throws ValueError if `fn` returns a promise
 */
export function withReference<T>(fn: () => T): T {
  return withMode('withReference', 'reference', true, fn)
}
