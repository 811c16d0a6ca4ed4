// Gradient nodes. There is no tape: a node hangs off the tensors its op made, and off the nodes that
// consumed them; when the last of these goes, the node goes and releases what it saved.

import { IncompleteGradientError, ValueError } from '../runtime/errors.ts'
import type { Storage } from '../runtime/storage.ts'
import type { DType } from './dtype.ts'
import type { Tensor } from './tensor.ts'

let sequence = 0

/** What a node asks of the engine that runs it. */
export interface GradSink {
  /** See VjpContext.gradTarget. */
  gradTarget(
    node: GradNode,
    input: number,
    like: Tensor,
  ): { readonly tensor: Tensor; readonly accumulate: boolean }
}

export abstract class GradNode {
  /** Creation order. A node is always younger than those it depends on. */
  readonly sequence = ++sequence
  /** Output handles, and edges of nodes that consumed an output. */
  holders = 0
  consumed = false
  /** Gradients that arrived, by output; only while a backward runs. */
  incoming: (Tensor | null)[] | null = null
  /** Per input: the node that made it, or null where no gradient goes. */
  readonly edges: readonly (GradNode | null)[]
  /** Per input: which output of `edges[i]` it is. */
  readonly outputIndices: readonly number[]

  constructor(edges: readonly (GradNode | null)[], outputIndices: readonly number[]) {
    this.edges = edges
    this.outputIndices = outputIndices
    for (const edge of edges) if (edge !== null) edge.holders++
  }

  abstract readonly name: string
  abstract readonly outputCount: number
  /** Gradients per input, in a fresh scope and without recording. */
  abstract backward(grads: readonly (Tensor | null)[], sink: GradSink): readonly (Tensor | null)[]
  /** Shape and dtype of an output: what its gradient must have. */
  abstract outputMeta(index: number): { readonly shape: readonly number[]; readonly dtype: DType }
  /** @throws ValueError if something saved was written since */
  checkSaved(): void {}
  /** Lets go of what backward needs. */
  abstract releaseSaved(): void
}

/** Drops one holder. Iterative: a graph may be deeper than the stack. */
export function releaseNode(first: GradNode): void {
  const stack = [first]
  for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
    if (--node.holders > 0) continue
    node.releaseSaved()
    for (const edge of node.edges) if (edge !== null) stack.push(edge)
  }
}

/** A leaf: where gradients are accumulated. */
export class LeafNode extends GradNode {
  readonly name = 'leaf'
  readonly outputCount = 1
  grad: Tensor | null = null
  /** What ended a backward that had begun to accumulate: `grad` is neither the old nor the new one. */
  failure: unknown = null
  readonly shape: readonly number[]
  readonly dtype: DType

  constructor(shape: readonly number[], dtype: DType) {
    super([], [])
    this.shape = shape
    this.dtype = dtype
  }

  override backward(): readonly (Tensor | null)[] {
    return []
  }

  /** @throws IncompleteGradientError */
  checkComplete(op: string): void {
    if (this.failure === null) return
    throw new IncompleteGradientError(
      `${op}: the gradient of ${this.dtype}[${this.shape}] is incomplete, a backward failed on its way ` +
        `(${String(this.failure)}); set grad of all its leaves to null, or call optimizer.zeroGrad()`,
      { cause: this.failure },
    )
  }

  override outputMeta(): { readonly shape: readonly number[]; readonly dtype: DType } {
    return this
  }

  override releaseSaved(): void {
    this.grad?.dispose()
    this.grad = null
  }
}

/** `held`; `shape`: the values are never read; `recomputed`: a checkpoint region brings them again. */
export type SavedKind = 'held' | 'shape' | 'recomputed'

/** A tensor as a node keeps it: its own hold on the storage, so that the handle may go. */
export class SavedTensor {
  readonly storage: Storage
  readonly shape: readonly number[]
  readonly strides: readonly number[]
  readonly offset: number
  readonly dtype: DType
  readonly version: number
  /** False: nothing is held; see `kind`. */
  held: boolean
  readonly #kind: SavedKind

  constructor(tensor: Tensor, kind: SavedKind) {
    this.storage = tensor.storage
    this.shape = tensor.shape
    this.strides = tensor.strides
    this.offset = tensor.offset
    this.dtype = tensor.dtype
    this.version = tensor.storage.version
    this.held = kind === 'held'
    this.#kind = kind
    if (this.held) tensor.storage.retain()
  }

  release(): void {
    if (!this.held) return
    this.held = false
    this.storage.release()
  }

  /** @throws ValueError if the storage was written after it was saved */
  checkVersion(node: string, name: string): void {
    const counts = this.held || (this.#kind === 'recomputed' && !this.storage.freed)
    if (counts && this.storage.version !== this.version) {
      throw new ValueError(
        `backward of ${node}: ${name} ${this.dtype}[${this.shape}] was modified in place after it was ` +
          `saved (version ${this.storage.version}, saved at ${this.version}); run backward first, or ` +
          'write to a copy',
      )
    }
  }
}
