// One to three linear layers over one x, each with a low-rank term beside its weight or without:
// y = x W^T + b + scale (x A^T) B^T. The term is extra K of the same product, and in the gradient of x all
// weights and terms are one sum; a frozen W gets no gradient, and none is computed for it.

import type { Tensor } from '../tensor/tensor.ts'
import { addInto } from './add-into.ts'
import { add, mul } from './binary.ts'
import { cast, copyInto } from './copy.ts'
import { defineOp, shapeError, spec, type TensorMeta } from './define.ts'
import { dropout } from './dropout.ts'
import { linearGradients } from './linear_dw.ts'
import { matmul } from './matmul.ts'

const MOST = 3

/** The low-rank term of a linear layer: scale (x A^T) B^T. */
export interface LoraTerm {
  /** [r, K], f32 or x's dtype, in which the product is made */
  readonly a: Tensor
  /** [N, r], f32 or x's dtype */
  readonly b: Tensor
  /** alpha / r, or alpha / sqrt(r) for rsLoRA. */
  readonly scale: number
  /** Training: dropout of the x that the term sees. */
  readonly dropout?: { readonly p: number; readonly key: Tensor } | null
}

/** One of the layers that {@link loraLinear} computes: dense weights, or what those of another kind gave. */
export type LoraMember = { readonly lora: LoraTerm | null } & (
  | { readonly weight: Tensor; readonly bias: Tensor | null }
  | { readonly base: Tensor }
)

export const loraLinearBackwardOp = defineOp({
  name: 'lora_linear.backward',
  inputs: [{ name: 'x', dtype: 'float', layout: 'rows' }],
  group: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'weight', dtype: 'float', optional: true },
    { name: 'a', dtype: 'float', mixed: true, optional: true },
    { name: 'b', dtype: 'float', mixed: true, optional: true },
    { name: 'xa', dtype: 'float', layout: 'rows', optional: true },
    { name: 'dropped', dtype: 'float', layout: 'rows', optional: true },
    { name: 'da', dtype: ['f32', 'f64'], inPlace: true, optional: true },
    { name: 'db', dtype: ['f32', 'f64'], inPlace: true, optional: true },
  ],
  outputs: [
    { name: 'dx', optional: true },
    { name: 'ddropped0', optional: true },
    { name: 'ddropped1', optional: true },
    { name: 'ddropped2', optional: true },
  ],
  // bit i of an accumulate: that of member i
  attributes: ['needsDx', 'scale0', 'scale1', 'scale2', 'accumulateA', 'accumulateB'],
  infer: ([x], [needsDx], members) => {
    const like = spec(x.shape, x.dtype)
    const dropped = (i: number) => (needsDx !== 0 && members[i]?.[5] ? like : null)
    return [needsDx === 0 ? null : like, dropped(0), dropped(1), dropped(2)]
  },
  differentiable: false,
  reference: ([x], [needsDx, scale0, scale1, scale2, accumulateA, accumulateB], members) => {
    const scales = [scale0, scale1, scale2]
    let dx: Tensor | null = null
    const join = (part: Tensor): void => {
      dx = dx === null ? part : add(dx, part)
    }
    const ddropped: (Tensor | null)[] = [null, null, null]
    for (const [i, [dy, weight, a, b, xa, dropped, da, db]] of members.entries()) {
      if (weight !== null) join(matmul(rowsOf(dy), weight))
      if (a === null || b === null || xa === null) continue
      const write = (target: Tensor | null, gradient: Tensor, accumulate: number): void => {
        if (target === null) return
        const put = (accumulate >> i) & 1 ? addInto : copyInto
        put(target, cast(gradient, target.dtype))
      }
      const dxa = mul(matmul(rowsOf(dy), cast(b, x.dtype)), scales[i] ?? 1)
      write(da, matmul(dxa.transpose(), rowsOf(dropped ?? x)), accumulateA)
      write(db, matmul(rowsOf(dy).transpose(), rowsOf(xa)), accumulateB)
      const low = matmul(dxa, cast(a, x.dtype))
      if (dropped === null) join(low)
      else ddropped[i] = low.reshape(x.shape)
    }
    if (needsDx === 0) return [null, null, null, null]
    return [dx === null ? mul(x, 0) : (dx as Tensor).reshape(x.shape), ...ddropped]
  },
  flops: ([x], [needsDx], members) =>
    members.reduce((total, [dy, weight, a]) => {
      const [rows, outputs, inputs] = [rowCount(x), dy.shape.at(-1) ?? 0, x.shape.at(-1) ?? 0]
      const rank = a?.shape[0] ?? 0
      const dx = needsDx === 0 ? 0 : (weight === null ? 0 : outputs * inputs) + rank * inputs
      return total + 2 * rows * (rank * (2 * outputs + inputs) + dx)
    }, 0),
})

