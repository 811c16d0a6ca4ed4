// The engine: walks gradient nodes from the loss to the leaves, youngest first. A node is younger
// than those it depends on, so by then everything that flows into its outputs has arrived.

import { addInto } from '../ops/add-into.ts'
import { addOp } from '../ops/binary.ts'
import { cast, contiguousOp } from '../ops/copy.ts'
import { empty, full } from '../ops/create.ts'
import type { GradTarget } from '../ops/define.ts'
import { ShapeError, shapeError, ValueError } from '../runtime/errors.ts'
import type { Storage } from '../runtime/storage.ts'
import { gradientDType, itemSizes } from '../tensor/dtype.ts'
import { hooks } from '../tensor/hooks.ts'
import { sameShape } from '../tensor/layout.ts'
import { noGrad } from '../tensor/mode.ts'
import { type GradNode, type GradSink, LeafNode } from '../tensor/node.ts'
import { untracked } from '../tensor/ownership.ts'
import { unrecorded } from '../tensor/region.ts'
import { scope } from '../tensor/scope.ts'
import { aliasUntracked, Tensor, tracked } from '../tensor/tensor.ts'

/** Where a caller of `grad` wants the gradient caught: at an output of a node. */
interface Capture {
  readonly node: GradNode
  readonly index: number
  /** Owned; null until something arrives. */
  grad: Tensor | null
}

/** Nodes reachable from the roots, youngest first. Iterative: a graph may be deeper than the stack. */
function reachable(roots: readonly GradNode[]): GradNode[] {
  const seen = new Set<GradNode>(roots)
  const found = [...seen]
  for (let i = 0; i < found.length; i++) {
    for (const edge of (found[i] as GradNode).edges) {
      if (edge !== null && !seen.has(edge)) {
        seen.add(edge)
        found.push(edge)
      }
    }
  }
  return found.sort((a, b) => b.sequence - a.sequence)
}

class Engine implements GradSink {
  readonly #captures: readonly Capture[] | null
  /** Storages that the node which runs now adds to in place, by leaf: one node gets each only once. */
  readonly #targets = new Map<LeafNode, Storage>()
  /** Whether the gradient of a leaf has been written. */
  #accumulated = false

  /** With captures, leaves are left alone. */
  constructor(captures: readonly Capture[] | null) {
    this.#captures = captures
  }

