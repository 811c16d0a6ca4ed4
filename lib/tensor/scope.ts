// Scopes free what a callback made and did not hand out. Gradient nodes hold the storages they
// saved, so freeing a handle never breaks a backward.

import { checkSynchronous } from './mode.ts'
import { enter, keep, type Scope, watch } from './ownership.ts'
import { Tensor } from './tensor.ts'

export { keep } from './ownership.ts'

/** Calls `visit` for each tensor in a value: itself, or in arrays, maps, sets and objects, deeply. */
export function visitTensors(value: unknown, visit: (tensor: Tensor) => void): void {
  if (value instanceof Tensor) {
    visit(value)
    return
  }
  if (typeof value !== 'object' || value === null) return
  const seen = new Set<object>([value])
  const stack: object[] = [value]
  const look = (part: unknown): void => {
    if (part instanceof Tensor) visit(part)
    else if (typeof part === 'object' && part !== null && !seen.has(part)) {
      seen.add(part)
      stack.push(part)
    }
  }
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    if (ArrayBuffer.isView(next)) continue
    if (next instanceof Map) {
      for (const [key, part] of next) {
        look(key)
        look(part)
      }
    } else if (Array.isArray(next) || next instanceof Set) {
      for (const part of next) look(part)
    } else {
      for (const part of Object.values(next)) look(part)
    }
  }
}

/** Tensors in the fields of `owner`, in arrays and plain objects there; not in other instances. */
function keepFields(owner: object): void {
  for (const field of Object.values(owner)) {
    if (field instanceof Tensor) keep(field)
    else if (Array.isArray(field) || isPlain(field)) visitTensors(field, keep)
  }
}

function isPlain(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype
}

/**
 * Runs `fn` (synchronous) and frees every tensor made in it, but for those in its result (arrays,
 * maps, sets and objects are searched), those given to `keep`, leaves that require a gradient, and,
 * with `owner`, those now in a field of it. What a gradient node saved lives on in the node.
 * If `fn` throws, all are freed.
 * @throws ValueError if `fn` returns a promise
 */
export function scope<T>(fn: () => T, owner?: object): T {
  const inner: Scope = { tensors: [] }
  const outer = enter(inner)
  let result: T
  try {
    result = fn()
    checkSynchronous('scope', result)
  } catch (error) {
    enter(outer)
    leave(inner, outer)
    throw error
  }
  enter(outer)
  if (inner.tensors.length > 0) {
    if (owner !== undefined) keepFields(owner)
    const marked: Tensor[] = []
    visitTensors(result, (tensor) => {
      tensor.returned = true
      marked.push(tensor)
    })
    leave(inner, outer)
    for (const tensor of marked) tensor.returned = false
  }
  return result
}

function leave(inner: Scope, outer: Scope | null): void {
  for (const tensor of inner.tensors) {
    if (tensor.disposed || tensor.kept) continue
    if (tensor.returned) {
      if (outer !== null) outer.tensors.push(tensor)
      else if (!tensor.watched) watch(tensor)
    } else {
      tensor.dispose()
    }
  }
}