export const loraLinearOp = defineOp({
  name: 'lora_linear',
  inputs: [{ name: 'x', dtype: 'float', layout: 'rows' }],
  group: [
    { name: 'weight', dtype: 'float', optional: true },
    { name: 'bias', dtype: 'float', mixed: true, optional: true },
    // in place of x W^T + b, for weights of other kinds
    { name: 'base', dtype: 'float', layout: 'rows', optional: true },
    { name: 'a', dtype: 'float', mixed: true, optional: true },
    { name: 'b', dtype: 'float', mixed: true, optional: true },
    // in place of x in the low-rank term
    { name: 'dropped', dtype: 'float', layout: 'rows', optional: true },
  ],
  outputs: [
    { name: 'y0' },
    { name: 'y1', optional: true },
    { name: 'y2', optional: true },
    { name: 'xa0', saved: true, optional: true },
    { name: 'xa1', saved: true, optional: true },
    { name: 'xa2', saved: true, optional: true },
  ],
  attributes: ['scale0', 'scale1', 'scale2'],
  infer: ([x], _, members) => {
    if (x.rank < 1) throw shapeError('loraLinear', 'x', 'of rank 1 or more', x)
    if (members.length < 1 || members.length > MOST) {
      throw shapeError('loraLinear', 'members', `1 to ${MOST}`, members.length)
    }
    const inputs = x.shape.at(-1) ?? 0
    const rows = x.shape.slice(0, -1)
    const member = (i: number) => {
      const group = members[i]
      if (group === undefined) return [null, null] as const
      const [weight, bias, base, a, b, dropped] = group
      const fail = (name: string, expected: string, received: unknown) =>
        shapeError('loraLinear', members.length === 1 ? name : `${name}${i}`, expected, received)
      if ((weight === null) === (base === null)) throw fail('weight', 'there, or base in its place', 'both')
      if (weight !== null && (weight.rank !== 2 || weight.shape[1] !== inputs)) {
        throw fail('weight', `[N, ${inputs}] to match x [${x.shape}]`, weight)
      }
      const outputs = (weight?.shape[0] ?? base?.shape.at(-1)) as number
      if (base !== null && !same(base.shape, [...rows, outputs])) {
        throw fail('base', `[${[...rows, 'N']}] to match x [${x.shape}]`, base)
      }
      if (bias !== null && (weight === null || bias.rank !== 1 || bias.shape[0] !== outputs)) {
        throw fail('bias', weight === null ? 'left out with base' : `[${outputs}] to match weight`, bias)
      }
      if ((a === null) !== (b === null)) throw fail(a === null ? 'a' : 'b', 'there beside the other', null)
      if (dropped !== null && (a === null || !same(dropped.shape, x.shape))) {
        throw fail('dropped', a === null ? 'left out without a and b' : `[${x.shape}] like x`, dropped)
      }
      const y = spec([...rows, outputs], x.dtype)
      if (a === null || b === null) return [y, null] as const
      if (a.rank !== 2 || a.shape[1] !== inputs) throw fail('a', `[r, ${inputs}] to match x [${x.shape}]`, a)
      const rank = a.shape[0] ?? 0
      if (!same(b.shape, [outputs, rank])) {
        throw fail('b', `[${outputs}, ${rank}] to match ${weight === null ? 'base' : 'weight'} and a`, b)
      }
      return [y, spec([...rows, rank], x.dtype)] as const
    }
    const [[y0, xa0], [y1, xa1], [y2, xa2]] = [member(0), member(1), member(2)]
    return [y0 as NonNullable<typeof y0>, y1, y2, xa0, xa1, xa2]
  },
  reference: ([x], [scale0, scale1, scale2], members) => {
    const scales = [scale0, scale1, scale2]
    const ys: (Tensor | null)[] = [null, null, null]
    const xas: (Tensor | null)[] = [null, null, null]
    for (const [i, [weight, bias, base, a, b, dropped]] of members.entries()) {
      const times = (rows: Tensor, matrix: Tensor): Tensor =>
        matmul(rowsOf(rows), cast(matrix, x.dtype).transpose()).reshape([
          ...rows.shape.slice(0, -1),
          matrix.shape[0] ?? 0,
        ])
      let y = base ?? times(x, weight as Tensor)
      if (bias !== null) y = add(y, cast(bias, x.dtype))
      if (a !== null && b !== null) {
        const xa = mul(times(dropped ?? x, a), scales[i] ?? 1)
        xas[i] = xa
        y = add(y, times(xa, b))
      }
      ys[i] = y === base ? mul(y, 1) : y
    }
    return [...ys, ...xas]
  },
  saves: ['x', 'weight', 'a', 'b', 'dropped', 'xa0', 'xa1', 'xa2'],
  vjp: ({ inputs: [x], groups, outputs: [, , , ...xas], attributes, grads, needs, gradTarget }) => {
    let accumulateA = 0
    let accumulateB = 0
    const at = (i: number, input: number): number => 1 + 6 * i + input
    const targets = groups.map((_, i) => {
      const da = needs(at(i, 3)) ? gradTarget(at(i, 3)) : null
      const db = needs(at(i, 4)) ? gradTarget(at(i, 4)) : null
      if (da?.accumulate) accumulateA |= 1 << i
      if (db?.accumulate) accumulateB |= 1 << i
      return { da: da?.tensor ?? null, db: db?.tensor ?? null }
    })
    const dropped = groups.some((group, i) => group[5] !== null && needs(at(i, 5)))
    const [dx, ...ddropped] = loraLinearBackwardOp(
      [x],
      [needs(0) || dropped, ...attributes, accumulateA, accumulateB],
      groups.map(([weight, , , a, b, dropped], i) => {
        const { da, db } = targets[i] as (typeof targets)[number]
        return [grads[i] as Tensor, weight, a, b, xas[i] ?? null, dropped, da, db] as const
      }),
    )
    const gradients: (Tensor | null)[] = [dx]
    for (const [i, [, bias]] of groups.entries()) {
      const dy = grads[i] as Tensor
      const { da, db } = targets[i] as (typeof targets)[number]
      const dw = needs(at(i, 0)) ? gradTarget(at(i, 0)) : null
      const dbias = bias !== null && needs(at(i, 1)) ? gradTarget(at(i, 1)) : null
      gradients.push(...linearGradients(dy, x, dw, dbias))
      gradients.push(needs(at(i, 2)) ? dy : null, da, db, ddropped[i] ?? null)
    }
    return gradients
  },
  flops: ([x], _, members) =>
    members.reduce((total, [weight, , base, a]) => {
      const inputs = x.shape.at(-1) ?? 0
      const outputs = (weight?.shape[0] ?? base?.shape.at(-1)) as number
      const rank = a?.shape[0] ?? 0
      return total + 2 * rowCount(x) * ((weight === null ? 0 : outputs * inputs) + rank * (inputs + outputs))
    }, 0),
})

