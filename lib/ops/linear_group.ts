// Two or three linear layers over one x (queries, keys and values; gate and up): x is packed once,
// and its gradient is one sum over all outputs, kept in float32 until the end.

import type { Tensor } from '../tensor/tensor.ts'
import { add } from './binary.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { type DenseOperand, type LinearOperand, linear, linearDx, loraMember } from './linear.ts'
import { linearGradients } from './linear_dw.ts'
import { loraLinear } from './lora_linear.ts'
import type { TensorMeta } from './spec.ts'

export const linearGroupDxOp = defineOp({
  name: 'linear_group.dx',
  inputs: [
    { name: 'dy0', dtype: 'float', layout: 'rows' },
    { name: 'weight0', dtype: 'float' },
    { name: 'dy1', dtype: 'float', layout: 'rows' },
    { name: 'weight1', dtype: 'float' },
    { name: 'dy2', dtype: 'float', layout: 'rows', optional: true },
    { name: 'weight2', dtype: 'float', optional: true },
  ],
  outputs: [{ name: 'dx' }],
  infer: ([dy0, weight0, dy1, weight1, dy2, weight2]) => {
    const inputs = weight0.shape[1] ?? 0
    for (const [i, dy, weight] of [
      [0, dy0, weight0],
      [1, dy1, weight1],
      [2, dy2, weight2],
    ] as const) {
      if (dy === null && weight === null) continue
      const rows = dy?.shape.slice(0, -1)
      if (!dy || `${rows}` !== `${dy0.shape.slice(0, -1)}`) {
        throw shapeError('linearGroup.dx', `dy${i}`, `[${[...dy0.shape.slice(0, -1), 'N']}] like dy0`, dy)
      }
      const expected = `[${dy.shape.at(-1)}, ${inputs}] to match dy${i} [${dy.shape}]`
      if (weight?.rank !== 2 || weight.shape[0] !== dy.shape.at(-1) || weight.shape[1] !== inputs) {
        throw shapeError('linearGroup.dx', `weight${i}`, expected, weight)
      }
    }
    return [spec([...dy0.shape.slice(0, -1), inputs], dy0.dtype)]
  },
  differentiable: false,
  reference: ([dy0, weight0, dy1, weight1, dy2, weight2]) => {
    const two = add(linearDx(dy0, weight0), linearDx(dy1, weight1))
    return [dy2 === null || weight2 === null ? two : add(two, linearDx(dy2, weight2))]
  },
  flops: ([dy0, weight0, dy1, , dy2]) =>
    2 * size(dy0.shape.slice(0, -1)) * (weight0.shape[1] ?? 0) * outputs(dy0, dy1, dy2),
})