  run(roots: readonly { readonly tensor: Tensor; readonly grad: Tensor }[]): void {
    const nodes = reachable(roots.map(({ tensor }) => tensor.node as GradNode))
    for (const node of nodes) {
      if (node.consumed) {
        throw new ValueError(
          `backward: what ${node.name} saved was released by an earlier backward through it; call the ops again`,
        )
      }
      node.checkSaved()
      if (node instanceof LeafNode && this.#captures === null) node.checkComplete('backward')
    }
    const device = roots[0]?.tensor.device
    device?.activeQueue.checkRoom() // the last moment to refuse: from here on gradients are added to
    if (device !== undefined) device.unbounded++
    try {
      for (const { tensor, grad } of roots) {
        const node = tensor.node as GradNode
        const asLeaf = node instanceof LeafNode && grad.dtype !== gradientDType(grad.dtype)
        const start = asLeaf ? cast(grad, gradientDType(grad.dtype)) : grad
        this.#arrive(node, tensor.outputIndex, aliasUntracked(start))
      }
      for (const node of nodes) this.#step(node)
    } catch (error) {
      if (this.#accumulated) {
        for (const node of nodes) if (node instanceof LeafNode) node.failure = error
      }
      throw error
    } finally {
      if (device !== undefined) device.unbounded--
      for (const node of nodes) dropIncoming(node)
    }
  }

  #step(node: GradNode): void {
    const { incoming } = node
    if (this.#captures !== null) this.#catch(node)
    if (node instanceof LeafNode) {
      if (incoming !== null && this.#captures === null) this.#accumulate(node, incoming)
    } else {
      if (incoming !== null) this.#propagate(node, incoming)
      node.consumed = true
      node.releaseSaved()
    }
    dropIncoming(node)
  }

  #catch(node: GradNode): void {
    for (const capture of this.#captures ?? []) {
      const grad = capture.node === node ? (node.incoming?.[capture.index] ?? null) : null
      if (grad !== null) capture.grad = aliasUntracked(grad)
    }
  }

  #propagate(node: GradNode, incoming: readonly (Tensor | null)[]): void {
    const { edges, outputIndices } = node
    const arriving = new Array<Tensor | null>(edges.length).fill(null)
    try {
      // The handles made here die with the scope; what arrives are handles of the engine's own, so
      // a storage with one holder afterwards is nobody else's.
      scope(() => {
        const grads = node.backward(incoming, this)
        for (let i = 0; i < edges.length; i++) {
          const grad = grads[i]
          if (edges[i] === null || !grad) continue
          const edge = edges[i] as GradNode
          // a target that was added to in place: nothing is left to deliver
          if (edge instanceof LeafNode && this.#targets.get(edge) === grad.storage) continue
          arriving[i] = this.#prepare(node, i, grad)
        }
      })
      this.#targets.clear()
      dropIncoming(node)
      for (let i = 0; i < edges.length; i++) {
        const grad = arriving[i]
        if (!grad) continue
        arriving[i] = null
        this.#arrive(edges[i] as GradNode, outputIndices[i] as number, grad)
      }
    } finally {
      for (const grad of arriving) grad?.dispose()
      this.#targets.clear()
    }
  }

  /** A handle of the engine's own, in the dtype that the input's gradient has. */
  #prepare(node: GradNode, input: number, grad: Tensor): Tensor {
    const edge = node.edges[input] as GradNode
    const meta = edge.outputMeta(node.outputIndices[input] as number)
    if (!sameShape(grad.shape, meta.shape)) {
      throw new ShapeError(
        `backward of ${node.name}: the gradient of input ${input} must be [${meta.shape}], received [${grad.shape}]`,
      )
    }
    const dtype = edge instanceof LeafNode ? gradientDType(meta.dtype) : meta.dtype
    return aliasUntracked(grad.dtype === dtype ? grad : cast(grad, dtype))
  }

  /** Takes over `grad`. */
  #arrive(node: GradNode, index: number, grad: Tensor): void {
    node.incoming ??= new Array<Tensor | null>(node.outputCount).fill(null)
    const earlier = node.incoming[index] ?? null
    if (earlier === null) {
      node.incoming[index] = grad
    } else if (isOwn(earlier)) {
      addInto(earlier, grad)
      grad.dispose()
    } else {
      node.incoming[index] = untracked(() => addOp([earlier, grad])[0])
      earlier.dispose()
      grad.dispose()
    }
  }

  #accumulate(leaf: LeafNode, incoming: (Tensor | null)[]): void {
    const grad = incoming[0] ?? null
    if (grad === null) return
    this.#accumulated = true
    if (leaf.grad !== null) {
      addInto(leaf.grad, grad)
    } else if (isOwn(grad) && grad.size * itemSizes[grad.dtype] === grad.storage.bytes) {
      incoming[0] = null
      leaf.grad = grad
    } else {
      leaf.grad = untracked(() => contiguousOp([grad])[0])
    }
  }

  gradTarget(node: GradNode, input: number, like: Tensor): GradTarget {
    const edge = node.edges[input] ?? null
    if (edge instanceof LeafNode && !this.#targets.has(edge)) {
      // What this or an earlier backward has gathered so far; several uses of a leaf share it.
      const pending = edge.incoming?.[0] ?? null
      const gathered = pending !== null && isOwn(pending) ? pending : null
      const target = this.#captures === null ? (edge.grad ?? gathered) : gathered
      if (target !== null) {
        if (target === edge.grad) this.#accumulated = true
        this.#targets.set(edge, target.storage)
        return { tensor: target, accumulate: true }
      }
    }
    const { shape, dtype, device } = like
    return { tensor: empty(shape, { dtype: gradientDType(dtype), device }), accumulate: false }
  }
}

