import { ValueError } from '../runtime/errors.ts'
import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add, div, equal, mul, sub, where } from './binary.ts'
import { cast, concat } from './copy.ts'
import { full, iota } from './create.ts'
import { defineOp, shapeError, spec, type TensorMeta } from './define.ts'
import { max, sum } from './reduce.ts'
import { exp, log } from './unary.ts'

/** What is returned: one number, or a loss per label (zero where it is ignored). */
export type Reduction = 'mean' | 'sum' | 'none'

/** How a loss reads its labels and what it returns. */
export interface LossOptions {
  /**
   * Scalar f32 that losses are multiplied by, in place of what `reduction` says: 1 / the number of targets
   * of the whole batch, so that micro-batches add up. For 'mean' 1 / the number of targets of this call
   * when not said, else 1.
   */
  readonly scale?: Tensor | null
  /** Label of a position that is not counted; -100 when not said. */
  readonly ignoreIndex?: number
  /** 'mean' when not said. */
  readonly reduction?: Reduction
}

/** Terms beside -log p(label). */
export interface CrossEntropyOptions extends LossOptions {
  /** Weight of the uniform distribution over all classes, as PyTorch defines it; 0 when not said. */
  readonly labelSmoothing?: number
  /** Weight of (log Z)^2, which keeps logits near 0; 0 when not said. Source: Chowdhery et al. 2022 */
  readonly zLoss?: number
}

const REDUCTIONS: readonly Reduction[] = ['mean', 'sum', 'none']

