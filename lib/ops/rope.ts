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
    { name: 'frequencies', dtype: 'f32', optional: true, constant: true }, // absent: theta^(-2i / rotarySize)
  ],
  outputs: [{ name: 'y' }],
  attributes: ['theta', 'rotarySize', 'interleaved', 'attentionFactor', 'inverse'],
  infer: ([x, positions, frequencies], [theta, rotarySize, , attentionFactor]) => {
    const [batch, length, , size = 0] = x.shape
    if (x.rank !== 4) throw shapeError('rope', 'x', '[B, T, H, D]', x)
    if (!(Number.isInteger(rotarySize / 2) && rotarySize >= 0 && rotarySize <= size)) {
      throw new ValueError(
        `rope: rotarySize must be an even number from 0 to D (${size}), received ${rotarySize}`,
      )
    }
    if (positions !== null) {
      const { rank, shape } = positions
      const fits = shape.at(-1) === length && (rank === 1 || (rank === 2 && shape[0] === batch))
      if (!fits) throw shapeError('rope', 'positions', `[${length}] or [${batch},${length}]`, positions)
    }
    if (frequencies !== null && (frequencies.rank !== 1 || frequencies.shape[0] !== rotarySize / 2)) {
      throw shapeError('rope', 'frequencies', `[${rotarySize / 2}], one per pair`, frequencies)
    }
    for (const [name, value] of [
      ['theta', theta],
      ['attentionFactor', attentionFactor],
    ] as const) {
      if (!(value > 0 && value < Infinity)) {
        throw new ValueError(`rope: ${name} must be positive and finite, received ${value}`)
      }
    }
    return [spec(x.shape, x.dtype)]
  },
  reference: ([x, positions, frequencies], [theta, rotarySize, interleaved, attentionFactor, inverse]) => {
    const [, length = 0, heads = 0, size = 0] = x.shape
    const half = rotarySize / 2
    const { device } = x
    const plain = (): Float64Array =>
      Float64Array.from({ length: half }, (_, i) => Math.fround(1 / theta ** ((2 * i) / rotarySize)))
    const frequency = frequencies ? cast(frequencies, 'f64') : tensor(plain(), { dtype: 'f64', device })
    const position = cast(positions ?? iota(length, { device }), 'f64')
    // [T, 1, half], or [B, T, 1, half]
    const phase = mul(position.reshape([...position.shape, 1, 1]), frequency)
    const wide = x.dtype === 'f64' ? 'f64' : 'f32'
    const c = mul(cast(cos(phase), wide), attentionFactor)
    const s = mul(cast(inverse ? neg(sin(phase)) : sin(phase), wide), attentionFactor)
    const part = (k: 0 | 1): Tensor =>
      cast(interleaved ? x.slice(3, k, rotarySize, 2) : x.slice(3, k * half, (k + 1) * half), wide)
    const [a, b] = [part(0), part(1)]
    const turned = [sub(mul(a, c), mul(b, s)), add(mul(b, c), mul(a, s))]
    const rows = interleaved
      ? concat(
          turned.map((pairs) => pairs.unsqueeze(4)),
          4,
        ).reshape([x.shape[0] ?? 0, length, heads, rotarySize])
      : concat(turned, 3)
    const all = rotarySize < size ? concat([rows, cast(x.slice(3, rotarySize), wide)], 3) : rows
    return [cast(all, x.dtype)]
  },
  saves: ['positions', 'frequencies'],
  // a rotation's gradient is the rotation back, under the same factor
  vjp: ({ inputs: [, positions, frequencies], attributes, grads: [dy] }) => {
    const [theta, rotarySize, interleaved, attentionFactor, inverse] = attributes
    return [
      turn([dy, positions, frequencies], [theta, rotarySize, interleaved, attentionFactor, !inverse]),
      null,
      null,
    ]
  },
})

function turn(
  inputs: readonly [Tensor, Tensor | null, Tensor | null],
  attributes: readonly [number, number, boolean | number, number, boolean],
): Tensor {
  return ropeOp(inputs, attributes)[0]
}

export interface RopeOptions {
  /** i32 [T] or [B, T]; 0, 1, 2, ... when not said. */
  readonly positions?: Tensor | null
  /** Base of the frequencies theta^(-2i / rotarySize); 10000 when not said. */
  readonly theta?: number
  /** f32 [rotarySize / 2], instead of those of theta: scaled ones, as `ropeFrequencies` makes them. */
  readonly frequencies?: Tensor | null
  /** Elements of each head that turn, the first ones; even; all when not said. */
  readonly rotarySize?: number
  /** Pairs are (x[2i], x[2i + 1]) (GPT-J, Cohere, DeepSeek) instead of (x[i], x[i + half]). Default false. */
  readonly interleaved?: boolean
  /** Multiplies what turns (yarn, longrope). Default 1. */
  readonly attentionFactor?: number
}

/**
 * Rotary position embedding: pair i of each head is turned by position * frequency i. Half-split as in
 * Llama unless `interleaved`. Frequencies are rounded to float32 as Hugging Face stores them; phases
 * are float64, cosines and the rotation float32.
 *
 * Heads turn alike, so q and k that lie in one tensor need one call.
 * @param x [B, T, H, D] f32 | bf16
 * @returns like x
 * @throws ShapeError if x, positions, frequencies or rotarySize do not fit; ValueError if theta or
 *   attentionFactor is not positive
 * Source: Su et al. 2021
 */
export function rope(x: Tensor, options: RopeOptions = {}): Tensor {
  const { positions = null, theta = 10000, frequencies = null, attentionFactor = 1 } = options
  const { interleaved = false, rotarySize = x.shape[3] ?? 0 } = options
  return turn([x, positions, frequencies], [theta, rotarySize, interleaved, attentionFactor, false])
}