export const linearGroupOp = defineOp({
  name: 'linear_group',
  inputs: [
    { name: 'x', dtype: 'float', layout: 'rows' },
    { name: 'weight0', dtype: 'float' },
    { name: 'bias0', dtype: 'float', mixed: true, optional: true },
    { name: 'weight1', dtype: 'float' },
    { name: 'bias1', dtype: 'float', mixed: true, optional: true },
    { name: 'weight2', dtype: 'float', optional: true },
    { name: 'bias2', dtype: 'float', mixed: true, optional: true },
  ],
  outputs: [{ name: 'y0' }, { name: 'y1' }, { name: 'y2', optional: true }],
  infer: ([x, weight0, bias0, weight1, bias1, weight2, bias2]) => {
    if (x.rank < 1) throw shapeError('linearGroup', 'x', 'of rank 1 or more', x)
    const output = (i: number, weight: TensorMeta, bias: TensorMeta | null) => {
      if (weight.rank !== 2 || weight.shape[1] !== x.shape.at(-1)) {
        throw shapeError(
          'linearGroup',
          `weight${i}`,
          `[N, ${x.shape.at(-1)}] to match x [${x.shape}]`,
          weight,
        )
      }
      const rows = weight.shape[0] ?? 0
      if (bias !== null && (bias.rank !== 1 || bias.shape[0] !== rows)) {
        throw shapeError('linearGroup', `bias${i}`, `[${rows}] to match weight${i} [${weight.shape}]`, bias)
      }
      return spec([...x.shape.slice(0, -1), rows], x.dtype)
    }
    if (weight2 === null && bias2 !== null) {
      throw shapeError('linearGroup', 'bias2', 'left out like weight2', bias2)
    }
    return [output(0, weight0, bias0), output(1, weight1, bias1), weight2 && output(2, weight2, bias2)]
  },
  reference: ([x, weight0, bias0, weight1, bias1, weight2, bias2]) => [
    linear(x, { weight: weight0, bias: bias0 }),
    linear(x, { weight: weight1, bias: bias1 }),
    weight2 && linear(x, { weight: weight2, bias: bias2 }),
  ],
  saves: ['x', 'weight0', 'weight1', 'weight2'],
  vjp: ({ inputs, grads: [dy0, dy1, dy2], needs, gradTarget }) => {
    const [x, weight0, , weight1, , weight2] = inputs
    const dx = needs(0) ? linearGroupDxOp([dy0, weight0, dy1, weight1, dy2, weight2])[0] : null
    const of = (at: number, dy: Tensor): readonly (Tensor | null)[] =>
      linearGradients(dy, x, needs(at) ? gradTarget(at) : null, needs(at + 1) ? gradTarget(at + 1) : null)
    return [dx, ...of(1, dy0), ...of(3, dy1), ...(dy2 === null ? [null, null] : of(5, dy2))]
  },
  flops: ([x, weight0, , weight1, , weight2]) =>
    2 * size(x.shape) * ((weight0.shape[0] ?? 0) + (weight1.shape[0] ?? 0) + (weight2?.shape[0] ?? 0)),
})

function outputs(...dys: readonly (TensorMeta | null)[]): number {
  return dys.reduce((sum, dy) => sum + (dy?.shape.at(-1) ?? 0), 0)
}

function size(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1)
}

/**
 * Several linear layers over one x, as `linear` for each; accumulates in float32.
 * @param x [..., K] f32 | bf16
 * @param operands two or three; dense ones (weight [N, K] of x's dtype, bias [N]) in one call
 * @returns one [..., N] per operand, in x's dtype
 * @throws ShapeError when a weight does not have K inputs, or a bias not N elements
 */
export function linearGroup(
  x: Tensor,
  operands: readonly [LinearOperand, LinearOperand, LinearOperand],
): [Tensor, Tensor, Tensor]
export function linearGroup(x: Tensor, operands: readonly [LinearOperand, LinearOperand]): [Tensor, Tensor]
export function linearGroup(
  x: Tensor,
  operands: readonly [LinearOperand, LinearOperand, LinearOperand?],
): (Tensor | null)[] {
  const given = operands.filter((operand) => operand !== undefined)
  const results = new Map<LinearOperand, Tensor>()
  if (given.some(({ lora }) => lora)) {
    // weights without a term join those that have one: the gradient of x is one sum of all
    const members = given.filter((operand) => operand.lora || operand.kind !== 'int8')
    const ys = loraLinear(
      x,
      members.map((operand) => loraMember(x, operand)),
    )
    members.forEach((operand, i) => {
      results.set(operand, ys[i] as Tensor)
    })
  } else if (given.every(isDense)) {
    const [first, second, third] = given as [DenseOperand, DenseOperand, DenseOperand?]
    return [
      ...linearGroupOp([
        x,
        first.weight,
        first.bias ?? null,
        second.weight,
        second.bias ?? null,
        third?.weight ?? null,
        third?.bias ?? null,
      ]),
    ]
  }
  // weights of other kinds are not stacked
  return given.map((operand) => results.get(operand) ?? linear(x, operand))
}

function isDense(operand: LinearOperand): operand is DenseOperand {
  return operand.kind !== 'int8'
}
