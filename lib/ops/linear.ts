// y = x W^T + b, through an operand: what the weight is made of is the operand's affair, so other
// kinds of weights and adapters join here and in the GEMM driver, not in the models.

import type { DType } from '../tensor/dtype.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add } from './binary.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { linearGradients } from './linear_dw.ts'
import { type Int8Operand, linearInt8 } from './linear_int8.ts'
import { type LoraMember, type LoraTerm, loraLinear } from './lora_linear.ts'
import { matmul } from './matmul.ts'
import { dequantizeInt8 } from './quantize_int8.ts'

/** Dense weights, with an optional bias. */
export interface DenseOperand {
  readonly kind?: 'dense'
  /** `[N, K]`: outputs, inputs */
  readonly weight: Tensor
  /** [N], f32 */
  readonly bias?: Tensor | null
}

/** What a linear layer multiplies by: weights, and what an adapter adds to them. */
export type LinearOperand = (DenseOperand | Int8Operand) & { readonly lora?: LoraTerm | null }

/** @internal The operand as a part of `loraLinear`; weights that are not dense are multiplied first. */
export function loraMember(x: Tensor, operand: LinearOperand): LoraMember {
  const { lora = null } = operand
  return operand.kind === 'int8'
    ? { base: linearInt8(x, operand), lora }
    : { weight: operand.weight, bias: operand.bias ?? null, lora }
}

/** The operand's weights, dense in `dtype`: themselves, or dequantised for this one use. */
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

/** @internal dy W, by the kernel where there is one. */
export function linearDx(dy: Tensor, weight: Tensor): Tensor {
  return linearDxOp([dy, weight])[0]
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
 * @param operand weight [N, K] of x's dtype, bias [N] f32, or int8 weights: see {@link linearInt8}; and a
 *   low-rank term: see {@link LoraTerm}
 * @returns [..., N] in x's dtype
 * @throws ShapeError when the weight does not have K inputs, or the bias not N elements
 */
export function linear(x: Tensor, operand: LinearOperand): Tensor {
  if (operand.lora) return loraLinear(x, [loraMember(x, operand)])[0] as Tensor
  if (operand.kind === 'int8') return linearInt8(x, operand)
  return linearOp([x, operand.weight, operand.bias ?? null])[0]
}
