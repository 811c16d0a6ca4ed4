import { shapeError } from '../runtime/errors.ts'
import type { DType } from '../tensor/dtype.ts'
import { normalAxis } from '../tensor/layout.ts'
import { mode } from '../tensor/mode.ts'
import { GradNode } from '../tensor/node.ts'
import { unwatch, watch } from '../tensor/ownership.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { concat } from './copy.ts'
import { full } from './create.ts'

/** Puts the gradients of the parts together in one pass; slices would each fill and add a whole one. */
class SplitNode extends GradNode {
  readonly name = 'split'
  readonly outputCount: number
  readonly #parts: readonly { readonly shape: readonly number[]; readonly dtype: DType }[]
  readonly #axis: number

  constructor(input: Tensor, parts: readonly Tensor[], axis: number) {
    super([input.node], [input.outputIndex])
    this.outputCount = parts.length
    this.#parts = parts.map(({ shape, dtype }) => ({ shape, dtype }))
    this.#axis = axis
  }

  override backward(grads: readonly (Tensor | null)[]): readonly (Tensor | null)[] {
    const device = grads.find((grad) => grad !== null)?.device
    if (device === undefined) return [null]
    const parts = this.#parts.map(({ shape, dtype }, i) => grads[i] ?? full(shape, 0, { dtype, device }))
    return [concat(parts, this.#axis)]
  }

  override outputMeta(index: number): { readonly shape: readonly number[]; readonly dtype: DType } {
    return this.#parts[index] as { shape: readonly number[]; dtype: DType }
  }

  override releaseSaved(): void {}
}

/**
 * Views of consecutive parts of an axis. No copy; the gradient is one tensor.
 * @param sizes of the parts, in order; they add up to the axis
 * @throws ShapeError
 */
export function split(x: Tensor, sizes: readonly number[], axis = -1): Tensor[] {
  x.check('split')
  const at = normalAxis('split', axis, x.rank)
  const total = sizes.reduce((sum, size) => sum + size, 0)
  if (total !== x.shape[at] || !sizes.every((size) => Number.isInteger(size) && size >= 0)) {
    throw shapeError('split', 'sizes', `whole numbers that add up to ${x.shape[at]}`, sizes)
  }
  const recording = mode.grad && x.node !== null
  const source = recording ? x.detach() : x
  let end = 0
  const parts = sizes.map((size) => {
    end += size
    return source.slice(at, end - size, end)
  })
  if (!recording) return parts
  source.dispose()
  const node = new SplitNode(x, parts, at)
  for (const [i, part] of parts.entries()) {
    const { watched } = part
    if (watched) unwatch(part) // its finalizer must release the node too
    part.setNode(node, i)
    if (watched) watch(part)
  }
  return parts
}