/** The number that kernels know a reduction by. @throws ValueError */
export function reductionCode(op: string, reduction: Reduction): number {
  const code = REDUCTIONS.indexOf(reduction)
  if (code < 0) {
    throw new ValueError(`${op}: reduction must be one of ${REDUCTIONS.join(', ')}, received ${reduction}`)
  }
  return code
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
export function checkLossOptions(
  op: string,
  { scale, ignoreIndex, labelSmoothing, zLoss }: LossNumbers & { readonly scale: TensorMeta | null },
): void {
  if (scale !== null && scale.rank !== 0) throw shapeError(op, 'scale', 'a scalar', scale)
  if (!Number.isInteger(ignoreIndex) || ignoreIndex !== (ignoreIndex | 0)) {
    throw new ValueError(`${op}: ignoreIndex must be a 32-bit integer, received ${ignoreIndex}`)
  }
  if (!(labelSmoothing >= 0 && labelSmoothing <= 1)) {
    throw new ValueError(`${op}: labelSmoothing must be within [0, 1], received ${labelSmoothing}`)
  }
  if (!(zLoss >= 0 && zLoss < Infinity)) {
    throw new ValueError(`${op}: zLoss must be a number >= 0, received ${zLoss}`)
  }
}

interface LossNumbers {
  readonly ignoreIndex: number
  readonly labelSmoothing: number
  readonly zLoss: number
}

export interface ReferenceLoss extends LossNumbers {
  readonly labels: Tensor
  readonly scale: Tensor | null
  readonly shift: number
  readonly reduction: number
}

/** The shape of a loss. */
export function reducedShape(labels: TensorMeta, reduction: number): readonly number[] {
  return REDUCTIONS[reduction] === 'none' ? labels.shape : []
}

/** Labels as the loss reads them, one axis: shifted when asked. */
export function referenceTargets(labels: Tensor, shift: number, ignoreIndex: number): Tensor {
  const { device } = labels
  const axis = labels.rank - 1
  const end = shift ? full([...labels.shape.slice(0, -1), 1], ignoreIndex, { dtype: 'i32', device }) : null
  return (end ? concat([labels.slice(axis, 1), end], axis) : labels).reshape([-1])
}

/** Losses [rows] to what is returned: ignored rows count nothing. */
export function reduceLosses(losses: Tensor, targets: Tensor, options: ReferenceLoss): Tensor {
  const { labels, scale, ignoreIndex, reduction } = options
  const { device, dtype } = losses
  const ignored = equal(targets, ignoreIndex)
  const zero = full(targets.shape, 0, { dtype, device })
  const one = full([], 1, { dtype, device })
  const mean = REDUCTIONS[reduction] === 'mean'
  const factor = scale ? cast(scale, dtype) : mean ? div(one, sum(where(ignored, zero, one))) : one
  const counted = mul(where(ignored, zero, losses), factor)
  return REDUCTIONS[reduction] === 'none' ? counted.reshape(labels.shape) : sum(counted)
}

/** log of the sum of exponentials of rows [rows, V]: [rows]. */
export function referenceLogSum(rows: Tensor): Tensor {
  const top = max(rows, [-1], true).detach()
  return add(top, log(sum(exp(sub(rows, top)), [-1], true))).reshape([-1])
}

/** The definition of both losses, composed of primitives, from logits [..., V]. */
export function lossOfLogits(logits: Tensor, options: ReferenceLoss): Tensor {
  const { labels, ignoreIndex, shift, labelSmoothing, zLoss } = options
  const wide = logits.dtype === 'f64' ? 'f64' : 'f32'
  const { device } = logits
  const vocabulary = logits.shape.at(-1) ?? 0
  const l = cast(logits, wide).reshape([-1, vocabulary]) // (rows, V)
  const targets = referenceTargets(labels, shift, ignoreIndex)
  const logSum = referenceLogSum(l)
  const oneHot = cast(equal(iota(vocabulary, { device }), targets.unsqueeze(-1)), wide)
  const picked = sum(mul(l, oneHot), [-1])
  const smooth = mul(sum(l, [-1]), labelSmoothing / vocabulary)
  const losses = sub(sub(logSum, mul(picked, 1 - labelSmoothing)), smooth)
  return reduceLosses(add(losses, mul(mul(logSum, logSum), zLoss)), targets, options)
}

/** Gradient of `scale`: the sum of losses that it multiplied. */
export function scaleGradient(dloss: Tensor, loss: Tensor, scale: Tensor): Tensor {
  const each = mul(dloss, div(loss, scale))
  return each.rank === 0 ? each : sum(each)
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
  attributes: ['ignoreIndex', 'labelSmoothing', 'zLoss', 'shift', 'reduction'],
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
  attributes: ['ignoreIndex', 'labelSmoothing', 'zLoss', 'shift', 'reduction'],
  infer: ([logits, labels, scale], [ignoreIndex, labelSmoothing, zLoss, shift, reduction]) => {
    if (logits.rank < 1 || logits.shape.at(-1) === 0) {
      throw shapeError('crossEntropy', 'logits', '[..., V] with V > 0', logits)
    }
    checkLabels('crossEntropy', labels, logits, shift)
    checkLossOptions('crossEntropy', { scale, ignoreIndex, labelSmoothing, zLoss })
    return [
      spec(reducedShape(labels, reduction), logits.dtype === 'f64' ? 'f64' : 'f32'),
      spec(labels.shape, 'f32'),
      spec([], 'f32'),
    ]
  },
  reference: ([logits, labels, scale], [ignoreIndex, labelSmoothing, zLoss, shift, reduction]) => [
    lossOfLogits(logits, { labels, scale, ignoreIndex, labelSmoothing, zLoss, shift, reduction }),
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
 * Cross-entropy of dense logits; softmax and sum in float32.
 * @param logits [..., V] f32 | bf16
 * @param labels i32 [...]
 * @param options.shift predict the label one position later along the last axis of labels, the last
 *   position nothing; false
 * @returns f32: a scalar, the mean over targets; or by `reduction` the sum, or [...] like labels
 * @throws ShapeError, ValueError (when read) when every label of a mean is ignored, or for a label outside
 *   the vocabulary, naming its position
 */
export function crossEntropy(
  logits: Tensor,
  labels: Tensor,
  options: CrossEntropyOptions & { readonly shift?: boolean } = {},
): Tensor {
  const { scale = null, ignoreIndex = -100, labelSmoothing = 0, zLoss = 0, shift = false } = options
  const reduction = reductionCode('crossEntropy', options.reduction ?? 'mean')
  return crossEntropyOp([logits, labels, scale], [ignoreIndex, labelSmoothing, zLoss, shift, reduction])[0]
}
