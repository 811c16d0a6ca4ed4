import { linearCrossEntropyBackwardOp, linearCrossEntropyOp } from '../../lib/ops/linear_cross_entropy.ts'
import { defineCases } from './cases.ts'

const [MEAN, SUM, NONE] = [0, 1, 2]
const next = { ignoreIndex: -100, labelSmoothing: 0, zLoss: 0, shift: true, reduction: MEAN }
/** Labels in [0, v), every fifth one `ignore`. */
const some = (shape: readonly number[], v: number, ignore = -100) => ({
  shape,
  fill: { from: (i: number) => (i % 5 === 3 ? ignore : (i * 7 + 2) % v) },
})
// Gradients of logits travel in bf16: 2^-9 of each goes into sums that nearly cancel. PyTorch's own bf16
// error on these shapes is 2e-3 to 8e-3, and 6e-4 on that of several blocks.
const tolerance = {
  f32: { rtol: 1e-5, atol: 1e-5, reason: 'exp and float32 sums over D and V' },
  bf16: {
    rtol: 1.6e-2,
    atol: 2e-3,
    reason: 'logit gradients in bf16, summed over V: less than PyTorch is off',
  },
}
const blocks = {
  f32: tolerance.f32,
  bf16: {
    rtol: 1.6e-2,
    atol: 6e-4,
    reason: 'logit gradients in bf16, summed over V: as far as PyTorch is off',
  },
}
const unscaled = {
  f32: tolerance.f32,
  bf16: { rtol: 1.6e-2, atol: 6e-3, reason: 'logit gradients in bf16, not divided by 7 targets' },
}

/** Exact in bf16, so that the log-sums of rows, which the backward is given, are those of its logits. */
const eighths = (i: number, step: number): number => (((i * step) % 31) - 15) / 8
const dot = (row: number, v: number, d: number): number[] =>
  Array.from({ length: v }, (_, j) =>
    Array.from({ length: d }, (_, k) => eighths(row * d + k, 37) * eighths(j * d + k, 23)).reduce(
      (a, b) => a + b,
      0,
    ),
  )
const logSum = (row: readonly number[]): number => {
  const top = Math.max(...row)
  return top + Math.log(row.reduce((sum, x) => sum + Math.exp(x - top), 0))
}

