import { ValueError } from '../runtime/errors.ts'
import { sameShape } from '../tensor/layout.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add, div, equal, mul, sub } from './binary.ts'
import { cast } from './copy.ts'
import { iota } from './create.ts'
import {
  checkLabels,
  checkLossOptions,
  type LossOptions,
  reducedShape,
  reduceLosses,
  reductionCode,
  referenceLogSum,
  referenceTargets,
  scaleGradient,
} from './cross_entropy.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { sum } from './reduce.ts'
import { exp } from './unary.ts'

const NAME = 'distillationLoss'

export const distillationLossBackwardOp = defineOp({
  name: 'distillation_loss.backward',
  inputs: [
    { name: 'dloss', dtype: ['f32', 'f64'] },
    { name: 'logits', dtype: 'float' },
    { name: 'teacher', dtype: 'float', mixed: true },
    { name: 'labels', dtype: 'i32' },
    { name: 'lse', dtype: 'f32' },
    { name: 'scale', dtype: 'f32' },
  ],
  outputs: [{ name: 'dlogits' }],
  attributes: ['temperature', 'alpha', 'ignoreIndex', 'shift', 'reduction'],
  infer: ([, logits]) => [spec(logits.shape, logits.dtype)],
  differentiable: false,
  reference: { gradientOf: 'distillation_loss' },
})

export const distillationLossOp = defineOp({
  name: 'distillation_loss',
  inputs: [
    { name: 'logits', dtype: 'float' },
    { name: 'teacher', dtype: 'float', mixed: true, constant: true },
    { name: 'labels', dtype: 'i32' },
    { name: 'scale', dtype: 'f32', optional: true },
  ],
  // lse: of the student, of the student and of the teacher at the temperature; factor: what the summed
  // loss was multiplied by
  outputs: [{ name: 'loss' }, { name: 'lse', saved: true }, { name: 'factor', saved: true }],
  attributes: ['temperature', 'alpha', 'ignoreIndex', 'shift', 'reduction'],
  infer: ([logits, teacher, labels, scale], [temperature, alpha, ignoreIndex, shift, reduction]) => {
    if (logits.rank < 1 || logits.shape.at(-1) === 0) {
      throw shapeError(NAME, 'logits', '[..., V] with V > 0', logits)
    }
    if (!sameShape(teacher.shape, logits.shape)) {
      throw shapeError(NAME, 'teacher', `[${logits.shape}], like logits`, teacher)
    }
    checkLabels(NAME, labels, logits, shift)
    checkLossOptions(NAME, { scale, ignoreIndex, labelSmoothing: 0, zLoss: 0 })
    if (!(temperature > 0 && temperature < Infinity)) {
      throw new ValueError(`${NAME}: temperature must be positive and finite, received ${temperature}`)
    }
    if (!(alpha >= 0 && alpha <= 1)) {
      throw new ValueError(`${NAME}: alpha must be within [0, 1], received ${alpha}`)
    }
    return [
      spec(reducedShape(labels, reduction), logits.dtype === 'f64' ? 'f64' : 'f32'),
      spec([...labels.shape, 3], 'f32'),
      spec([], 'f32'),
    ]
  },
  reference: ([logits, teacher, labels, scale], [temperature, alpha, ignoreIndex, shift, reduction]) => {
    const wide = logits.dtype === 'f64' ? 'f64' : 'f32'
    const { device } = logits
    const vocabulary = logits.shape.at(-1) ?? 0
    const rows = (x: Tensor): Tensor => cast(x, wide).reshape([-1, vocabulary])
    const logSoftmax = (x: Tensor): Tensor => sub(x, referenceLogSum(x).unsqueeze(-1))
    const student = rows(logits)
    const targets = referenceTargets(labels, shift, ignoreIndex)
    const oneHot = cast(equal(iota(vocabulary, { device }), targets.unsqueeze(-1)), wide)
    const hard = sub(referenceLogSum(student), sum(mul(student, oneHot), [-1]))
    const q = logSoftmax(div(rows(teacher), temperature))
    const p = logSoftmax(div(student, temperature))
    const soft = sum(mul(exp(q), sub(q, p)), [-1])
    const losses = add(mul(soft, alpha * temperature * temperature), mul(hard, 1 - alpha))
    const options = { labels, scale, ignoreIndex, labelSmoothing: 0, zLoss: 0, shift, reduction }
    return [reduceLosses(losses, targets, options), null, null]
  },
  saves: ['logits', 'teacher', 'labels', 'loss', 'lse', 'factor'],
  vjp: ({ inputs, outputs: [loss, lse, factor], attributes, grads: [dloss], needs }) => {
    const [logits, teacher, labels] = inputs
    return [
      ...distillationLossBackwardOp([dloss, logits, teacher, labels, lse, factor], attributes),
      null,
      null,
      needs(3) ? scaleGradient(dloss, loss, factor) : null,
    ]
  },
})

export interface DistillationOptions extends LossOptions {
  /** Softens both distributions of the divergence; 2 when not said. */
  readonly temperature?: number
  /** Weight of the divergence; the labels get the rest. 0.5 when not said. */
  readonly alpha?: number
  /** Predict the label one position later, as `crossEntropy`; false when not said. */
  readonly shift?: boolean
}

/**
 * Knowledge distillation: alpha T^2 KL(teacher || student), both at temperature T, and (1 - alpha) the
 * cross-entropy of the labels; float32. T^2 keeps gradients of one size at any temperature. A position
 * whose label is ignored counts in neither, and the mean is over the others (PyTorch's 'batchmean').
 * @param logits [..., V] f32 | bf16, the student's
 * @param teacher like logits, f32 | bf16; takes no gradient
 * @param labels i32 [...]
 * @returns f32: a scalar, or by `reduction` [...] like labels
 * @throws ShapeError, ValueError (when read) as crossEntropy; ValueError for a temperature that is not
 *   positive, alpha outside [0, 1], or a teacher that requires a gradient
 * Source: Hinton et al. 2015
 */
export function distillationLoss(
  logits: Tensor,
  teacher: Tensor,
  labels: Tensor,
  options: DistillationOptions = {},
): Tensor {
  const { scale = null, ignoreIndex = -100, temperature = 2, alpha = 0.5, shift = false } = options
  const reduction = reductionCode(NAME, options.reduction ?? 'mean')
  return distillationLossOp(
    [logits, teacher, labels, scale],
    [temperature, alpha, ignoreIndex, shift, reduction],
  )[0]
}
