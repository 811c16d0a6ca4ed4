import { distillationLossBackwardOp, distillationLossOp } from '../../lib/ops/distillation_loss.ts'
import { type CaseInputs, defineCases } from './cases.ts'

const [MEAN, SUM, NONE] = [0, 1, 2]
const plain = { temperature: 2, alpha: 0.5, ignoreIndex: -100, shift: false, reduction: MEAN }
/** Labels in [0, v), every fifth one `ignore`. */
const some = (shape: readonly number[], v: number, ignore = -100) => ({
  shape,
  fill: { from: (i: number) => (i % 5 === 3 ? ignore : (i * 7 + 2) % v) },
})
const like = (rows: readonly number[], v: number): CaseInputs => ({
  logits: [...rows, v],
  teacher: [...rows, v],
  labels: some(rows, v),
})
const logit = (i: number, step: number): number => (((i * step) % 97) - 48) / 16
const logSum = (row: number, v: number, step: number, temperature: number): number =>
  Math.log(
    Array.from({ length: v }, (_, j) => Math.exp(logit(row * v + j, step) / temperature)).reduce(
      (a, b) => a + b,
      0,
    ),
  )

const forward = defineCases(distillationLossOp, {
  cases: [
    ...[1, 15, 17, 31, 33, 63, 65, 127].map((v) => ({
      name: `V ${v}`,
      inputs: like([7], v),
      attributes: plain,
    })),
    { name: 'labels alone', inputs: like([2, 4], 20), attributes: { ...plain, alpha: 0 } },
    { name: 'teacher alone', inputs: like([2, 4], 20), attributes: { ...plain, alpha: 1 } },
    { name: 'temperature 0.5', inputs: like([9], 20), attributes: { ...plain, temperature: 0.5 } },
    {
      name: 'temperature 1, shifted',
      inputs: like([3, 4], 33),
      attributes: { ...plain, temperature: 1, shift: true },
    },
    {
      name: 'rows view, outliers',
      inputs: {
        logits: { shape: [7, 33], fill: 'outliers', strides: 'padded' },
        teacher: { shape: [7, 33], fill: 'outliers', strides: 'padded' },
        labels: some([7], 33),
      },
      attributes: plain,
    },
    {
      name: 'an f32 teacher, scale, another ignoreIndex',
      inputs: {
        logits: [9, 20],
        teacher: { shape: [9, 20], dtype: 'f32' },
        labels: some([9], 20, 0),
        scale: { shape: [], fill: { values: [0.125] } },
      },
      attributes: { ...plain, ignoreIndex: 0 },
    },
    {
      name: 'a bf16 teacher',
      inputs: { logits: [9, 20], teacher: { shape: [9, 20], dtype: 'bf16' }, labels: some([9], 20) },
      attributes: plain,
    },
    { name: 'sum', inputs: like([7], 20), attributes: { ...plain, reduction: SUM } },
    {
      name: 'a loss per label',
      inputs: like([3, 5], 20),
      attributes: { ...plain, reduction: NONE, shift: true },
    },
    {
      name: 'large logits',
      inputs: {
        logits: { shape: [6, 40], fill: { scale: 40 } },
        teacher: { shape: [6, 40], fill: { scale: 40 } },
        labels: some([6], 40),
      },
      attributes: plain,
    },
    {
      name: 'many rows',
      inputs: like([300], 129),
      attributes: plain,
      noFiniteDifferences: 'too large',
    },
  ],
  errors: [
    {
      name: 'teacher of another vocabulary',
      inputs: { logits: [3, 8], teacher: [3, 9], labels: some([3], 8) },
      attributes: plain,
      code: 'ERR_SHAPE',
      message: /teacher must be \[3,8\], like logits/,
    },
    {
      name: 'every label ignored',
      inputs: { logits: [2, 8], teacher: [2, 8], labels: { shape: [2], fill: { values: [-100] } } },
      attributes: plain,
      code: 'ERR_VALUE',
      message: /every label is ignored/,
    },
    {
      name: 'temperature 0',
      inputs: like([3], 8),
      attributes: { ...plain, temperature: 0 },
      code: 'ERR_VALUE',
      message: /temperature must be positive/,
    },
    {
      name: 'alpha above 1',
      inputs: like([3], 8),
      attributes: { ...plain, alpha: 1.5 },
      code: 'ERR_VALUE',
      message: /alpha must be within/,
    },
    {
      name: 'label outside the vocabulary',
      inputs: { logits: [3, 8], teacher: [3, 8], labels: { shape: [3], fill: { values: [1, 8, 2] } } },
      attributes: plain,
      code: 'ERR_VALUE',
      message: /labels\[1\] is 8/,
    },
  ],
  bench: [{ inputs: like([1024], 50304), attributes: plain }],
})

const backward = defineCases(distillationLossBackwardOp, {
  cases: [17, 129].flatMap((v) =>
    [MEAN, NONE].map((reduction) => ({
      name: `V ${v}, ${reduction === NONE ? 'a gradient per label' : 'one gradient'}`,
      inputs: {
        dloss: reduction === NONE ? [2, 5] : [],
        logits: { shape: [2, 5, v], fill: { from: (i: number) => logit(i, 37) } },
        teacher: { shape: [2, 5, v], fill: { from: (i: number) => logit(i, 23) } },
        labels: some([2, 5], v),
        // of the student, and of student and teacher at the temperature
        lse: {
          shape: [2, 5, 3],
          fill: {
            from: (i: number) =>
              logSum(Math.floor(i / 3), v, i % 3 === 2 ? 23 : 37, i % 3 === 0 ? 1 : plain.temperature),
          },
        },
        scale: { shape: [], fill: { values: [0.125] } },
      },
      attributes: { ...plain, shift: true, reduction },
    })),
  ),
})

export default [forward, backward]
