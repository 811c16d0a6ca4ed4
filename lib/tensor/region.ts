// Checkpoint regions: the graph of a region is recorded as anywhere, but its nodes keep no values.
// When backward comes to the first of them, the region runs again, and each node takes over what its
// twin of the second run saved. Edges, order and kernels are those of an ordinary graph, so gradients
// have the same bits.

import { DisposedError, ValueError } from '../runtime/errors.ts'
import type { Storage } from '../runtime/storage.ts'
import { checkSynchronous, mode } from './mode.ts'
import { LeafNode, SavedTensor } from './node.ts'
import { track } from './ownership.ts'
import { scope } from './scope.ts'
import { Tensor } from './tensor.ts'

/** What a region makes again: a node's saved tensors, or the inputs of a region inside it. */
export interface Recomputed {
  readonly name: string
  /** False: nothing of it is read, so the second run need not come so far. */
  readonly savesAny: boolean
  /** Takes over what `twin`, its counterpart in the second run, holds. */
  takeFrom(twin: Recomputed): void
}

/** What nodes, ops and random draws tell the region that runs. */
export interface Recording {
  /** Set in a first run: nodes keep no values, this will bring them. */
  readonly region: Region | null
  add(item: Recomputed): void
  /** A value that the second run must have again, like a counter that the draw advances. */
  draw<T>(make: () => T): T
  /** Called with the tensors of every op. */
  note(tensors: readonly (Tensor | null)[]): void
  /** Whether a node of that name is the last thing wanted: its op need not run. */
  endsWith(name: string): boolean
}

/** @internal Per thread, like `mode`. */
export const regions: { recording: Recording | null } = { recording: null }

function recordedBy<T>(recording: Recording | null, fn: () => T): T {
  const before = regions.recording
  regions.recording = recording
  try {
    return fn()
  } finally {
    regions.recording = before
  }
}

/** @internal Runs `fn` as if no region ran. */
export function unrecorded<T>(fn: () => T): T {
  return recordedBy(null, fn)
}

/**
 * A value of `make`, which a checkpoint region draws once: when it runs again for backward it gets
 * the same one. For what `make` reads from outside and changes, like the counter of a random stream.
 */
export function drawOnce<T>(make: () => T): T {
  return regions.recording === null ? make() : regions.recording.draw(make)
}

/** Ends a second run once all is there; never seen by callers. */
class Enough extends Error {}

export type RegionInputs = readonly unknown[]

/** One call of `checkpoint` that recorded gradients. */
export class Region implements Recording, Recomputed {
  readonly name = 'checkpoint'
  readonly savesAny = true
  readonly region = this
  readonly #items: Recomputed[] = []
  readonly #draws: unknown[] = []
  /** Of storages that the region read or wrote, as it left them; those it freed are not in. */
  readonly #versions = new Map<Storage, number>()
  readonly #reference = mode.reference
  readonly #device = mode.device
  /** The region it was called in, and whose second run brings its inputs. */
  readonly #outer: Recording | null
  #fn: ((...inputs: never[]) => unknown) | null
  #inputs: readonly unknown[]
  #state: 'running' | 'recorded' | 'over' = 'running'
  #inOuter = false
  /** Items that may still need it. */
  #holders = 0

  constructor(fn: (...inputs: never[]) => unknown, inputs: RegionInputs) {
    this.#outer = regions.recording
    this.#fn = fn
    const held = this.#outer?.region == null
    this.#inputs = inputs.map((input) => (input instanceof Tensor ? new RegionInput(input, held) : input))
  }

  /** The first run. */
  run(fn: () => unknown): unknown {
    let result: unknown
    try {
      result = recordedBy(this, () =>
        scope(() => {
          const made = fn()
          checkSynchronous('checkpoint', made)
          return made
        }),
      )
    } catch (error) {
      this.#drop()
      throw error
    }
    this.#state = 'recorded'
    if (this.#holders === 0) {
      this.#drop()
      return result
    }
    for (const storage of this.#versions.keys()) {
      if (storage.freed) this.#versions.delete(storage)
      else this.#versions.set(storage, storage.version)
    }
    this.#enterOuter()
    return result
  }

  /** Instead of a first run: the region it is in wants only what this one holds. */
  supply(): void {
    this.#enterOuter()
    this.#outer?.note([])
  }

  add(item: Recomputed): void {
    this.#items.push(item)
    this.#holders++
  }

  draw<T>(make: () => T): T {
    const value = this.#outer === null ? make() : this.#outer.draw(make)
    this.#draws.push(value)
    return value
  }

  note(tensors: readonly (Tensor | null)[]): void {
    for (const tensor of tensors) if (tensor) this.#versions.set(tensor.storage, 0)
    this.#outer?.note(tensors)
  }

  endsWith(): boolean {
    return false
  }

