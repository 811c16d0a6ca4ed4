// Who frees a handle: the scope it was made in, or its caller with a finalizer as safety net.

import type { Storage } from '../runtime/storage.ts'
import { type GradNode, releaseNode } from './node.ts'
import type { Tensor } from './tensor.ts'

/** The tensors made while a scope runs. */
export interface Scope {
  readonly tensors: Tensor[]
}

let current: Scope | null = null

/** @internal Makes `next` the scope that new tensors belong to; returns the one before. */
export function enter(next: Scope | null): Scope | null {
  const before = current
  current = next
  return before
}

interface Held {
  readonly storage: Storage
  readonly node: GradNode | null
}

// A safety net only: it fires late or never. The held value must not lead to the tensor.
const finalizers = new FinalizationRegistry<Held>(({ storage, node }) => {
  storage.device.liveTensors--
  if (node !== null) releaseNode(node)
  storage.release()
})

/** @internal Gives a new handle its owner: the scope that runs, else its caller. */
export function track(tensor: Tensor): void {
  if (current !== null) current.tensors.push(tensor)
  else watch(tensor)
}

/** @internal */
export function watch(tensor: Tensor): void {
  tensor.watched = true
  tensor.storage.collectable()
  finalizers.register(tensor, { storage: tensor.storage, node: tensor.node }, tensor)
}

/** @internal */
export function unwatch(tensor: Tensor): void {
  tensor.watched = false
  finalizers.unregister(tensor)
}

/** @internal Runs `fn` so that what it makes has no owner but its caller, not even a finalizer. */
export function untracked<T>(fn: () => T): T {
  const outer = enter({ tensors: [] })
  try {
    return fn()
  } finally {
    enter(outer)
  }
}

/**
 * Takes a tensor out of the scopes that run: it lives until `dispose()`. For what outlives a step,
 * like optimizer state. Returns it.
 */
export function keep<T extends Tensor>(tensor: T): T {
  if (!tensor.kept) {
    tensor.kept = true
    if (!tensor.watched) watch(tensor)
  }
  return tensor
}
