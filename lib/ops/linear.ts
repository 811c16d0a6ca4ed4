// y = x W^T + b, through an operand: what the weight is made of is the operand's affair, so other
// kinds of weights and adapters join here and in the GEMM driver, not in the models.

import type { DType } from '../tensor/dtype.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { addInto } from './add-into.ts'
import { add } from './binary.ts'
import { cast, copyInto } from './copy.ts'
import { defineOp, type GradTarget, shapeError, spec } from './define.ts'
import { type Int8Operand, linearInt8 } from './linear_int8.ts'
import { matmul } from './matmul.ts'
import { dequantizeInt8 } from './quantize_int8.ts'
import { sum } from './reduce.ts'

/** Dense weights, with an optional bias. */
export interface DenseOperand {
  readonly kind?: 'dense'
  /** `[N, K]`: outputs, inputs */
  readonly weight: Tensor
  /** [N], f32 */
  readonly bias?: Tensor | null
}

/** What a linear layer multiplies by. */
export type LinearOperand = DenseOperand | Int8Operand

/** The operand with dense weights of `dtype`: itself, or dequantised for this one use. */
export function denseOperand(operand: LinearOperand, dtype: DType): DenseOperand {
  if (operand.kind !== 'int8') return operand
  return { weight: dequantizeInt8(operand, { dtype }), bias: operand.bias ?? null }
}

export const linearDxOp = defineOp({
  name: 'linear.dx',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'weight', dtype: 'float' },
  ],
  outputs: [{ name: 'dx' }],
  infer: ([dy, weight]) => {
    if (weight.rank !== 2 || weight.shape[0] !== dy.shape.at(-1)) {
      throw shapeError('linear.dx', 'weight', `[${dy.shape.at(-1)}, K] to match dy [${dy.shape}]`, weight)
    }
    return [spec([...dy.shape.slice(0, -1), weight.shape[1] ?? 0], dy.dtype)]
  },
  differentiable: false,
  reference: ([dy, weight]) => [
    matmul(rowsOf(dy), weight).reshape([...dy.shape.slice(0, -1), weight.shape[1] ?? 0]),
  ],
  flops: ([dy, weight]) => 2 * size(dy.shape) * (weight.shape[1] ?? 0),
})

export const linearDwOp = defineOp({
  name: 'linear.dw',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'x', dtype: 'float', layout: 'rows' },
    { name: 'dw', dtype: ['f32', 'f64'], inPlace: true },
    { name: 'dbias', dtype: ['f32', 'f64'], inPlace: true, optional: true },
  ],
  outputs: [],
  attributes: ['accumulate'],
  infer: ([dy, x, dw]) => {
    const expected = [dy.shape.at(-1) ?? 0, x.shape.at(-1) ?? 0]
    if (dw.rank !== 2 || dw.shape[0] !== expected[0] || dw.shape[1] !== expected[1]) {
      throw shapeError('linear.dw', 'dw', `[${expected}] to match dy [${dy.shape}] and x [${x.shape}]`, dw)
    }
    return []
  },
  differentiable: false,
  reference: ([dy, x, dw, dbias], [accumulate]) => {
    const write = accumulate === 0 ? copyInto : addInto
    write(dw, cast(matmul(rowsOf(dy).transpose(), rowsOf(x)), dw.dtype))
    if (dbias !== null) write(dbias, sum(cast(rowsOf(dy), dbias.dtype), [0]))
    return []
  },
  flops: ([dy, x]) => 2 * size(dy.shape) * (x.shape.at(-1) ?? 0),
})

/** @internal dy W, by the kernel where there is one. */
export function linearDx(dy: Tensor, weight: Tensor): Tensor {
  return linearDxOp([dy, weight])[0]
}

/** @internal Gradients of weight and bias into their targets, null where one is not wanted. */
export function linearGradients(
  dy: Tensor,
  x: Tensor,
  dw: GradTarget | null,
  dbias: GradTarget | null,
): [dw: Tensor | null, dbias: Tensor | null] {
  // the kernel has one `accumulate` for both; a bias without its weight, or beside one that was
  // shared elsewhere, is summed apart
  const together = dw !== null && dbias?.accumulate === dw.accumulate
  if (dw !== null) linearDwOp([dy, x, dw.tensor, together ? dbias.tensor : null], [dw.accumulate])
  if (dbias !== null && !together) {
    const write = dbias.accumulate ? addInto : copyInto
    write(dbias.tensor, sum(cast(rowsOf(dy), dbias.tensor.dtype), [0]))
  }
  return [dw?.tensor ?? null, dbias?.tensor ?? null]
}

export const linearOp = defineOp({
  name: 'linear',
  inputs: [
    { name: 'x', dtype: 'float', layout: 'rows' },
    { name: 'weight', dtype: 'float' },
    { name: 'bias', dtype: 'float', mixed: true, optional: true },
  ],
  outputs: [{ name: 'y' }],
  infer: ([x, weight, bias]) => {
    if (x.rank < 1) throw shapeError('linear', 'x', 'of rank 1 or more', x)
    if (weight.rank !== 2 || weight.shape[1] !== x.shape.at(-1)) {
      throw shapeError('linear', 'weight', `[N, ${x.shape.at(-1)}] to match x [${x.shape}]`, weight)
    }
    const outputs = weight.shape[0] ?? 0
    if (bias !== null && (bias.rank !== 1 || bias.shape[0] !== outputs)) {
      throw shapeError('linear', 'bias', `[${outputs}] to match weight [${weight.shape}]`, bias)
    }
    return [spec([...x.shape.slice(0, -1), outputs], x.dtype)]
  },
  reference: ([x, weight, bias]) => {
    const shape = [...x.shape.slice(0, -1), weight.shape[0] ?? 0]
    const y = matmul(rowsOf(x), weight.transpose()).reshape(shape)
    return [bias === null ? y : add(y, bias.to(x.dtype))]
  },
  saves: ['x', 'weight'],
  vjp: ({ inputs: [x, weight, bias], grads: [dy], needs, gradTarget }) => {
    const dx = needs(0) ? linearDxOp([dy, weight])[0] : null
    return [
      dx,
      ...linearGradients(
        dy,
        x,
        needs(1) ? gradTarget(1) : null,
        bias !== null && needs(2) ? gradTarget(2) : null,
      ),
    ]
  },
  flops: ([x, weight]) => 2 * size(x.shape) * (weight.shape[0] ?? 0),
})

/** [..., D] as [rows, D]. */
function rowsOf(x: Tensor): Tensor {
  const rows = size(x.shape.slice(0, -1))
  return x.rank === 2 ? x : x.reshape([rows, x.shape.at(-1) ?? 0])
}

function size(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1)
}

/**
 * x W^T + b over the last axis; accumulates in float32.
 * @param x [..., K] f32 | bf16
 * @param operand weight [N, K] of x's dtype, bias [N] f32; or int8 weights: see {@link linearInt8}
 * @returns [..., N] in x's dtype
 * @throws ShapeError when the weight does not have K inputs, or the bias not N elements
 */
export function linear(x: Tensor, operand: LinearOperand): Tensor {
  if (operand.kind === 'int8') return linearInt8(x, operand)
  return linearOp([x, operand.weight, operand.bias ?? null])[0]
}
