import type { Device } from '../runtime/device.ts'
import { DisposedError, ShapeError, ValueError } from '../runtime/errors.ts'
import type { Storage } from '../runtime/storage.ts'
import {
  type DType,
  decodeValues,
  dtypeCodes,
  gradientDType,
  isFloat,
  itemSizes,
  type TensorData,
} from './dtype.ts'
import { hooks } from './hooks.ts'
import { elementCount, isContiguous, sameShape } from './layout.ts'
import { mode } from './mode.ts'
import { type GradNode, LeafNode, releaseNode } from './node.ts'
import { keep, track, unwatch } from './ownership.ts'
import * as views from './views.ts'

/**
 * A strided window into a buffer on a device. Its metadata lives here; its values are read with
 * `toArray` and `item`. Free it with `dispose()`, `using`, or the scope it was made in.
 */
export class Tensor {
  readonly shape: readonly number[]
  /** In elements. */
  readonly strides: readonly number[]
  /** In elements. */
  readonly offset: number
  readonly dtype: DType
  /** @internal */
  readonly dtypeCode: number
  /** True when rows lie one after another without gaps. */
  readonly isContiguous: boolean
  /** @internal */
  readonly storage: Storage
  /** @internal The node that made it, a LeafNode, or null when no gradient is wanted. */
  node: GradNode | null = null
  /** @internal Which output of `node` it is. */
  outputIndex = 0
  disposed = false
  /** @internal A finalizer is registered. */
  watched = false
  /** @internal No scope frees it. */
  kept = false
  /** @internal Mark of a scope that is being left. */
  returned = false
  /** @internal Why it cannot be used, for handles that never had values. */
  shapeOnly: string | null = null

  /** @internal Takes over one holder of `storage`. Use `tensor()`, `zeros()`, ... and ops. */
  constructor(
    storage: Storage,
    shape: readonly number[],
    strides: readonly number[],
    offset: number,
    dtype: DType,
  ) {
    this.storage = storage
    this.shape = shape
    this.strides = strides
    this.offset = offset
    this.dtype = dtype
    this.dtypeCode = dtypeCodes[dtype]
    this.isContiguous = isContiguous(shape, strides)
    storage.device.liveTensors++
  }

  get rank(): number {
    return this.shape.length
  }

  /** Number of elements. */
  get size(): number {
    return elementCount(this.shape)
  }

  get device(): Device {
    return this.storage.device
  }

  /** Whether backward computes a gradient for it, or through it. */
  get requiresGrad(): boolean {
    return this.node !== null
  }

  /**
   * Makes a tensor a leaf that collects gradients (and takes it out of its scope), or stops that.
   * @throws ValueError if it was computed from tensors that require a gradient, or is not float
   */
  set requiresGrad(wanted: boolean) {
    this.check('requiresGrad')
    if (this.node !== null && !(this.node instanceof LeafNode)) {
      throw new ValueError('requiresGrad: only leaves can be changed; use detach() first')
    }
    if (wanted === (this.node !== null)) return
    if (wanted) {
      if (!isFloat(this.dtype)) {
        throw new ValueError(`requiresGrad: only float tensors have gradients, this is ${this.dtype}`)
      }
      if (this.watched) unwatch(this) // its finalizer must release the new node too
      this.setNode(new LeafNode(this.shape, this.dtype), 0)
      keep(this)
    } else {
      const node = this.node as LeafNode
      if (this.watched) unwatch(this)
      this.node = null
      releaseNode(node)
      this.kept = false
      keep(this)
    }
  }

  /** True for tensors that were not computed from tensors that require a gradient. */
  get isLeaf(): boolean {
    return this.node === null || this.node instanceof LeafNode
  }

  /**
   * The gradient that backward accumulated here: f32, or f64 for f64 leaves. Null on non-leaves.
   * @throws IncompleteGradientError when a backward failed half-way; until it is set, to null say
   */
  get grad(): Tensor | null {
    if (!(this.node instanceof LeafNode)) return null
    this.node.checkComplete('grad')
    return this.node.grad
  }

  /** Setting null frees it; a tensor given is owned by the leaf from then on. */
  set grad(grad: Tensor | null) {
    const node = this.node
    if (!(node instanceof LeafNode)) throw new ValueError('grad: only leaves have one')
    node.failure = null
    if (grad === node.grad) return
    if (grad !== null) {
      grad.check('grad')
      const dtype = gradientDType(this.dtype)
      if (!sameShape(grad.shape, this.shape) || grad.dtype !== dtype || !grad.isContiguous) {
        throw new ShapeError(
          `grad: must be a contiguous ${dtype}[${this.shape}], received ${grad.dtype}[${grad.shape}]`,
        )
      }
      keep(grad)
    }
    node.grad?.dispose()
    node.grad = grad
  }

