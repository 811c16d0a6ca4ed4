import { crossEntropyBackwardOp, crossEntropyOp } from '../../lib/ops/cross_entropy.ts'
import { defineCases } from './cases.ts'

const [MEAN, SUM, NONE] = [0, 1, 2]
const plain = { ignoreIndex: -100, labelSmoothing: 0, zLoss: 0, shift: false, reduction: MEAN }
const sums = { f32: { rtol: 2e-6, atol: 1e-5, reason: 'a float32 loss near 30 per label, added up' } }
/** Labels in [0, v), every fifth one `ignore`. */
const some = (shape: readonly number[], v: number, ignore = -100) => ({
  shape,
  fill: { from: (i: number) => (i % 5 === 3 ? ignore : (i * 7 + 2) % v) },
})

/** Exact in bf16, so that the log-sums of rows, which the backward is given, are those of its logits. */
const logit = (i: number): number => (((i * 37) % 97) - 48) / 16
const rowOf = (row: number, v: number): number[] => Array.from({ length: v }, (_, j) => logit(row * v + j))
const logSum = (row: readonly number[]): number => Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0))

const forward = defineCases(crossEntropyOp, {
  cases: [
    ...[1, 15, 17, 31, 33, 63, 65, 127].map((v) => ({
      name: `V ${v}`,
      inputs: { logits: [7, v], labels: some([7], v) },
      attributes: plain,
    })),
    {
      name: 'outliers, rows view',
      inputs: { logits: { shape: [7, 33], fill: 'outliers', strides: 'padded' }, labels: some([7], 33) },
      attributes: plain,
    },
    {
      name: 'label smoothing',
      inputs: { logits: [2, 6, 33], labels: some([2, 6], 33) },
      attributes: { ...plain, labelSmoothing: 0.1 },
    },
    {
      name: 'all smoothed',
      inputs: { logits: [6, 17], labels: some([6], 17) },
      attributes: { ...plain, labelSmoothing: 1 },
    },
    {
      name: 'z loss',
      inputs: { logits: [2, 6, 33], labels: some([2, 6], 33) },
      attributes: { ...plain, labelSmoothing: 0.1, zLoss: 0.01 },
    },
    {
      name: 'sum',
      inputs: { logits: [7, 20], labels: some([7], 20) },
      attributes: { ...plain, reduction: SUM },
      tolerance: sums,
    },
    {
      name: 'sum, all ignored',
      inputs: { logits: [3, 20], labels: { shape: [3], fill: { values: [-100] } } },
      attributes: { ...plain, reduction: SUM },
    },
    {
      name: 'a loss per label',
      inputs: { logits: [3, 5, 33], labels: some([3, 5], 33) },
      attributes: { ...plain, reduction: NONE, labelSmoothing: 0.1, shift: true },
    },
    {
      name: 'a loss per label, scaled',
      inputs: {
        logits: [3, 5, 17],
        labels: some([3, 5], 17),
        scale: { shape: [], fill: { values: [0.25] } },
      },
      attributes: { ...plain, reduction: NONE },
    },
    {
      name: 'a loss per label, all ignored',
      inputs: { logits: [3, 20], labels: { shape: [3], fill: { values: [-100] } } },
      attributes: { ...plain, reduction: NONE },
    },
    {
      name: 'shifted: rows do not leak',
      inputs: { logits: [3, 5, 17], labels: some([3, 5], 17) },
      attributes: { ...plain, shift: true },
    },
    {
      name: 'scale, another ignoreIndex',
      inputs: {
        logits: [9, 20],
        labels: some([9], 20, 0),
        scale: { shape: [], fill: { values: [0.125] } },
      },
      attributes: { ...plain, ignoreIndex: 0 },
    },
    {
      name: 'scale, all ignored',
      inputs: {
        logits: [3, 20],
        labels: { shape: [3], fill: { values: [-100] } },
        scale: { shape: [], fill: { values: [0.5] } },
      },
      attributes: plain,
    },
    {
      name: 'large logits',
      inputs: { logits: { shape: [6, 40], fill: { scale: 60 } }, labels: some([6], 40) },
      attributes: plain,
    },
    {
      name: 'outliers, many rows',
      inputs: { logits: { shape: [300, 129], fill: 'outliers' }, labels: some([300], 129) },
      attributes: plain,
      noFiniteDifferences: 'too large',
    },
  ],
  errors: [
    {
      name: 'labels of another shape',
      inputs: { logits: [2, 3, 8], labels: some([2, 4], 8) },
      attributes: plain,
      code: 'ERR_SHAPE',
      message: /labels must be \[2,3\]/,
    },
    {
      name: 'every label ignored',
      inputs: { logits: [3, 8], labels: { shape: [3], fill: { values: [-100] } } },
      attributes: plain,
      code: 'ERR_VALUE',
      message: /every label is ignored/,
    },
    {
      name: 'only the first label, shifted away',
      inputs: { logits: [1, 3, 8], labels: { shape: [1, 3], fill: { values: [1, -100, -100] } } },
      attributes: { ...plain, shift: true },
      code: 'ERR_VALUE',
      message: /every label is ignored/,
    },
    {
      name: 'label outside the vocabulary',
      inputs: { logits: [3, 8], labels: { shape: [3], fill: { values: [1, 8, 2] } } },
      attributes: plain,
      code: 'ERR_VALUE',
      message: /labels\[1\] is 8/,
    },
    {
      name: 'negative label',
      inputs: { logits: [3, 8], labels: { shape: [3], fill: { values: [1, 2, -1] } } },
      attributes: plain,
      code: 'ERR_VALUE',
      message: /labels\[2\] is -1/,
    },
    {
      name: 'label smoothing above 1',
      inputs: { logits: [3, 8], labels: some([3], 8) },
      attributes: { ...plain, labelSmoothing: 1.5 },
      code: 'ERR_VALUE',
      message: /labelSmoothing must be within/,
    },
    {
      name: 'negative z loss',
      inputs: { logits: [3, 8], labels: some([3], 8) },
      attributes: { ...plain, zLoss: -1 },
      code: 'ERR_VALUE',
      message: /zLoss must be a number >= 0/,
    },
  ],
  bench: [{ inputs: { logits: [1024, 50304], labels: some([1024], 50304) }, attributes: plain }],
})

const backward = defineCases(crossEntropyBackwardOp, {
  cases: [1, 17, 63, 129].flatMap((v) =>
    [MEAN, NONE].map((reduction) => ({
      name: `V ${v}, ${reduction === NONE ? 'a gradient per label' : 'one gradient'}`,
      inputs: {
        dloss: reduction === NONE ? [2, 5] : [],
        logits: { shape: [2, 5, v], fill: { from: logit } },
        labels: some([2, 5], v),
        lse: { shape: [2, 5], fill: { from: (row: number) => logSum(rowOf(row, v)) } },
        scale: { shape: [], fill: { values: [0.125] } },
      },
      attributes: { ...plain, labelSmoothing: 0.1, zLoss: 0.001, shift: true, reduction },
    })),
  ),
  errors: [
    {
      name: 'label outside the vocabulary',
      inputs: {
        dloss: [],
        logits: [2, 8],
        labels: { shape: [2], fill: { values: [1, 8] } },
        lse: [2],
        scale: [],
      },
      attributes: plain,
      code: 'ERR_VALUE',
      message: /labels\[1\] is 8/,
    },
  ],
})

export default [forward, backward]
