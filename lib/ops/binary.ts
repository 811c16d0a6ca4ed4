// Element functions of two tensors, broadcast as NumPy does: axes of size 1, and missing ones in
// front, are repeated as views. Either operand may be a number.

import { ValueError } from '../runtime/errors.ts'
import { shown } from '../runtime/options.ts'
import { broadcastShapes, sameShape } from '../tensor/layout.ts'
import { installMethods } from '../tensor/methods.ts'
import { noGrad } from '../tensor/mode.ts'
import { scope } from '../tensor/scope.ts'
import { Tensor } from '../tensor/tensor.ts'
import { cast } from './copy.ts'
import { full } from './create.ts'
import { defineOp, type Op, publicName, shapeError, spec } from './define.ts'

export type Operand = Tensor | number

type Gradients = (context: {
  readonly dy: Tensor
  readonly a: Tensor
  readonly b: Tensor
  readonly y: Tensor
  readonly needs: (index: number) => boolean
}) => readonly [Tensor | null, Tensor | null]

type BinaryOp = Op<
  readonly [{ readonly name: 'a'; readonly layout: 'any' }, { readonly name: 'b'; readonly layout: 'any' }],
  readonly [{ readonly name: 'y' }],
  readonly []
>

const inputs = [
  { name: 'a', layout: 'any' },
  { name: 'b', layout: 'any' },
] as const

function binaryOp(name: string, saves: readonly ('a' | 'b' | 'y')[], gradients: Gradients): BinaryOp {
  const label = publicName(name)
  return defineOp({
    name,
    inputs,
    outputs: [{ name: 'y' }],
    infer: ([a, b]) => {
      checkAlike(label, a, b)
      return [spec(a.shape, a.dtype)]
    },
    primitive: true,
    saves,
    vjp: ({ inputs: [a, b], outputs: [y], grads: [dy], needs }) => gradients({ dy, a, b, y, needs }),
  })
}

function comparison(name: string): BinaryOp {
  const label = publicName(name)
  return defineOp({
    name,
    inputs,
    outputs: [{ name: 'y' }],
    infer: ([a, b]) => {
      checkAlike(label, a, b)
      return [spec(a.shape, 'u8')]
    },
    primitive: true,
    saves: [],
    // a step function: its gradient is zero wherever it has one
    vjp: () => [null, null],
  })
}

type Alike = { readonly shape: readonly number[]; readonly dtype: string }

function checkAlike(name: string, a: Alike, b: Alike): void {
  if (!sameShape(a.shape, b.shape)) throw shapeError(name, 'b', `[${a.shape}] like a`, b)
  if (a.dtype !== b.dtype) throw shapeError(name, 'b', `${a.dtype} like a`, b)
}

/** The operands as tensors of one shape. */
function broadcast(name: string, a: Operand, b: Operand): readonly [Tensor, Tensor] {
  if (a instanceof Tensor && b instanceof Tensor) {
    const shape = broadcastShapes(name, a.shape, b.shape)
    return [sameShape(a.shape, shape) ? a : a.expand(shape), sameShape(b.shape, shape) ? b : b.expand(shape)]
  }
  if (a instanceof Tensor) return [a, scalar(a, b as number)]
  if (b instanceof Tensor) return [scalar(b, a), b]
  throw shapeError(name, 'a', 'a tensor on at least one side', `${a} and ${b}`)
}

function scalar(like: Tensor, value: number): Tensor {
  const one = full([], value, { dtype: like.dtype, device: like.device })
  const view = one.expand(like.shape)
  one.dispose()
  return view
}

function broadcasting(op: BinaryOp): (a: Operand, b: Operand) => Tensor {
  const label = publicName(op.definition.name)
  return (a, b) => {
    const [x, y] = broadcast(label, a, b)
    const [z] = op([x, y])
    if (x !== a) x.dispose()
    if (y !== b) y.dispose()
    return z
  }
}

export const addOp = binaryOp('add', [], ({ dy }) => [dy, dy])
export const subOp = binaryOp('sub', [], ({ dy, needs }) => [dy, needs(1) ? mul(dy, -1) : null])
export const mulOp = binaryOp('mul', ['a', 'b'], ({ dy, a, b, needs }) => [
  needs(0) ? mul(dy, b) : null,
  needs(1) ? mul(dy, a) : null,
])
export const divOp = binaryOp('div', ['b', 'y'], ({ dy, b, y, needs }) => {
  const da = div(dy, b)
  return [da, needs(1) ? mul(mul(da, y), -1) : null]
})
export const maximumOp = binaryOp('maximum', ['a', 'b'], ({ dy, a, b }) => split(dy, less(b, a), equal(a, b)))
export const minimumOp = binaryOp('minimum', ['a', 'b'], ({ dy, a, b }) => split(dy, less(a, b), equal(a, b)))
export const equalOp = comparison('equal')
export const notEqualOp = comparison('not_equal')
export const lessOp = comparison('less')
export const lessEqualOp = comparison('less_equal')

/** dy to a where `first`, halved where `tie` (as PyTorch does), else to b. */
function split(dy: Tensor, first: Tensor, tie: Tensor): readonly [Tensor, Tensor] {
  const toA = where(tie, mul(dy, 0.5), mul(dy, cast(first, dy.dtype)))
  return [toA, sub(dy, toA)]
}

