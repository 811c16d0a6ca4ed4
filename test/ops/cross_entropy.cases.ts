import { crossEntropyOp } from '../../lib/ops/cross_entropy.ts'
import { defineCases } from './cases.ts'

const plain = { ignoreIndex: -100, labelSmoothing: 0, shift: false }
/** Labels in [0, v), every fifth one `ignore`. */
const some = (shape: readonly number[], v: number, ignore = -100) => ({
  shape,
  fill: { from: (i: number) => (i % 5 === 3 ? ignore : (i * 7 + 2) % v) },
})

export default defineCases(crossEntropyOp, {
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
  ],
  bench: [{ inputs: { logits: [1024, 50304], labels: some([1024], 50304) }, attributes: plain }],
})
