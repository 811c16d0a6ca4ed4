import { ValueError } from '../runtime/errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { div, less, where } from './binary.ts'
import { cast } from './copy.ts'
import { full } from './create.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { uniform } from './random.ts'

export const dropoutOp = defineOp({
  name: 'dropout',
  inputs: [
    { name: 'x', dtype: 'float' },
    { name: 'key', dtype: 'u32' },
  ],
  outputs: [{ name: 'y' }],
  attributes: ['p'],
  infer: ([x, key], [p]) => {
    if (key.rank !== 1 || key.shape[0] !== 4) throw shapeError('dropout', 'key', '[4]', key)
    if (!(p >= 0 && p <= 1)) throw new ValueError(`dropout: p must be in [0, 1], received ${p}`)
    return [spec(x.shape, x.dtype)]
  },
  reference: ([x, key], [p]) => {
    // as the kernel compares it: in float32
    const dropped = less(uniform(x.shape, key), Math.fround(p))
    const scaled = p < 1 ? div(x, 1 - p) : x
    return [where(dropped, full([], 0, { dtype: x.dtype }), cast(scaled, x.dtype))]
  },
  // the mask is a function of the key: the backward pass draws it again
  vjp: ({ inputs: [, key], attributes: [p], grads: [dy] }) => [dropout(dy, key, p), null],
  saves: ['key'],
})

/**
 * Zeroes each element with probability `p` and divides the others by 1 - p.
 * @param x f32 | bf16
 * @param key u32 [4]: seed low, seed high, step, call; see `randomKey`. The same key gives the same
 *   mask on every device and number of threads
 * @throws ShapeError, ValueError if p is not in [0, 1]
 * Source: Srivastava et al. 2014; Philox4x32-10 by Salmon et al. 2011
 */
export function dropout(x: Tensor, key: Tensor, p: number): Tensor {
  return dropoutOp([x, key], [p])[0]
}