  /** An item that needs it no more. */
  release(): void {
    if (--this.#holders === 0 && this.#state === 'recorded') this.#drop()
  }

  /**
   * Before anything is accumulated.
   * @throws ValueError if something that the region read was written since
   */
  check(): void {
    if (this.#state === 'recorded') this.#checkVersions()
  }

  #checkVersions(): void {
    this.#inputs.forEach((input, i) => {
      if (input instanceof RegionInput) input.saved.checkVersion('checkpoint', `input ${i}`)
    })
    for (const [storage, version] of this.#versions) {
      if (storage.freed || storage.version === version) continue
      throw new ValueError(
        'backward of checkpoint: a tensor that the region uses was modified in place after it ran ' +
          `(version ${storage.version}, was ${version}); run backward first, or write to a copy`,
      )
    }
  }

  /** The second run: gives every item what backward reads. */
  restore(): void {
    if (this.#state === 'running') {
      throw new ValueError('checkpoint: backward through a region cannot run inside it')
    }
    if (this.#inOuter) this.#outer?.region?.restore()
    const fn = this.#fn
    if (fn === null) throw new ValueError('checkpoint: an earlier backward failed in the region')
    const needed = this.#items.findLastIndex(({ savesAny }) => savesAny) + 1
    const replay = new Replay(this.#items.slice(0, needed), this.#draws)
    const { grad, reference, device } = mode
    this.#state = 'running'
    Object.assign(mode, { grad: true, reference: this.#reference, device: this.#device })
    try {
      try {
        recordedBy(replay, () => scope(() => void fn(...(this.#inputs.map(restored) as never[]))))
        replay.finish()
      } catch (error) {
        if (!(error instanceof Enough)) throw explained(error)
      }
      this.#checkVersions() // it may itself have written to what outlives it
    } finally {
      Object.assign(mode, { grad, reference, device })
      this.#drop()
    }
  }

  /** Of a region inside another, when that runs again. */
  takeFrom(twin: Recomputed): void {
    if (!(twin instanceof Region)) throw diverged(this.name, twin.name)
    this.#fn = twin.#fn
    this.#inputs = twin.#inputs
    twin.#inputs = []
    this.#leaveOuter()
  }

  #enterOuter(): void {
    this.#inOuter = this.#outer?.region != null
    this.#outer?.add(this)
  }

  #leaveOuter(): void {
    if (!this.#inOuter) return
    this.#inOuter = false
    this.#outer?.region?.release()
  }

  #drop(): void {
    this.#state = 'over'
    for (const input of this.#inputs) if (input instanceof RegionInput) input.saved.release()
    this.#inputs = []
    this.#items.length = 0
    this.#versions.clear()
    this.#fn = null
    this.#leaveOuter()
  }
}

/** The second run of a region. */
class Replay implements Recording {
  readonly region = null
  readonly #items: readonly Recomputed[]
  readonly #draws: readonly unknown[]
  #next = 0
  #nextDraw = 0

  constructor(items: readonly Recomputed[], draws: readonly unknown[]) {
    this.#items = items
    this.#draws = draws
  }

  add(item: Recomputed): void {
    const original = this.#items[this.#next++]
    if (original === undefined) return
    if (original.name !== item.name) throw diverged(original.name, item.name)
    original.takeFrom(item)
  }

  draw<T>(): T {
    if (this.#nextDraw === this.#draws.length) throw diverged('no draw', 'one more')
    return this.#draws[this.#nextDraw++] as T
  }

  note(): void {
    if (this.#next >= this.#items.length) throw new Enough()
  }

  endsWith(name: string): boolean {
    return this.#next === this.#items.length - 1 && this.#items[this.#next]?.name === name
  }

  finish(): void {
    if (this.#next < this.#items.length) throw diverged(this.#items[this.#next]?.name ?? '', 'nothing')
  }
}

/** A tensor given to a region: its values, and whether a gradient goes to it. */
class RegionInput {
  readonly saved: SavedTensor
  readonly differentiable: boolean

  constructor(tensor: Tensor, held: boolean) {
    tensor.check('checkpoint')
    this.saved = new SavedTensor(tensor, held ? 'held' : 'recomputed')
    this.differentiable = tensor.node !== null
  }
}

/** A handle in the scope of the second run. Its node only makes ops record as they did. */
function restored(input: unknown): unknown {
  if (!(input instanceof RegionInput)) return input
  const { storage, shape, strides, offset, dtype } = input.saved
  storage.retain()
  const tensor = new Tensor(storage, shape, strides, offset, dtype)
  if (input.differentiable) tensor.setNode(new LeafNode(shape, dtype), 0)
  track(tensor)
  return tensor
}

function diverged(first: string, second: string): ValueError {
  return new ValueError(
    `checkpoint: the region did other work when it ran again for backward: ${first} before, ${second} ` +
      'now; what it does may depend on its inputs, on tensors and on drawOnce only',
  )
}

function explained(error: unknown): unknown {
  if (!(error instanceof DisposedError)) return error
  return new DisposedError(
    `${error.message}; a checkpoint region ran again for backward: what it uses must be among its ` +
      'inputs, or live until then',
    { cause: error },
  )
}
