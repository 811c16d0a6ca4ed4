// Element functions of one tensor.

import { installMethods } from '../tensor/methods.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { div, less, mul, sub } from './binary.ts'
import { cast } from './copy.ts'
import { defineOp, type InputDType, type Op, spec } from './define.ts'

type Gradient = (dy: Tensor, x: Tensor, y: Tensor) => Tensor

/** `saves` says which of x and y the gradient reads. */
function unaryOp(
  name: string,
  saves: readonly ('x' | 'y')[],
  gradient: Gradient,
  dtype: InputDType = 'float',
): Op<
  readonly [{ readonly name: 'x'; readonly dtype: InputDType; readonly layout: 'any' }],
  readonly [{ readonly name: 'y' }],
  readonly []
> {
  return defineOp({
    name,
    inputs: [{ name: 'x', dtype, layout: 'any' }],
    outputs: [{ name: 'y' }],
    infer: ([x]) => [spec(x.shape, x.dtype)],
    primitive: true,
    saves,
    vjp: ({ inputs: [x], outputs: [y], grads: [dy] }) => [gradient(dy, x, y)],
  })
}

const SIGNED = ['f32', 'bf16', 'f64', 'i32'] as const

export const negOp = unaryOp('neg', [], (dy) => neg(dy), SIGNED)
export const absOp = unaryOp(
  'abs',
  ['x'],
  (dy, x) => mul(dy, sub(cast(less(0, x), x.dtype), cast(less(x, 0), x.dtype))),
  SIGNED,
)
export const expOp = unaryOp('exp', ['y'], (dy, _, y) => mul(dy, y))
export const logOp = unaryOp('log', ['x'], (dy, x) => div(dy, x))
export const sqrtOp = unaryOp('sqrt', ['y'], (dy, _, y) => div(mul(dy, 0.5), y))
export const rsqrtOp = unaryOp('rsqrt', ['x', 'y'], (dy, x, y) => mul(mul(dy, -0.5), div(y, x)))
export const sinOp = unaryOp('sin', ['x'], (dy, x) => mul(dy, cos(x)))
export const cosOp = unaryOp('cos', ['x'], (dy, x) => neg(mul(dy, sin(x))))
export const tanhOp = unaryOp('tanh', ['y'], (dy, _, y) => mul(dy, sub(1, mul(y, y))))
export const sigmoidOp = unaryOp('sigmoid', ['y'], (dy, _, y) => mul(dy, sub(y, mul(y, y))))
export const erfOp = unaryOp('erf', ['x'], (dy, x) =>
  mul(mul(dy, 2 / Math.sqrt(Math.PI)), exp(neg(mul(x, x)))),
)

/** -x. Float or i32, any shape. */
export const neg = (x: Tensor): Tensor => negOp([x])[0]
/** |x|; its gradient at 0 is 0. Float or i32. */
export const abs = (x: Tensor): Tensor => absOp([x])[0]
/** e^x. */
export const exp = (x: Tensor): Tensor => expOp([x])[0]
/** Natural logarithm; NaN below 0. */
export const log = (x: Tensor): Tensor => logOp([x])[0]
/** Square root; NaN below 0. */
export const sqrt = (x: Tensor): Tensor => sqrtOp([x])[0]
/** 1 / sqrt(x). */
export const rsqrt = (x: Tensor): Tensor => rsqrtOp([x])[0]
/** Sine of radians. */
export const sin = (x: Tensor): Tensor => sinOp([x])[0]
/** Cosine of radians. */
export const cos = (x: Tensor): Tensor => cosOp([x])[0]
/** Hyperbolic tangent. */
export const tanh = (x: Tensor): Tensor => tanhOp([x])[0]
/** Error function: 2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x. */
export const erf = (x: Tensor): Tensor => erfOp([x])[0]
/** 1 / (1 + e^-x). */
export const sigmoid = (x: Tensor): Tensor => sigmoidOp([x])[0]

export const powOp = defineOp({
  name: 'pow',
  inputs: [{ name: 'x', dtype: 'float', layout: 'any' }],
  outputs: [{ name: 'y' }],
  attributes: ['exponent'],
  infer: ([x]) => [spec(x.shape, x.dtype)],
  primitive: true,
  saves: ['x'],
  vjp: ({ inputs: [x], attributes: [exponent], grads: [dy] }) => [
    exponent === 0 ? mul(dy, 0) : mul(mul(dy, exponent), pow(x, exponent - 1)),
  ],
})

/** x * x. */
export const square = (x: Tensor): Tensor => mul(x, x)

/** x^exponent; NaN for a negative x and an exponent that is not whole. 2, 1/2 and -1/2 are fastest. */
export function pow(x: Tensor, exponent: number): Tensor {
  if (exponent === 2) return square(x)
  if (exponent === 0.5) return sqrt(x)
  if (exponent === -0.5) return rsqrt(x)
  return powOp([x], [exponent])[0]
}

declare module '../tensor/tensor.ts' {
  interface Tensor {
    /** {@link neg}(this). */
    neg(): Tensor
    /** {@link abs}(this). */
    abs(): Tensor
    /** {@link exp}(this). */
    exp(): Tensor
    /** {@link log}(this). */
    log(): Tensor
    /** {@link sqrt}(this). */
    sqrt(): Tensor
    /** {@link rsqrt}(this). */
    rsqrt(): Tensor
    /** {@link sin}(this). */
    sin(): Tensor
    /** {@link cos}(this). */
    cos(): Tensor
    /** {@link tanh}(this). */
    tanh(): Tensor
    /** {@link erf}(this). */
    erf(): Tensor
    /** {@link sigmoid}(this). */
    sigmoid(): Tensor
    /** {@link square}(this). */
    square(): Tensor
    /** {@link pow}(this, exponent). */
    pow(exponent: number): Tensor
  }
}

installMethods({ neg, abs, exp, log, sqrt, rsqrt, sin, cos, tanh, erf, sigmoid, square, pow })