/** [..., D] as [rows, D]. */
function rowsOf(x: Tensor): Tensor {
  return x.rank === 2 ? x : x.reshape([rowCount(x), x.shape.at(-1) ?? 0])
}

function rowCount({ shape }: TensorMeta): number {
  return shape.slice(0, -1).reduce((product, n) => product * n, 1)
}

function same(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i])
}

/**
 * x W^T + bias + scale (x A^T) B^T over the last axis for one to three layers; accumulates in float32,
 * keeps x A^T in x's dtype. A weight that requires no gradient costs none.
 * @param x [..., K] f32 | bf16
 * @param members weight [N, K] of x's dtype and bias [N], or base [..., N]; each with a term or null
 * @returns one [..., N] per member, in x's dtype
 * @throws ShapeError when shapes do not fit
 * Source: Hu et al. 2021, "LoRA"
 */
export function loraLinear(x: Tensor, members: readonly LoraMember[]): Tensor[] {
  const scales = [0, 1, 2].map((i) => members[i]?.lora?.scale ?? 1) as [number, number, number]
  const groups = members.map((member) => {
    const { lora } = member
    const [weight, bias, base] =
      'base' in member ? [null, null, member.base] : [member.weight, member.bias, null]
    const dropped = lora?.dropout ? dropout(x, lora.dropout.key, lora.dropout.p) : null
    return [weight, bias, base, lora?.a ?? null, lora?.b ?? null, dropped] as const
  })
  return loraLinearOp([x], scales, groups).slice(0, members.length) as Tensor[]
}
