// y = x W^T + b with W in int8. Two computations, told apart by the operand's `activations` and by
// nothing else: they differ in accuracy, so neither the number of rows nor the machine may choose.

import { ValueError } from '../runtime/errors.ts'
import { mode } from '../tensor/mode.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { addInto } from './add-into.ts'
import { add } from './binary.ts'
import { cast, copyInto } from './copy.ts'
import { defineOp, shapeError, spec, type TensorMeta } from './define.ts'
import { checkScales, dequantizedRows, quantizedRows } from './int8.ts'
import { matmul } from './matmul.ts'
import type { Int8Matrix } from './quantize_int8.ts'
import { sum } from './reduce.ts'

/** int8 weights, with an optional bias. They are constants: no gradient reaches them. */
export interface Int8Operand extends Int8Matrix {
  readonly kind: 'int8'
  /** [N], f32 */
  readonly bias?: Tensor | null
  /**
   * `'float'` (default) multiplies x as it is: the only error is that of the stored weights, and x may
   * require a gradient. `'int8'` quantises x, too, as the weights are (by row, or by row and group): the
   * faster one for many rows, for inference alone, and wrong by whole steps where single channels of x
   * dwarf the others of their group.
   */
  readonly activations?: 'float' | 'int8'
}

const rowsOf = (x: TensorMeta): number => x.shape.slice(0, -1).reduce((product, n) => product * n, 1)

function inferLinear(
  op: string,
  x: TensorMeta,
  values: TensorMeta,
  scales: TensorMeta,
  bias: TensorMeta | null,
  group: number,
): readonly number[] {
  if (x.rank < 1) throw shapeError(op, 'x', 'of rank 1 or more', x)
  checkScales(op, values, scales, group)
  if (values.shape[1] !== x.shape.at(-1)) {
    throw shapeError(op, 'values', `[N, ${x.shape.at(-1)}] to match x [${x.shape}]`, values)
  }
  const outputs = values.shape[0] ?? 0
  if (bias !== null && (bias.rank !== 1 || bias.shape[0] !== outputs)) {
    throw shapeError(op, 'bias', `[${outputs}] to match values [${values.shape}]`, bias)
  }
  return [...x.shape.slice(0, -1), outputs]
}

const withBias = (y: Tensor, bias: Tensor | null): Tensor => (bias === null ? y : add(y, cast(bias, y.dtype)))

export const linearInt8DxOp = defineOp({
  name: 'linear_int8.dx',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'values', dtype: 'i8' },
    { name: 'scales', dtype: 'f32' },
  ],
  outputs: [{ name: 'dx' }],
  attributes: ['group'],
  infer: ([dy, values, scales], [group]) => {
    checkScales('linearInt8.dx', values, scales, group)
    if (values.shape[0] !== dy.shape.at(-1)) {
      throw shapeError('linearInt8.dx', 'values', `[${dy.shape.at(-1)}, K] to match dy [${dy.shape}]`, values)
    }
    return [spec([...dy.shape.slice(0, -1), values.shape[1] ?? 0], dy.dtype)]
  },
  differentiable: false,
  reference: ([dy, values, scales], [group]) => {
    const wide = dy.dtype === 'f64' ? 'f64' : 'f32'
    const weight = dequantizedRows(values, scales, { group, dtype: wide })
    const rows = cast(dy, wide).reshape([rowsOf(dy), dy.shape.at(-1) ?? 0])
    const shape = [...dy.shape.slice(0, -1), values.shape[1] ?? 0]
    return [cast(matmul(rows, weight).reshape(shape), dy.dtype)]
  },
  flops: ([dy, values]) => 2 * rowsOf(dy) * (dy.shape.at(-1) ?? 0) * (values.shape[1] ?? 0),
})

const linearInputs = [
  { name: 'x', dtype: 'float', layout: 'rows' },
  { name: 'values', dtype: 'i8' },
  { name: 'scales', dtype: 'f32' },
  { name: 'bias', dtype: 'float', mixed: true, optional: true },
] as const

