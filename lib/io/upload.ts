// Tensors of files into tensors of a device, part by part: whatever the size, a few megabytes are in memory
// beside them, and no part holds up the event loop.

import { cast, copyInto } from '../ops/copy.ts'
import { FormatError } from '../runtime/errors.ts'
import type { Queue } from '../runtime/queue.ts'
import { type DType, itemSizes } from '../tensor/dtype.ts'
import { contiguousStrides } from '../tensor/layout.ts'
import { noGrad } from '../tensor/mode.ts'
import { scope } from '../tensor/scope.ts'
import { Tensor } from '../tensor/tensor.ts'
import type { SafetensorsDType } from './safetensors.ts'

/** dtypes of tensors as files spell them. */
export const FILE_DTYPES: Readonly<Record<DType, SafetensorsDType>> = {
  f32: 'F32',
  bf16: 'BF16',
  f64: 'F64',
  i32: 'I32',
  u32: 'U32',
  i8: 'I8',
  u8: 'U8',
  u16: 'U16',
}
const OF_FILES = new Map(
  Object.entries(FILE_DTYPES).map(([dtype, name]) => [name as SafetensorsDType, dtype as DType]),
)
const FLOATS: readonly SafetensorsDType[] = ['F32', 'BF16', 'F16', 'F64']

const PART_BYTES = 4 * 2 ** 20
const HALF_PART_BYTES = 2 ** 19 // half floats are widened here, on the JavaScript thread
const MOST_PARTS = 8 // on their way at once, where the device has other work

/** Whether values of a file can become those of a tensor. */
export function converts(from: SafetensorsDType, to: DType): boolean {
  return from === FILE_DTYPES[to] || (FLOATS.includes(from) && FLOATS.includes(FILE_DTYPES[to]))
}

/** The value of an IEEE 754 half. */
export function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return sign * (1024 + fraction) * 2 ** (exponent - 25)
}

/** All 65,536 of them. */
const halves = (() => {
  let table: Float32Array | undefined
  return (): Float32Array => {
    table ??= Float32Array.from({ length: 0x10000 }, (_, bits) => halfToNumber(bits))
    return table
  }
})()

/** What is uploaded, and how it lies in its file. */
export interface UploadSource {
  readonly dtype: SafetensorsDType
  /** The file holds the matrix transposed. */
  readonly transposed?: boolean
  /** Fills `part` with bytes of the tensor, from byte `begin` of them. */
  read(begin: number, part: Uint8Array): Promise<void>
}

/** Uploads one tensor after another through memory that is used again. */
export class Uploader {
  readonly #free: ArrayBuffer[] = []
  #running: Promise<void>[] = []

  /**
   * Overwrites a tensor; resolves once all is enqueued. Floats of another width are converted.
   * @throws FormatError for a dtype that does not convert; what `read` throws, with a part of it written
   */
  async load(target: Tensor, { dtype, transposed = false, read }: UploadSource): Promise<void> {
    target.check('Uploader.load')
    const own = dtype === 'F16' ? 'f32' : OF_FILES.get(dtype)
    if (own === undefined || !converts(dtype, target.dtype)) {
      throw new FormatError(`expected ${FILE_DTYPES[target.dtype]}, found ${dtype}`)
    }
    if (target.size === 0) return
    const { activeQueue } = target.device
    // a matrix that lies transposed comes by whole rows of the file, all else by elements
    const flat = !transposed && target.isContiguous
    const shape = flat ? [target.size] : transposed ? target.shape.toReversed() : target.shape
    const [rows = 1] = shape
    const fileRowBytes = (target.size / rows) * (dtype === 'F16' ? 2 : itemSizes[own])
    const partBytes = dtype === 'F16' ? HALF_PART_BYTES : PART_BYTES
    const step = Math.max(1, Math.floor(partBytes / fileRowBytes))
    for (let row = 0; row < rows; row += step) {
      const count = Math.min(step, rows - row)
      const memory = await this.#take(step * fileRowBytes)
      const raw = new Uint8Array(memory, 0, count * fileRowBytes)
      await read(row * fileRowBytes, raw)
      const bytes = dtype === 'F16' ? widened(raw) : raw
      if (flat && own === target.dtype) {
        activeQueue.write(target.storage, (target.offset + row) * itemSizes[own], bytes, true)
      } else {
        const staging = staged(activeQueue, bytes, [count, ...shape.slice(1)], own)
        noGrad(() =>
          scope(() => {
            const whole = flat ? target.reshape([target.size]) : target
            const place = whole.slice(transposed ? 1 : 0, row, row + count)
            copyInto(place, cast(transposed ? staging.transpose() : staging, target.dtype))
          }),
        )
        staging.dispose()
      }
      this.#giveBack(memory, activeQueue)
    }
  }

  /** Memory of at least so many bytes; waits for the device while too much is on its way. */
  async #take(bytes: number): Promise<ArrayBuffer> {
    while (this.#free.length === 0 && this.#running.length >= MOST_PARTS) await this.#running[0]
    const found = this.#free.pop()
    return found !== undefined && found.byteLength >= bytes
      ? found
      : new ArrayBuffer(Math.max(bytes, PART_BYTES))
  }

  #giveBack(memory: ArrayBuffer, queue: Queue): void {
    const done: Promise<void> = queue
      .fence()
      .catch(() => undefined) // a failure poisons the tensor, and is thrown by who reads that
      .then(() => {
        this.#free.push(memory)
        this.#running = this.#running.filter((other) => other !== done)
      })
    this.#running.push(done)
  }
}

function staged(queue: Queue, bytes: Uint8Array, shape: readonly number[], dtype: DType): Tensor {
  const tensor = new Tensor(queue.alloc(bytes.length), shape, contiguousStrides(shape), 0, dtype)
  queue.write(tensor.storage, 0, bytes, true)
  return tensor
}

/** float32 of half floats. */
function widened(raw: Uint8Array): Uint8Array {
  const table = halves()
  const bits = new Uint16Array(raw.buffer, raw.byteOffset, raw.length / 2)
  const values = new Float32Array(bits.length)
  for (let i = 0; i < bits.length; i++) values[i] = table[bits[i] as number] as number
  return new Uint8Array(values.buffer)
}
