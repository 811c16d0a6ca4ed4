import { ConfigError } from '../runtime/errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add, mul } from './binary.ts'
import { cast } from './copy.ts'
import { defineOp, spec } from './define.ts'
import { erf, sigmoid, tanh } from './unary.ts'

/**
 * How the normal distribution in gelu is computed: by its definition, by PyTorch's `'tanh'`
 * approximation (GPT-2's `gelu_new`), or as sigmoid(1.702 x) (`quick_gelu`).
 */
export type GeluApproximation = 'none' | 'tanh' | 'quick'

const codes: Readonly<Record<GeluApproximation, number>> = { none: 0, tanh: 1, quick: 2 }

/** The attribute that kernels take. @throws ConfigError for an unknown name */
export function geluCode(op: string, approximate: GeluApproximation): number {
  const code = Object.hasOwn(codes, approximate) ? codes[approximate] : undefined
  if (code === undefined) {
    throw new ConfigError(`${op}: approximate must be 'none', 'tanh' or 'quick', received '${approximate}'`)
  }
  return code
}

/** gelu of f32 or f64 by its code, composed of primitives. */
export function composedGelu(x: Tensor, code: number): Tensor {
  if (code === codes.quick) return mul(x, sigmoid(mul(x, 1.702)))
  const inner =
    code === codes.tanh
      ? tanh(mul(add(x, mul(mul(x, mul(x, x)), 0.044715)), Math.sqrt(2 / Math.PI)))
      : erf(mul(x, Math.SQRT1_2))
  return mul(mul(x, 0.5), add(inner, 1))
}

export const geluBackwardOp = defineOp({
  name: 'gelu.backward',
  inputs: [
    { name: 'dy', dtype: 'float', layout: 'rows' },
    { name: 'x', dtype: 'float', layout: 'rows' },
  ],
  outputs: [{ name: 'dx' }],
  attributes: ['approximate'],
  infer: ([, x]) => [spec(x.shape, x.dtype)],
  differentiable: false,
  reference: { gradientOf: 'gelu' },
})

export const geluOp = defineOp({
  name: 'gelu',
  inputs: [{ name: 'x', dtype: 'float', layout: 'rows' }],
  outputs: [{ name: 'y' }],
  attributes: ['approximate'],
  infer: ([x]) => [spec(x.shape, x.dtype)],
  reference: ([x], [approximate]) => [
    cast(composedGelu(cast(x, x.dtype === 'f64' ? 'f64' : 'f32'), approximate), x.dtype),
  ],
  vjp: ({ inputs: [x], attributes, grads: [dy] }) => geluBackwardOp([dy, x], attributes),
})

/**
 * x Phi(x) with Phi the normal distribution; float32 inside.
 * @param x f32 | bf16, any shape
 * @param options approximate: 'none' when not said
 * @returns like x
 * @throws ConfigError for an unknown approximation
 * Source: Hendrycks & Gimpel 2016
 */
export function gelu(
  x: Tensor,
  { approximate = 'none' }: { readonly approximate?: GeluApproximation } = {},
): Tensor {
  return geluOp([x], [geluCode('gelu', approximate)])[0]
}