export const linearInt8Op = defineOp({
  name: 'linear_int8',
  inputs: linearInputs,
  outputs: [{ name: 'y' }],
  attributes: ['group'],
  infer: ([x, values, scales, bias], [group]) => [
    spec(inferLinear('linearInt8', x, values, scales, bias, group), x.dtype),
  ],
  reference: ([x, values, scales, bias], [group]) => {
    const wide = x.dtype === 'f64' ? 'f64' : 'f32'
    const weight = dequantizedRows(values, scales.detach(), { group, dtype: wide })
    const rows = cast(x, wide).reshape([rowsOf(x), x.shape.at(-1) ?? 0])
    const shape = [...x.shape.slice(0, -1), values.shape[0] ?? 0]
    return [cast(withBias(matmul(rows, weight.transpose()).reshape(shape), bias), x.dtype)]
  },
  saves: ['values', 'scales'],
  vjp: ({ inputs: [, values, scales, bias], attributes: [group], grads: [dy], needs, gradTarget }) => {
    const dx = needs(0) ? linearInt8DxOp([dy, values, scales], [group])[0] : null
    const dbias = bias !== null && needs(3) ? gradTarget(3) : null
    if (dbias !== null) {
      const write = dbias.accumulate ? addInto : copyInto
      const rows = dy.reshape([rowsOf(dy), dy.shape.at(-1) ?? 0])
      write(dbias.tensor, sum(cast(rows, dbias.tensor.dtype), [0]))
    }
    return [dx, null, null, dbias?.tensor ?? null]
  },
  flops: ([x, values]) => 2 * rowsOf(x) * (x.shape.at(-1) ?? 0) * (values.shape[0] ?? 0),
})

export const linearInt8DynamicOp = defineOp({
  name: 'linear_int8_dynamic',
  inputs: linearInputs,
  outputs: [{ name: 'y' }],
  attributes: ['group'],
  infer: ([x, values, scales, bias], [group]) => [
    spec(inferLinear('linearInt8Dynamic', x, values, scales, bias, group), x.dtype),
  ],
  differentiable: false,
  reference: ([x, values, scales, bias], [group]) => {
    const wide = x.dtype === 'f64' ? 'f64' : 'f32'
    const weight = dequantizedRows(values, scales, { group, dtype: wide })
    const quantized = quantizedRows(x.reshape([rowsOf(x), x.shape.at(-1) ?? 0]), group)
    const rows = dequantizedRows(quantized.values, quantized.scales, { group, dtype: wide })
    const shape = [...x.shape.slice(0, -1), values.shape[0] ?? 0]
    return [cast(withBias(matmul(rows, weight.transpose()).reshape(shape), bias), x.dtype)]
  },
  flops: ([x, values]) => 2 * rowsOf(x) * (x.shape.at(-1) ?? 0) * (values.shape[0] ?? 0),
})

/**
 * x W^T + b over the last axis, W in int8; accumulates in float32 (products of two int8 exactly, in
 * int32). Gradients reach x and the bias, never the weights.
 * @param x [..., K] f32 | bf16
 * @param operand values [N, K], scales, group as {@link quantizeInt8} makes them; bias [N] f32
 * @returns [..., N] in x's dtype
 * @throws ShapeError when the parts do not fit; ValueError when the scales require a gradient, or x does
 *   and activations are int8
 */
export function linearInt8(x: Tensor, operand: Int8Operand): Tensor {
  const { values, scales, group, bias = null, activations = 'float' } = operand
  if (scales.requiresGrad && mode.grad) {
    throw new ValueError('linearInt8: int8 weights are constants, and scales require a gradient')
  }
  const op = activations === 'int8' ? linearInt8DynamicOp : linearInt8Op
  return op([x, values, scales, bias], [group])[0]
}