/** Whether only the engine holds it, so that it may be written. */
function isOwn(grad: Tensor): boolean {
  return grad.isContiguous && grad.storage.holders === 1
}

function dropIncoming(node: GradNode): void {
  for (const grad of node.incoming ?? []) grad?.dispose()
  node.incoming = null
}

function rootsOf(
  op: string,
  outputs: readonly Tensor[],
  gradients: readonly (Tensor | null | undefined)[],
): { readonly tensor: Tensor; readonly grad: Tensor }[] {
  return outputs.map((tensor, i) => {
    tensor.check(op)
    if (!tensor.requiresGrad) {
      throw new ValueError(
        `${op}: ${tensor.toString()} was not computed from anything that requires a gradient`,
      )
    }
    const given = gradients[i] ?? null
    if (given === null) {
      if (tensor.size !== 1) {
        throw shapeError(op, 'a tensor that is no scalar', 'given with its gradient', tensor)
      }
      return { tensor, grad: full(tensor.shape, 1, { dtype: tensor.dtype, device: tensor.device }) }
    }
    given.check(op)
    if (!sameShape(given.shape, tensor.shape) || given.dtype !== tensor.dtype) {
      throw shapeError(
        op,
        'the gradient',
        `${tensor.dtype}[${tensor.shape}]`,
        `${given.dtype}[${given.shape}]`,
      )
    }
    return { tensor, grad: given }
  })
}

/**
 * Accumulates gradients of one or several tensors into the leaves they were computed from (`.grad`:
 * f32, f64 for f64 leaves) in one pass, releasing what was saved for it on the way.
 * @param gradients of the outputs, of their shapes and dtypes; 1 for a scalar when left out
 * @throws ValueError if an output requires no gradient, if part of the graph was consumed before, or
 *   if a saved tensor was modified in place, QueueFullError: then nothing has been accumulated. What a
 *   vjp or a checkpoint region throws comes later: `grad` of the leaves then throws
 *   IncompleteGradientError until it is set to null
 */
export function backward(
  outputs: Tensor | readonly Tensor[],
  gradients: Tensor | readonly (Tensor | null)[] = [],
): void {
  const list = outputs instanceof Tensor ? [outputs] : outputs
  const given = gradients instanceof Tensor ? [gradients] : gradients
  noGrad(() => unrecorded(() => scope(() => new Engine(null).run(rootsOf('backward', list, given)))))
}

/**
 * Gradients of outputs with respect to some tensors, leaves or not, without touching any `.grad`.
 * Consumes the graph as `backward` does.
 * @returns one per input, null where no output depends on it; f32 (f64) for leaves
 */
export function grad(
  outputs: Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  gradients: Tensor | readonly (Tensor | null)[] = [],
): (Tensor | null)[] {
  const list = outputs instanceof Tensor ? [outputs] : outputs
  const given = gradients instanceof Tensor ? [gradients] : gradients
  const captures = inputs.map((tensor): Capture => {
    tensor.check('grad')
    if (tensor.node === null) throw new ValueError(`grad: ${tensor.toString()} requires no gradient`)
    return { node: tensor.node, index: tensor.outputIndex, grad: null }
  })
  try {
    noGrad(() => unrecorded(() => scope(() => new Engine(captures).run(rootsOf('grad', list, given)))))
  } catch (error) {
    for (const capture of captures) capture.grad?.dispose()
    throw error
  }
  return captures.map((capture) => capture.grad && tracked(capture.grad))
}

hooks.backward = (loss, gradient) => backward(loss, gradient)
hooks.grad = grad