/** a + b. Integers wrap. @throws ShapeError when the shapes do not broadcast or the dtypes differ */
export const add = broadcasting(addOp)
/** a - b. @throws ShapeError as {@link add} */
export const sub = broadcasting(subOp)
/** a * b. @throws ShapeError as {@link add} */
export const mul = broadcasting(mulOp)
/** a / b; for integers truncated, and 0 when b is 0. @throws ShapeError as {@link add} */
export const div = broadcasting(divOp)
/** The larger; NaN if either is. A tie splits its gradient. @throws ShapeError as {@link add} */
export const maximum = broadcasting(maximumOp)
/** The smaller; NaN if either is. A tie splits its gradient. @throws ShapeError as {@link add} */
export const minimum = broadcasting(minimumOp)
/** 1 where a = b, else 0, as u8. @throws ShapeError as {@link add} */
export const equal = broadcasting(equalOp)
/** 1 where a is not b (so where either is NaN), else 0, as u8. @throws ShapeError as {@link add} */
export const notEqual = broadcasting(notEqualOp)
/** 1 where a < b, else 0, as u8. @throws ShapeError as {@link add} */
export const less = broadcasting(lessOp)
/** 1 where a <= b, else 0, as u8. @throws ShapeError as {@link add} */
export const lessEqual = broadcasting(lessEqualOp)
/** 1 where a > b, else 0, as u8. @throws ShapeError as {@link add} */
export const greater = (a: Operand, b: Operand): Tensor => less(b, a)
/** 1 where a >= b, else 0, as u8. @throws ShapeError as {@link add} */
export const greaterEqual = (a: Operand, b: Operand): Tensor => lessEqual(b, a)
/**
 * x bounded to [low, high]; all of it high where low is above. NaN stays. Its gradient goes through from low to high,
 * both included, and is 0 elsewhere, at NaN too (PyTorch's clamp).
 * @param low -Infinity for none
 * @param high Infinity for none
 * @throws ValueError for a bound that is no number
 */
export function clamp(x: Tensor, low: number, high: number): Tensor {
  for (const [name, bound] of Object.entries({ low, high })) {
    if (typeof bound !== 'number' || Number.isNaN(bound)) {
      throw new ValueError(`clamp: ${name} must be a number, received ${shown(bound)}`)
    }
  }
  // where passes the gradient on at a bound, which maximum and minimum split
  return scope(() => {
    const raised =
      low === Number.NEGATIVE_INFINITY && high !== Number.POSITIVE_INFINITY
        ? x
        : where(
            lessEqual(low, x),
            x,
            noGrad(() => maximum(x, low)),
          )
    if (high === Number.POSITIVE_INFINITY) return raised
    return where(
      lessEqual(raised, high),
      raised,
      noGrad(() => minimum(raised, high)),
    )
  })
}

export const whereOp = defineOp({
  name: 'where',
  inputs: [
    { name: 'cond', dtype: 'u8', layout: 'any' },
    { name: 'a', layout: 'any' },
    { name: 'b', layout: 'any' },
  ],
  outputs: [{ name: 'y' }],
  infer: ([cond, a, b]) => {
    if (!sameShape(cond.shape, a.shape)) throw shapeError('where', 'a', `[${cond.shape}] like cond`, a)
    if (!sameShape(cond.shape, b.shape)) throw shapeError('where', 'b', `[${cond.shape}] like cond`, b)
    if (a.dtype !== b.dtype) throw shapeError('where', 'b', `${a.dtype} like a`, b)
    return [spec(a.shape, a.dtype)]
  },
  primitive: true,
  saves: ['cond'],
  vjp: ({ inputs: [cond], grads: [dy] }) => {
    const zero = full([], 0, { dtype: dy.dtype, device: dy.device }).expand(dy.shape)
    return [null, where(cond, dy, zero), where(cond, zero, dy)]
  },
})

/**
 * a where cond is not 0, else b; the three broadcast.
 * @param cond u8
 * @throws ShapeError when the shapes do not broadcast or a and b differ in dtype
 */
export function where(cond: Tensor, a: Tensor, b: Tensor): Tensor {
  const shape = broadcastShapes('where', cond.shape, broadcastShapes('where', a.shape, b.shape))
  const given = [cond, a, b] as const
  const expanded = (t: Tensor): Tensor => (sameShape(t.shape, shape) ? t : t.expand(shape))
  const parts = [expanded(cond), expanded(a), expanded(b)] as const
  const [y] = whereOp(parts)
  parts.forEach((part, i) => {
    if (part !== given[i]) part.dispose()
  })
  return y
}

declare module '../tensor/tensor.ts' {
  interface Tensor {
    /** {@link add}(this, b). */
    add(b: Operand): Tensor
    /** {@link sub}(this, b). */
    sub(b: Operand): Tensor
    /** {@link mul}(this, b). */
    mul(b: Operand): Tensor
    /** {@link div}(this, b). */
    div(b: Operand): Tensor
    /** {@link maximum}(this, b). */
    maximum(b: Operand): Tensor
    /** {@link minimum}(this, b). */
    minimum(b: Operand): Tensor
    /** {@link equal}(this, b). */
    equal(b: Operand): Tensor
    /** {@link notEqual}(this, b). */
    notEqual(b: Operand): Tensor
    /** {@link less}(this, b). */
    less(b: Operand): Tensor
    /** {@link lessEqual}(this, b). */
    lessEqual(b: Operand): Tensor
    /** {@link greater}(this, b). */
    greater(b: Operand): Tensor
    /** {@link greaterEqual}(this, b). */
    greaterEqual(b: Operand): Tensor
    /** {@link clamp}(this, low, high). */
    clamp(low: number, high: number): Tensor
  }
}

installMethods({
  add,
  sub,
  mul,
  div,
  maximum,
  minimum,
  equal,
  notEqual,
  less,
  lessEqual,
  greater,
  greaterEqual,
  clamp,
})
