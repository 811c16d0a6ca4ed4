import { linearCrossEntropyOp } from '../../lib/ops/linear_cross_entropy.ts'
import { defineCases } from './cases.ts'

const next = { ignoreIndex: -100, shift: true }
/** Labels in [0, v), every fifth one `ignore`. */
const some = (shape: readonly number[], v: number, ignore = -100) => ({
  shape,
  fill: { from: (i: number) => (i % 5 === 3 ? ignore : (i * 7 + 2) % v) },
})
// Gradients of logits travel in bf16: 2^-9 of each goes into sums that nearly cancel.
const tolerance = {
  f32: { rtol: 1e-5, atol: 1e-5, reason: 'exp and float32 sums over D and V' },
  bf16: { rtol: 1.6e-2, atol: 6e-3, reason: 'logit gradients in bf16, summed over V' },
}

export default defineCases(linearCrossEntropyOp, {
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
      tolerance,
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
        bf16: { rtol: 2e-2, atol: 5e-2, reason: 'as f32, and logit gradients in bf16 times weights of 4' },
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
  ],
  bench: [
    {
      name: '10M',
      inputs: { h: [16, 256, 256], weight: [4096, 256], labels: some([16, 256], 4096) },
      attributes: next,
    },
  ],
})
