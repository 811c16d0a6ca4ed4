import { ValueError } from '../runtime/errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { add, mul, sub } from './binary.ts'
import { cast, concat } from './copy.ts'
import { iota, tensor } from './create.ts'
import { defineOp, shapeError, spec } from './define.ts'
import { cos, neg, sin } from './unary.ts'

export const ropeOp = defineOp({
  name: 'rope',
  inputs: [
    { name: 'x', dtype: 'float', layout: 'rows' },
    { name: 'positions', dtype: 'i32', layout: 'any', optional: true },
  ],
  outputs: [{ name: 'y' }],
  attributes: ['theta', 'inverse'],
  infer: ([x, positions], [theta]) => {
    const [batch, length] = x.shape
    if (x.rank !== 4 || (x.shape[3] as number) % 2 !== 0) {
      throw shapeError('rope', 'x', '[B, T, H, D] with even D', x)
    }
    if (positions !== null) {
      const { rank, shape } = positions
      const fits = shape.at(-1) === length && (rank === 1 || (rank === 2 && shape[0] === batch))
      if (!fits) throw shapeError('rope', 'positions', `[${length}] or [${batch},${length}]`, positions)
    }
    if (!(theta > 0 && theta < Infinity)) {
      throw new ValueError(`rope: theta must be positive and finite, received ${theta}`)
    }
    return [spec(x.shape, x.dtype)]
  },
  reference: ([x, positions], [theta, inverse]) => {
    const [, length = 0, , size = 0] = x.shape
    const half = size / 2
    const frequencies = Float64Array.from({ length: half }, (_, i) =>
      Math.fround(1 / theta ** ((2 * i) / size)),
    )
    const { device } = x
    const position = cast(positions ?? iota(length, { device }), 'f64')
    // [T, 1, half], or [B, T, 1, half]
    const at = position.reshape([...position.shape, 1, 1])
    const phase = mul(at, tensor(frequencies, { dtype: 'f64', device }))
    const wide = x.dtype === 'f64' ? 'f64' : 'f32'
    const c = cast(cos(phase), wide)
    const s = cast(inverse ? neg(sin(phase)) : sin(phase), wide)
    const a = cast(x.slice(3, 0, half), wide)
    const b = cast(x.slice(3, half), wide)
    const turned = concat([sub(mul(a, c), mul(b, s)), add(mul(b, c), mul(a, s))], 3)
    return [cast(turned, x.dtype)]
  },
  saves: ['positions'],
  // a rotation's gradient is the rotation back
  vjp: ({ inputs: [, positions], attributes: [theta, inverse], grads: [dy] }) => [
    turn(dy, positions, theta, !inverse),
    null,
  ],
})

function turn(x: Tensor, positions: Tensor | null, theta: number, inverse: boolean): Tensor {
  return ropeOp([x, positions], [theta, inverse])[0]
}

export interface RopeOptions {
  /** i32 [T] or [B, T]; 0, 1, 2, ... when not said. */
  readonly positions?: Tensor | null
  /** Base of the frequencies theta^(-2i/D); 10000 when not said. */
  readonly theta?: number
}

/**
 * Rotary position embedding, half-split as in Llama: the pair (x[i], x[i + D/2]) is turned by
 * position * theta^(-2i/D). Frequencies are rounded to float32 as Hugging Face stores them; phases
 * are float64, cosines and the rotation float32.
 * @param x [B, T, H, D] f32 | bf16, D even
 * @returns like x
 * @throws ShapeError if x or positions do not fit; ValueError if theta is not positive
 * Source: Su et al. 2021
 */
export function rope(x: Tensor, { positions = null, theta = 10000 }: RopeOptions = {}): Tensor {
  return turn(x, positions, theta, false)
}
