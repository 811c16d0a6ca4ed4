// A linear layer with a low-rank term beside its weight: y = x W^T + b + scale (x A^T) B^T. The term
// is extra K of the same product; a frozen W gets no gradient, and none is computed for it.

import type { Tensor } from '../tensor/tensor.ts'
import { addInto } from './add-into.ts'
import { add, mul } from './binary.ts'
import { cast, copyInto } from './copy.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { type DenseOperand, linear, linearGradients } from './linear.ts'
import { matmul } from './matmul.ts'

/** The low-rank term of a linear layer. */
export interface LoraTerm {
  /** [r, K], of x's dtype */
  readonly a: Tensor
  /** [N, r], of x's dtype */
  readonly b: Tensor
  /** Of the term: alpha / r, or alpha / sqrt(r) for rsLoRA. */
  readonly scale: number
}

export const loraLinearBackwardOp = defineOp({
  name: 'lora_linear.backward',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'x', dtype: 'float', layout: 'rows' },
    { name: 'weight', dtype: 'float' },
    { name: 'a', dtype: 'float' },
    { name: 'b', dtype: 'float' },
    { name: 'xa', dtype: 'float', layout: 'rows' },
    { name: 'da', dtype: ['f32', 'f64'], inPlace: true, optional: true },
    { name: 'db', dtype: ['f32', 'f64'], inPlace: true, optional: true },
  ],
  outputs: [{ name: 'dx', optional: true }],
  attributes: ['scale', 'needsDx', 'accumulateA', 'accumulateB'],
  infer: ([, x], [, needsDx]) => [needsDx === 0 ? null : spec(x.shape, x.dtype)],
  differentiable: false,
  reference: ([dy, x, weight, a, b, xa, da, db], [scale, needsDx, accumulateA, accumulateB]) => {
    const dxa = mul(matmul(rowsOf(dy), b), scale)
    const write = (target: Tensor | null, gradient: Tensor, accumulate: number): void => {
      if (target !== null) (accumulate === 0 ? copyInto : addInto)(target, cast(gradient, target.dtype))
    }
    write(da, matmul(dxa.transpose(), rowsOf(x)), accumulateA)
    write(db, matmul(rowsOf(dy).transpose(), rowsOf(xa)), accumulateB)
    if (needsDx === 0) return [null]
    return [add(matmul(rowsOf(dy), weight), matmul(dxa, a)).reshape(x.shape)]
  },
  flops: ([dy, x, weight, a], [, needsDx]) => {
    const [outputs = 0, inputs = 0] = weight.shape
    const rank = a.shape[0] ?? 0
    const rows = size(x.shape.slice(0, -1))
    const dx = needsDx === 0 ? 0 : outputs * inputs + rank * inputs
    return 2 * rows * (rank * (2 * (dy.shape.at(-1) ?? 0) + inputs) + dx)
  },
})

export const loraLinearOp = defineOp({
  name: 'lora_linear',
  inputs: [
    { name: 'x', dtype: 'float', layout: 'rows' },
    { name: 'weight', dtype: 'float' },
    { name: 'bias', dtype: 'float', mixed: true, optional: true },
    { name: 'a', dtype: 'float' },
    { name: 'b', dtype: 'float' },
  ],
  outputs: [{ name: 'y' }, { name: 'xa', saved: true }],
  attributes: ['scale'],
  infer: ([x, weight, bias, a, b]) => {
    if (x.rank < 1) throw shapeError('loraLinear', 'x', 'of rank 1 or more', x)
    const inputs = x.shape.at(-1) ?? 0
    if (weight.rank !== 2 || weight.shape[1] !== inputs) {
      throw shapeError('loraLinear', 'weight', `[N, ${inputs}] to match x [${x.shape}]`, weight)
    }
    const outputs = weight.shape[0] ?? 0
    if (bias !== null && (bias.rank !== 1 || bias.shape[0] !== outputs)) {
      throw shapeError('loraLinear', 'bias', `[${outputs}] to match weight [${weight.shape}]`, bias)
    }
    if (a.rank !== 2 || a.shape[1] !== inputs) {
      throw shapeError('loraLinear', 'a', `[r, ${inputs}] to match x [${x.shape}]`, a)
    }
    const rank = a.shape[0] ?? 0
    if (b.rank !== 2 || b.shape[0] !== outputs || b.shape[1] !== rank) {
      throw shapeError('loraLinear', 'b', `[${outputs}, ${rank}] to match weight and a`, b)
    }
    const rows = x.shape.slice(0, -1)
    return [spec([...rows, outputs], x.dtype), spec([...rows, rank], x.dtype)]
  },
  reference: ([x, weight, bias, a, b], [scale]) => {
    const xa = mul(linear(x, { weight: a }), scale)
    return [add(linear(x, { weight, bias }), linear(xa, { weight: b })), xa]
  },
  saves: ['x', 'weight', 'a', 'b', 'xa'],
  vjp: ({
    inputs: [x, weight, bias, a, b],
    outputs: [, xa],
    attributes: [scale],
    grads: [dy],
    needs,
    gradTarget,
  }) => {
    const da = needs(3) ? gradTarget(3) : null
    const db = needs(4) ? gradTarget(4) : null
    const [dx] = loraLinearBackwardOp(
      [dy, x, weight, a, b, xa, da?.tensor ?? null, db?.tensor ?? null],
      [scale, needs(0), da?.accumulate ?? false, db?.accumulate ?? false],
    )
    const [dw, dbias] = linearGradients(
      dy,
      x,
      needs(1) ? gradTarget(1) : null,
      bias !== null && needs(2) ? gradTarget(2) : null,
    )
    return [dx, dw, dbias, da?.tensor ?? null, db?.tensor ?? null]
  },
  flops: ([x, weight, , a]) => {
    const [outputs = 0, inputs = 0] = weight.shape
    const rank = a.shape[0] ?? 0
    return 2 * size(x.shape.slice(0, -1)) * (outputs * inputs + rank * (inputs + outputs))
  },
})

/** [..., D] as [rows, D]. */
function rowsOf(x: Tensor): Tensor {
  return x.rank === 2 ? x : x.reshape([size(x.shape.slice(0, -1)), x.shape.at(-1) ?? 0])
}

function size(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1)
}

/**
 * x W^T + bias + scale (x A^T) B^T over the last axis; accumulates in float32. x A^T is kept in x's
 * dtype. A weight that requires no gradient costs none.
 * @param x [..., K] f32 | bf16
 * @param operand weight [N, K] of x's dtype, bias [N]
 * @param lora the low-rank term
 * @returns [..., N] in x's dtype
 * @throws ShapeError when shapes do not fit
 * Source: Hu et al. 2021, "LoRA"
 */
export function loraLinear(x: Tensor, { weight, bias = null }: DenseOperand, lora: LoraTerm): Tensor {
  return loraLinearOp([x, weight, bias, lora.a, lora.b], [lora.scale])[0]
}
