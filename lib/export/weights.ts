// Weights of a model as initializers of a graph, streamed from the device when the file is written.

import { setImmediate as turn } from 'node:timers/promises'
import { PartReader } from '../io/tensors.ts'
import { cast, contiguous } from '../ops/copy.ts'
import { noGrad } from '../tensor/mode.ts'
import { scope } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { Initializer } from './graph.ts'

export type ExportDType = 'f32' | 'f16'

const TURN_VALUES = 1 << 16 // converted to half floats in one turn of the event loop

/** Initializers of one export: floats in its dtype, int8 values as they are. */
export class WeightStreams {
  readonly dtype: ExportDType
  readonly #reader = new PartReader()

  constructor(dtype: ExportDType) {
    this.dtype = dtype
  }

  /**
   * @param options transposed: a matrix the other way round; dtype: another than the export's
   */
  initializer(
    name: string,
    tensor: Tensor,
    options: { readonly transposed?: boolean; readonly dtype?: ExportDType } = {},
  ): Initializer {
    const { transposed = false, dtype = this.dtype } = options
    const shape = transposed ? tensor.shape.toReversed() : tensor.shape
    if (tensor.dtype === 'i8') {
      const read = (): AsyncIterable<Uint8Array> => this.#read(tensor, transposed, 'i8')
      return { name, type: 'i8', shape, byteLength: tensor.size, read }
    }
    const read = (): AsyncIterable<Uint8Array> => {
      const floats = this.#read(tensor, transposed, 'f32')
      return dtype === 'f16' ? halves(floats) : floats
    }
    return { name, type: dtype, shape, byteLength: tensor.size * (dtype === 'f16' ? 2 : 4), read }
  }

  async *#read(tensor: Tensor, transposed: boolean, dtype: 'i8' | 'f32'): AsyncGenerator<Uint8Array> {
    if (!transposed && tensor.dtype === dtype) {
      yield* this.#reader.read(tensor)
      return
    }
    const made = noGrad(() =>
      scope(() => {
        const turned = transposed ? tensor.transpose() : tensor
        return turned.dtype === dtype ? contiguous(turned) : contiguous(cast(turned, dtype))
      }),
    )
    try {
      yield* this.#reader.read(made)
    } finally {
      made.dispose()
    }
  }
}

async function* halves(floats: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  for await (const part of floats) {
    const values = new Float32Array(part.buffer, part.byteOffset, part.length / 4)
    for (let from = 0; from < values.length; from += TURN_VALUES) {
      const bits = new Uint16Array(Math.min(TURN_VALUES, values.length - from))
      for (let i = 0; i < bits.length; i++) bits[i] = numberToHalf(values[from + i] as number)
      yield new Uint8Array(bits.buffer)
      await turn()
    }
  }
}

const scratch = new Float32Array(1)
const scratchBits = new Uint32Array(scratch.buffer)

/** Bits of the nearest IEEE 754 half, ties to even; too large a number becomes infinite. */
export function numberToHalf(value: number): number {
  scratch[0] = value
  const bits = scratchBits[0] as number
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00
  if (magnitude >= 0x477ff000) return sign | 0x7c00 // 65520, half way past the largest
  if (magnitude >= 0x38800000) {
    // rebias the exponent, round away 13 bits
    const rebiased = magnitude - 0x38000000
    return sign | ((rebiased + 0xfff + ((rebiased >>> 13) & 1)) >>> 13)
  }
  // subnormal: the sum has units of 2^-24, so that float32 rounds to them
  scratch[0] = Math.abs(value) + 0.5
  return sign | ((scratchBits[0] as number) - 0x3f000000)
}
