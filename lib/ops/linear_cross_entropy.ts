import type { Tensor } from '../tensor/tensor.ts'
import { add } from './binary.ts'
import { cast } from './copy.ts'
import { fill } from './create.ts'
import {
  type CrossEntropyOptions,
  checkLabels,
  checkLossOptions,
  crossEntropy,
  lossOfLogits,
  reducedShape,
  reductionCode,
  scaleGradient,
} from './cross_entropy.ts'
import { defineOp, shapeError, spec, type TensorMeta } from './define.ts'
import { denseOperand, type LinearOperand, linear } from './linear.ts'
import { matmul } from './matmul.ts'

const logitWork = (h: TensorMeta, weight: TensorMeta): number =>
  2 * h.shape.reduce((n, d) => n * d, 1) * (weight.shape[0] ?? 0)

export const linearCrossEntropyBackwardOp = defineOp({
  name: 'linear_cross_entropy.backward',
  inputs: [
    { name: 'dloss', dtype: ['f32', 'f64'] },
    { name: 'h', dtype: 'float', layout: 'rows' },
    { name: 'weight', dtype: 'float', layout: 'rows' },
    { name: 'bias', dtype: 'float', mixed: true, optional: true },
    { name: 'labels', dtype: 'i32' },
    { name: 'lse', dtype: 'f32' },
    { name: 'scale', dtype: 'f32' },
    { name: 'dweight', dtype: ['f32', 'f64'], inPlace: true, optional: true }, // absent: frozen
    { name: 'dbias', dtype: ['f32', 'f64'], inPlace: true, optional: true },
  ],
  outputs: [{ name: 'dh' }],
  attributes: ['ignoreIndex', 'labelSmoothing', 'zLoss', 'shift', 'reduction', 'accumulate'],
  infer: ([, h]) => [spec(h.shape, h.dtype)],
  differentiable: false,
  reference: { gradientOf: 'linear_cross_entropy' },
  flops: ([, h, weight, , , , , dweight]) => (dweight ? 3 : 2) * logitWork(h, weight),
})

export const linearCrossEntropyOp = defineOp({
  name: 'linear_cross_entropy',
  inputs: [
    { name: 'h', dtype: 'float', layout: 'rows' },
    { name: 'weight', dtype: 'float', layout: 'rows' },
    { name: 'bias', dtype: 'float', mixed: true, optional: true },
    { name: 'labels', dtype: 'i32' },
    { name: 'scale', dtype: 'f32', optional: true },
  ],
  // factor: what the summed loss was multiplied by
  outputs: [{ name: 'loss' }, { name: 'lse', saved: true }, { name: 'factor', saved: true }],
  attributes: ['ignoreIndex', 'labelSmoothing', 'zLoss', 'shift', 'reduction'],
  infer: ([h, weight, bias, labels, scale], [ignoreIndex, labelSmoothing, zLoss, shift, reduction]) => {
    const name = 'linearCrossEntropy'
    if (h.rank < 1) throw shapeError(name, 'h', 'of rank 1 or more', h)
    if (weight.rank !== 2 || weight.shape[0] === 0 || weight.shape[1] !== h.shape.at(-1)) {
      throw shapeError(name, 'weight', `[V, ${h.shape.at(-1)}] to match h [${h.shape}]`, weight)
    }
    if (bias !== null && (bias.rank !== 1 || bias.shape[0] !== weight.shape[0])) {
      throw shapeError(name, 'bias', `[${weight.shape[0]}] to match weight [${weight.shape}]`, bias)
    }
    checkLabels(name, labels, h, shift)
    checkLossOptions(name, { scale, ignoreIndex, labelSmoothing, zLoss })
    return [
      spec(reducedShape(labels, reduction), h.dtype === 'f64' ? 'f64' : 'f32'),
      spec(labels.shape, 'f32'),
      spec([], 'f32'),
    ]
  },
  reference: ([h, weight, bias, labels, scale], [ignoreIndex, labelSmoothing, zLoss, shift, reduction]) => {
    const wide = h.dtype === 'f64' ? 'f64' : 'f32'
    const product = matmul(cast(h, wide).reshape([-1, h.shape.at(-1) ?? 0]), cast(weight, wide).transpose())
    const rows = bias ? add(product, cast(bias, wide)) : product
    const logits = rows.reshape([...labels.shape, weight.shape[0] ?? 0])
    const options = { labels, scale, ignoreIndex, labelSmoothing, zLoss, shift, reduction }
    return [lossOfLogits(logits, options), null, null]
  },
  saves: ['h', 'weight', 'bias', 'labels', 'loss', 'lse', 'factor'],
  vjp: (context) => {
    const { needs, gradTarget } = context
    const [h, weight, bias, labels] = context.inputs
    const [loss, lse, factor] = context.outputs
    const [dloss] = context.grads
    const dweight = needs(1) ? gradTarget(1) : null
    const dbias = bias !== null && needs(2) ? gradTarget(2) : null
    const targets = [dweight, dbias].filter((target) => target !== null)
    const accumulate = targets.some((target) => target.accumulate)
    // one flag serves both: a target that starts anew beside one that adds starts from zero
    for (const target of targets) if (accumulate && !target.accumulate) fill(target.tensor, 0)
    const [dh] = linearCrossEntropyBackwardOp(
      [dloss, h, weight, bias, labels, lse, factor, dweight?.tensor ?? null, dbias?.tensor ?? null],
      [...context.attributes, accumulate],
    )
    return [
      dh,
      dweight?.tensor ?? null,
      dbias?.tensor ?? null,
      null,
      needs(4) ? scaleGradient(dloss, loss, factor) : null,
    ]
  },
  flops: ([h, weight]) => logitWork(h, weight),
})

/**
 * Cross-entropy of the next token from hidden states, without the logits ever existing: float32
 * softmax over blocks of h W^T + b. By default position t predicts the label at t + 1 of the same row
 * and the last position nothing: labels are the input ids, shifted here and nowhere else.
 * @param h [..., D] f32 | bf16, usually [B, T, D]
 * @param operand weight [V, D] like h, its gradient is float32; bias [V]. With a low-rank term the logits do
 *   exist
 * @param labels i32 [...], usually [B, T]
 * @param options.shift false when labels are already those of the next position; true
 * @returns f32: a scalar, the mean over targets; or by `reduction` the sum, or [...] like labels, where
 *   the loss of the label at t + 1 stands at t
 * @throws ShapeError, ValueError (when read) when every label of a mean is ignored, or for a label outside
 *   the vocabulary, naming its position
 */
export function linearCrossEntropy(
  h: Tensor,
  operand: LinearOperand,
  labels: Tensor,
  options: CrossEntropyOptions & { readonly shift?: boolean } = {},
): Tensor {
  const { scale = null, ignoreIndex = -100, labelSmoothing = 0, zLoss = 0, shift = true } = options
  const reduction = reductionCode('linearCrossEntropy', options.reduction ?? 'mean')
  // the low-rank term of an output layer is rare: its logits are made
  if (operand.lora) return crossEntropy(linear(h, operand), labels, { ...options, shift })
  const { weight, bias = null } = denseOperand(operand, h.dtype)
  return linearCrossEntropyOp(
    [h, weight, bias, labels, scale],
    [ignoreIndex, labelSmoothing, zLoss, shift, reduction],
  )[0]
}
