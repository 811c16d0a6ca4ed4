// An activation of one tensor, element by element, with a backward kernel that reads what the forward read.

import type { Tensor } from '../tensor/tensor.ts'
import { cast } from './copy.ts'
import { defineOp, spec } from './define.ts'

/**
 * Defines `name` and `name.backward`.
 * @param of y of x, composed of primitives; it is given float32, or float64 for float64
 */
export function defineActivation(name: string, of: (x: Tensor) => Tensor) {
  const backward = defineOp({
    name: `${name}.backward`,
    inputs: [
      { name: 'dy', dtype: 'float', layout: 'rows' },
      { name: 'x', dtype: 'float', layout: 'rows' },
    ],
    outputs: [{ name: 'dx' }],
    infer: ([, x]) => [spec(x.shape, x.dtype)],
    differentiable: false,
    reference: { gradientOf: name },
  })
  const forward = defineOp({
    name,
    inputs: [{ name: 'x', dtype: 'float', layout: 'rows' }],
    outputs: [{ name: 'y' }],
    infer: ([x]) => [spec(x.shape, x.dtype)],
    reference: ([x]) => [cast(of(cast(x, x.dtype === 'f64' ? 'f64' : 'f32')), x.dtype)],
    vjp: ({ inputs: [x], grads: [dy] }) => backward([dy, x]),
  })
  return { forward, backward }
}