  /** Frees the handle; the buffer goes with its last holder. Harmless when repeated. */
  dispose(): void {
    if (this.disposed) return
    this.disposed = true
    if (this.watched) unwatch(this)
    this.storage.device.liveTensors--
    const node = this.node
    if (node !== null) {
      if (!(node instanceof LeafNode)) this.node = null
      releaseNode(node)
    }
    this.storage.release()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /** @internal @throws DisposedError */
  check(op: string): void {
    if (!this.disposed) return
    throw new DisposedError(
      this.shapeOnly ?? `${op}: tensor ${this.dtype}[${this.shape}] was used after it was disposed`,
    )
  }

  /** @internal Turns a fresh handle into one that has no values: `why` is what its use throws. */
  makeShapeOnly(why: string): void {
    this.shapeOnly = why
    this.disposed = true
    this.storage.device.liveTensors--
  }

  /** @internal */
  setNode(node: GradNode, outputIndex: number): void {
    this.node = node
    this.outputIndex = outputIndex
    node.holders++
  }

  /**
   * The values in row-major order, once all work enqueued before has run. bf16 becomes float32.
   * @throws (rejects) what made the values fail: OutOfMemoryError, AbortError, ...
   */
  async toArray(): Promise<TensorData> {
    this.check('toArray')
    const dense = this.isContiguous ? this : hooks.contiguous(this)
    const bytes = itemSizes[this.dtype]
    const done = dense.storage.readQueue.read(dense.storage, dense.offset * bytes, this.size * bytes)
    if (dense !== this) dense.dispose()
    return decodeValues(await done, this.dtype)
  }

  /**
   * The value of a tensor of one element.
   * @throws ShapeError (rejects) if it has another number of elements
   */
  async item(): Promise<number> {
    if (this.size !== 1) throw new ShapeError(`item: needs one element, received [${this.shape}]`)
    return (await this.toArray())[0] as number
  }

  /** This tensor, or a differentiable copy in another dtype. Floats become integers by truncation. */
  to(dtype: DType): Tensor {
    return dtype === this.dtype ? this : hooks.cast(this, dtype)
  }

  /** A view of the same values that no gradient flows through. */
  detach(): Tensor {
    this.check('detach')
    return tracked(aliasUntracked(this))
  }

  /** The same elements in another shape (one axis may be -1). Copies only if strides allow no view. */
  reshape(shape: readonly number[]): Tensor {
    const view = views.reshape(this, shape)
    if (view !== null) return this.#view(view)
    const dense = hooks.contiguous(this)
    const y = dense.reshape(shape)
    dense.dispose()
    return y
  }

  /** Swaps two axes; the last two when not said. No copy. */
  transpose(a = -2, b = -1): Tensor {
    return this.#view(views.transpose(this, a, b))
  }

  /** Axis i of the result is axis `axes[i]` of this. No copy. */
  permute(axes: readonly number[]): Tensor {
    return this.#view(views.permute(this, axes))
  }

  /** Elements start, start + step, ... before end of an axis; negative indices count from its end. No copy. */
  slice(axis: number, start: number, end?: number, step = 1): Tensor {
    return this.#view(views.slice(this, axis, start, end, step))
  }

  /** Repeats axes of size 1, and adds axes in front, as NumPy broadcasts. No copy. */
  expand(shape: readonly number[]): Tensor {
    return this.#view(views.expand(this, shape.slice()))
  }

  /** Drops an axis of size 1, or all of them. No copy. */
  squeeze(axis?: number): Tensor {
    return this.reshape(views.squeezed(this, axis))
  }

  /** Adds an axis of size 1 before `axis`. No copy. */
  unsqueeze(axis: number): Tensor {
    return this.reshape(views.unsqueezed(this, axis))
  }

  /**
   * Accumulates the gradient of this scalar into the leaves it was computed from, and releases what
   * was saved for it on the way. `gradient` (of this shape) is asked for when it is no scalar.
   * @throws ValueError if it requires no gradient, if part of the graph was consumed before, or if a
   *   saved tensor was modified in place
   */
  backward(gradient?: Tensor): void {
    hooks.backward(this, gradient)
  }

  #view({ name, shape, strides, offset, undo }: views.ViewSpec): Tensor {
    this.storage.retain()
    const y = new Tensor(this.storage, shape, strides, offset, this.dtype)
    if (mode.grad && this.node !== null) y.setNode(new views.ViewNode(name, this, y, undo), 0)
    return tracked(y)
  }

  toString(): string {
    const grad = this.node === null ? '' : `, ${this.node.name}`
    return `Tensor(${this.dtype}[${this.shape}]${grad}${this.disposed ? ', disposed' : ''})`
  }

  /** What console.log shows: its values are on the device. */
  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return this.toString()
  }
}

/** @internal A second handle on the window of `tensor`, without a node and in no scope. */
export function aliasUntracked(tensor: Tensor): Tensor {
  const { storage, shape, strides, offset, dtype } = tensor
  storage.retain()
  return new Tensor(storage, shape, strides, offset, dtype)
}

/** @internal */
export function tracked(tensor: Tensor): Tensor {
  track(tensor)
  return tensor
}