const forward = defineCases(linearCrossEntropyOp, {
  cases: [
    ...[1, 15, 17, 31, 33, 63, 65, 127].map((v, i) => ({
      name: `V ${v}`,
      inputs: { h: [2, 4, 8 + i], weight: [v, 8 + i], labels: some([2, 4], v) },
      attributes: next,
      tolerance,
    })),
    {
      name: 'bias, not shifted',
      inputs: { h: [11, 33], weight: [40, 33], bias: [40], labels: some([11], 40) },
      attributes: { ...next, shift: false },
      tolerance,
    },
    ...[0.1, 1].map((labelSmoothing) => ({
      name: `label smoothing ${labelSmoothing}, z loss`,
      inputs: { h: [2, 7, 20], weight: [600, 20], labels: some([2, 7], 600) },
      attributes: { ...next, labelSmoothing, zLoss: 0.01 },
      tolerance,
      noFiniteDifferences: 'too large',
    })),
    {
      name: 'label smoothing, z loss, bias',
      inputs: { h: [2, 5, 12], weight: [33, 12], bias: [33], labels: some([2, 5], 33) },
      attributes: { ...next, labelSmoothing: 0.2, zLoss: 0.01 },
      tolerance,
    },
    {
      name: 'sum',
      inputs: { h: [2, 4, 9], weight: [21, 9], labels: some([2, 4], 21) },
      attributes: { ...next, reduction: SUM },
      tolerance: unscaled,
    },
    {
      name: 'a loss per label',
      inputs: { h: [3, 5, 10], weight: [33, 10], labels: some([3, 5], 33) },
      attributes: { ...next, reduction: NONE, labelSmoothing: 0.1 },
      tolerance: unscaled,
    },
    {
      name: 'a loss per label, all ignored',
      inputs: { h: [3, 8], weight: [20, 8], labels: { shape: [3], fill: { values: [-100] } } },
      attributes: { ...next, reduction: NONE, shift: false },
    },
    {
      name: 'one token a row but for one',
      inputs: { h: [1, 2, 8], weight: [9, 8], labels: { shape: [1, 2], fill: { values: [4, 5] } } },
      attributes: next,
      tolerance,
    },
    {
      name: 'scale, another ignoreIndex',
      inputs: {
        h: [3, 5, 17],
        weight: [20, 17],
        labels: some([3, 5], 20, 0),
        scale: { shape: [], fill: { values: [0.125] } },
      },
      attributes: { ...next, ignoreIndex: 0 },
      tolerance,
    },
    {
      name: 'scale, all ignored',
      inputs: {
        h: [2, 3, 8],
        weight: [20, 8],
        labels: { shape: [2, 3], fill: { values: [-100] } },
        scale: { shape: [], fill: { values: [0.5] } },
      },
      attributes: next,
    },
    {
      name: 'rows view',
      inputs: {
        h: { shape: [2, 7, 31], strides: 'padded' },
        weight: [65, 31],
        labels: some([2, 7], 65),
      },
      attributes: next,
      tolerance,
    },
    {
      name: 'several blocks of the vocabulary',
      inputs: { h: [2, 70, 24], weight: [1100, 24], labels: some([2, 70], 1100) },
      attributes: next,
      tolerance: blocks,
      noFiniteDifferences: 'too large',
    },
    {
      name: 'logits around 100',
      inputs: {
        h: { shape: [1, 6, 16], fill: { scale: 8 } },
        weight: { shape: [33, 16], fill: { scale: 4 } },
        labels: some([1, 6], 33),
      },
      attributes: next,
      tolerance: {
        f32: { rtol: 1e-4, atol: 1e-3, reason: 'rounding of logits of 100 enters an exponential' },
        bf16: {
          rtol: 1.6e-2,
          atol: 1.5e-2,
          reason: 'as f32, and logit gradients in bf16 times weights of 4; PyTorch: 8e-3',
        },
      },
    },
  ],
  errors: [
    {
      name: 'another D',
      inputs: { h: [2, 3, 8], weight: [20, 9], labels: some([2, 3], 20) },
      attributes: next,
      code: 'ERR_SHAPE',
      message: /weight must be \[V, 8\]/,
    },
    {
      name: 'labels of another shape',
      inputs: { h: [2, 3, 8], weight: [20, 8], labels: some([2, 4], 20) },
      attributes: next,
      code: 'ERR_SHAPE',
      message: /labels must be \[2,3\]/,
    },
    {
      name: 'every label ignored',
      inputs: { h: [1, 3, 8], weight: [20, 8], labels: { shape: [1, 3], fill: { values: [-100] } } },
      attributes: next,
      code: 'ERR_VALUE',
      message: /every label is ignored/,
    },
    {
      name: 'sequences of one token have no next',
      inputs: { h: [3, 1, 8], weight: [20, 8], labels: some([3, 1], 20) },
      attributes: next,
      code: 'ERR_VALUE',
      message: /every label is ignored/,
    },
    {
      name: 'label outside the vocabulary',
      inputs: {
        h: [1, 4, 8],
        weight: [20, 8],
        labels: { shape: [1, 4], fill: { values: [1, 2, 20, 3] } },
      },
      attributes: next,
      code: 'ERR_VALUE',
      message: /labels\[2\] is 20/,
    },
    {
      name: 'label smoothing below 0',
      inputs: { h: [2, 3, 8], weight: [20, 8], labels: some([2, 3], 20) },
      attributes: { ...next, labelSmoothing: -0.1 },
      code: 'ERR_VALUE',
      message: /linearCrossEntropy: labelSmoothing must be within/,
    },
  ],
  bench: [
    {
      name: '10M',
      inputs: { h: [16, 256, 256], weight: [4096, 256], labels: some([16, 256], 4096) },
      attributes: next,
    },
  ],
})

const backward = defineCases(linearCrossEntropyBackwardOp, {
  cases: [17, 65, 1100].flatMap((v) =>
    [MEAN, NONE].flatMap((reduction) =>
      [false, true].map((accumulate) => ({
        name: `V ${v}, ${reduction === NONE ? 'a gradient per label' : 'one gradient'}${accumulate ? ', added' : ''}`,
        inputs: {
          dloss: reduction === NONE ? [2, 5] : [],
          h: { shape: [2, 5, 7], fill: { from: (i: number) => eighths(i, 37) } },
          weight: { shape: [v, 7], fill: { from: (i: number) => eighths(i, 23) } },
          labels: some([2, 5], v),
          lse: { shape: [2, 5], fill: { from: (row: number) => logSum(dot(row, v, 7)) } },
          scale: { shape: [], fill: { values: [0.125] } },
          dweight: [v, 7],
        },
        attributes: { ...next, labelSmoothing: 0.1, zLoss: 0.001, reduction, accumulate },
        tolerance,
      })),
    ),
  ),
})

export default [forward, backward]
