import { ValueError } from '../runtime/errors.ts'
import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add, div, equal, mul, sub, where } from './binary.ts'
import { cast, concat } from './copy.ts'
import { full, iota } from './create.ts'
import { defineOp, shapeError, spec, type TensorMeta } from './define.ts'
import { max, sum } from './reduce.ts'
import { exp, log } from './unary.ts'

/** How a loss reads its labels. */
export interface LossOptions {
  /**
   * Scalar f32 that the summed loss is multiplied by: 1 / the number of targets of the whole batch,
   * so that micro-batches add up. 1 / the number of targets of this call when not said.
   */
  readonly scale?: Tensor | null
  /** Label of a position that is not counted; -100 when not said. */
  readonly ignoreIndex?: number
}

/** Checks labels [..] against the leading axes of logits or hidden states. */
export function checkLabels(op: string, labels: TensorMeta, like: TensorMeta, shift: number): void {
  const expected = like.shape.slice(0, -1)
  if (!sameShape(labels.shape, expected)) {
    throw shapeError(op, 'labels', `[${expected}], one per position`, labels)
  }
  if (shift && labels.rank === 0) throw shapeError(op, 'labels', 'of rank 1 or more to be shifted', labels)
}

/** @throws ShapeError, ValueError */
export function checkLossOptions(op: string, scale: TensorMeta | null, ignoreIndex: number): void {
  if (scale !== null && scale.rank !== 0) throw shapeError(op, 'scale', 'a scalar', scale)
  if (!Number.isInteger(ignoreIndex) || ignoreIndex !== (ignoreIndex | 0)) {
    throw new ValueError(`${op}: ignoreIndex must be a 32-bit integer, received ${ignoreIndex}`)
  }
}

export interface ReferenceLoss {
  readonly labels: Tensor
  readonly scale: Tensor | null
  readonly ignoreIndex: number
  readonly shift: number
  readonly labelSmoothing: number
}

/** The definition of both losses, composed of primitives: the scalar loss of logits [..., V]. */
export function lossOfLogits(logits: Tensor, options: ReferenceLoss): Tensor {
  const { labels, scale, ignoreIndex, shift, labelSmoothing } = options
  const wide = logits.dtype === 'f64' ? 'f64' : 'f32'
  const { device } = logits
  const vocabulary = logits.shape.at(-1) ?? 0
  const l = cast(logits, wide).reshape([-1, vocabulary]) // (rows, V)
  const axis = labels.rank - 1
  const end = shift ? full([...labels.shape.slice(0, -1), 1], ignoreIndex, { dtype: 'i32', device }) : null
  const shifted = end ? concat([labels.slice(axis, 1), end], axis) : labels
  const targets = shifted.reshape([-1])
  const ignored = equal(targets, ignoreIndex)
  const top = max(l, [-1], true).detach()
  const logSum = add(top, log(sum(exp(sub(l, top)), [-1], true))).reshape([-1])
  const oneHot = cast(equal(iota(vocabulary, { device }), targets.unsqueeze(-1)), wide)
  const picked = sum(mul(l, oneHot), [-1])
  const smooth = mul(sum(l, [-1]), labelSmoothing / vocabulary)
  const losses = sub(sub(logSum, mul(picked, 1 - labelSmoothing)), smooth)
  const zero = full(targets.shape, 0, { dtype: wide, device })
  const one = full([], 1, { dtype: wide, device })
  const factor = scale ? cast(scale, wide) : div(one, sum(where(ignored, zero, one)))
  return mul(sum(where(ignored, zero, losses)), factor)
}

/** Gradient of `scale`: the sum of losses that it multiplied. */
export function scaleGradient(dloss: Tensor, loss: Tensor, scale: Tensor): Tensor {
  return mul(dloss, div(loss, scale))
}

export const crossEntropyBackwardOp = defineOp({
  name: 'cross_entropy.backward',
  inputs: [
    { name: 'dloss', dtype: ['f32', 'f64'] },
    { name: 'logits', dtype: 'float' },
    { name: 'labels', dtype: 'i32' },
    { name: 'lse', dtype: 'f32' },
    { name: 'scale', dtype: 'f32' },
  ],
  outputs: [{ name: 'dlogits' }],
  attributes: ['ignoreIndex', 'labelSmoothing', 'shift'],
  infer: ([, logits]) => [spec(logits.shape, logits.dtype)],
  differentiable: false,
  reference: { gradientOf: 'cross_entropy' },
})

export const crossEntropyOp = defineOp({
  name: 'cross_entropy',
  inputs: [
    { name: 'logits', dtype: 'float' },
    { name: 'labels', dtype: 'i32' },
    { name: 'scale', dtype: 'f32', optional: true },
  ],
  // factor: what the summed loss was multiplied by
  outputs: [{ name: 'loss' }, { name: 'lse', saved: true }, { name: 'factor', saved: true }],
  attributes: ['ignoreIndex', 'labelSmoothing', 'shift'],
  infer: ([logits, labels, scale], [ignoreIndex, labelSmoothing, shift]) => {
    if (logits.rank < 1 || logits.shape.at(-1) === 0) {
      throw shapeError('crossEntropy', 'logits', '[..., V] with V > 0', logits)
    }
    checkLabels('crossEntropy', labels, logits, shift)
    checkLossOptions('crossEntropy', scale, ignoreIndex)
    if (!(labelSmoothing >= 0 && labelSmoothing <= 1)) {
      throw new ValueError(`crossEntropy: labelSmoothing must be within [0, 1], received ${labelSmoothing}`)
    }
    return [spec([], logits.dtype === 'f64' ? 'f64' : 'f32'), spec(labels.shape, 'f32'), spec([], 'f32')]
  },
  reference: ([logits, labels, scale], [ignoreIndex, labelSmoothing, shift]) => [
    lossOfLogits(logits, { labels, scale, ignoreIndex, labelSmoothing, shift }),
    null,
    null,
  ],
  saves: ['logits', 'labels', 'loss', 'lse', 'factor'],
  vjp: ({ inputs: [logits, labels], outputs: [loss, lse, factor], attributes, grads: [dloss], needs }) => [
    ...crossEntropyBackwardOp([dloss, logits, labels, lse, factor], attributes),
    null,
    needs(2) ? scaleGradient(dloss, loss, factor) : null,
  ],
})

/**
 * Mean cross-entropy of dense logits; softmax and sum in float32.
 * @param logits [..., V] f32 | bf16
 * @param labels i32 [...]
 * @param options.labelSmoothing weight of the uniform distribution, as PyTorch defines it; 0
 * @param options.shift predict the label one position later along the last axis of labels, the last
 *   position nothing; false
 * @returns scalar f32
 * @throws ShapeError; ValueError (when read) when every label is ignored, or for a label outside the
 *   vocabulary, naming its position
 */
export function crossEntropy(
  logits: Tensor,
  labels: Tensor,
  options: LossOptions & { readonly labelSmoothing?: number; readonly shift?: boolean } = {},
): Tensor {
  const { scale = null, ignoreIndex = -100, labelSmoothing = 0, shift = false } = options
  return crossEntropyOp([logits, labels, scale], [ignoreIndex, labelSmoothing, shift])[0]
}
