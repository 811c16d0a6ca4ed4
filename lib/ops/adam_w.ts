import { ValueError } from '../runtime/errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add, div, less, mul, sub, where } from './binary.ts'
import { cast, concat, copyInto } from './copy.ts'
import { full } from './create.ts'
import { defineOp, shapeError } from './define.ts'
import { exp, neg, sqrt } from './unary.ts'

export const adamWOp = defineOp({
  name: 'adam_w',
  inputs: [
    { name: 'norm', dtype: 'f32' },
    { name: 'hyper', dtype: 'f32' },
    { name: 'decay', dtype: 'f32' },
    { name: 'state', dtype: 'i32', inPlace: true },
  ],
  group: [
    { name: 'param', dtype: ['f32', 'bf16', 'f64'], inPlace: true },
    { name: 'low', dtype: 'u16', inPlace: true, optional: true },
    { name: 'grad', dtype: 'f32' },
    { name: 'm', dtype: 'f32', inPlace: true },
    { name: 'v', dtype: 'f32', inPlace: true },
  ],
  outputs: [],
  attributes: ['beta1', 'beta2', 'eps', 'clipNorm'],
  infer: ([norm, hyper, decay, state], [beta1, beta2, eps, clipNorm], groups) => {
    const vector = (name: string, t: { shape: readonly number[] }, length: number): void => {
      if (t.shape.length !== 1 || t.shape[0] !== length) throw shapeError('adamW', name, `[${length}]`, t)
    }
    if (norm.rank !== 0) throw shapeError('adamW', 'norm', 'a scalar', norm)
    vector('hyper', hyper, 2)
    vector('decay', decay, groups.length)
    vector('state', state, 2)
    for (const [param, low, grad, m, v] of groups) {
      for (const [name, t] of Object.entries({ low, grad, m, v })) {
        if (t !== null && String(t.shape) !== String(param.shape)) {
          throw shapeError('adamW', name, `[${param.shape}] like param`, t)
        }
      }
      if (low !== null && param.dtype === 'f32')
        throw shapeError('adamW', 'low', 'absent for an f32 param', low)
    }
    const share = (name: string, value: number): void => {
      if (!(value >= 0 && value < 1))
        throw new ValueError(`adamW: ${name} must be in [0, 1), received ${value}`)
    }
    share('beta1', beta1)
    share('beta2', beta2)
    if (!(eps >= 0)) throw new ValueError(`adamW: eps must be >= 0, received ${eps}`)
    if (!(clipNorm >= 0)) throw new ValueError(`adamW: clipNorm must be >= 0, received ${clipNorm}`)
    return []
  },
  // `low` is read as zeros and left alone: its bits are no numbers that primitives could compute
  // with. test/unit/adam-w.test.ts holds its arithmetic.
  reference: ([norm, hyper, decay, state], [beta1, beta2, eps, clipNorm], groups) => {
    const scalar = (t: Tensor, i: number): Tensor => cast(t.slice(0, i, i + 1).reshape([]), 'f64')
    const scale = scalar(hyper, 1)
    const total = mul(cast(norm, 'f64'), scale)
    // NaN and infinity are the values whose difference from themselves is not 0
    const finite = less(sub(total, total), 0.5)
    const step = add(scalar(state, 0), 1)
    const correction = (beta: number): Tensor =>
      beta === 0 ? full([], 1, { dtype: 'f64' }) : add(neg(exp(mul(step, Math.log(beta)))), 1)
    const clipped = div(mul(scale, clipNorm), add(total, 1e-6))
    const factor =
      clipNorm > 0
        ? where(less(full([], clipNorm, { dtype: 'f64' }), add(total, 1e-6)), clipped, scale)
        : scale
    const size = div(scalar(hyper, 0), correction(beta1))
    const root = sqrt(correction(beta2))
    groups.forEach(([param, , grad, m, v], i) => {
      const g = mul(cast(grad, 'f64'), factor)
      const m1 = add(mul(cast(m, 'f64'), beta1), mul(g, 1 - beta1))
      const v1 = add(mul(cast(v, 'f64'), beta2), mul(mul(g, g), 1 - beta2))
      const keep = sub(full([], 1, { dtype: 'f64' }), mul(scalar(hyper, 0), scalar(decay, i)))
      const update = div(m1, add(div(sqrt(v1), root), eps))
      const p1 = sub(mul(cast(param, 'f64'), keep), mul(update, size))
      for (const [target, value] of [
        [param, p1],
        [m, m1],
        [v, v1],
      ] as const) {
        copyInto(target, where(finite, cast(value, target.dtype), target))
      }
    })
    const taken = cast(finite, 'i32').reshape([1])
    copyInto(state, add(state, concat([taken, sub(full([1], 1, { dtype: 'i32' }), taken)], 0)))
    return []
  },
  differentiable: false,
})

/** One parameter with its gradient and state, all of the parameter's shape. */
export interface AdamWParameter {
  /** f32 or bf16; updated. */
  readonly param: Tensor
  /**
   * u16, updated: the low half of a bf16 parameter's exact float32 master, whose rounded upper half is
   * the parameter itself. Null for f32, or to keep no more than bf16 holds.
   */
  readonly low: Tensor | null
  /** f32 */
  readonly grad: Tensor
  /** f32, updated: running means of the gradient and of its square. */
  readonly m: Tensor
  readonly v: Tensor
}

export interface AdamWOptions {
  /** f32 scalar: the norm of all gradients, before `hyper`'s scale. */
  readonly norm: Tensor
  /** f32 [2]: learning rate, and a factor for all gradients (and the norm). */
  readonly hyper: Tensor
  /** f32 [parameters]: weight decay of each. */
  readonly decay: Tensor
  /** i32 [2], updated: steps taken, steps skipped. */
  readonly state: Tensor
  readonly beta1: number
  readonly beta2: number
  readonly eps: number
  /** Gradients are scaled down to this norm when theirs is larger; 0 is no clipping. */
  readonly clipNorm: number
}

/**
 * One AdamW step over all parameters: bias-corrected, with decoupled weight decay and clipping by the
 * global norm, in float32. Either everything is updated or nothing is: a norm that is not finite
 * counts a skipped step and writes no more, and a failed input leaves all as it was.
 * @throws ShapeError, ValueError
 * Source: Loshchilov & Hutter 2019; torch.optim.AdamW
 */
export function adamW(parameters: readonly AdamWParameter[], options: AdamWOptions): void {
  const { norm, hyper, decay, state, beta1, beta2, eps, clipNorm } = options
  adamWOp(
    [norm, hyper, decay, state],
    [beta1, beta2, eps, clipNorm],
    parameters.map(({ param, low, grad, m, v }) => [param, low, grad, m, v] as const),
  )
}
