// TensorBoard event files: scalars over steps.
// Source of the format: TFRecord framing and event.proto, summary.proto of TensorFlow.

import { type FileHandle, open } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  return crc
})

/** CRC-32C (Castagnoli). */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) crc = (CRC_TABLE[(crc ^ byte) & 0xff] as number) ^ (crc >>> 8)
  return (crc ^ 0xffffffff) >>> 0
}

/** As TFRecord stores it, so that a checksum of checksums does not cancel. */
function masked(bytes: Uint8Array): number {
  const crc = crc32c(bytes)
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
}

/** A message of protocol buffers, field by field. */
class Message {
  readonly #bytes: number[] = []

  #varint(value: number): void {
    let rest = value
    while (rest >= 0x80) {
      this.#bytes.push((rest % 0x80) | 0x80)
      rest = Math.floor(rest / 0x80)
    }
    this.#bytes.push(rest)
  }

  integer(field: number, value: number): this {
    this.#varint(field << 3)
    this.#varint(value)
    return this
  }

  double(field: number, value: number): this {
    this.#varint((field << 3) | 1)
    this.#bytes.push(...new Uint8Array(Float64Array.of(value).buffer))
    return this
  }

  float(field: number, value: number): this {
    this.#varint((field << 3) | 5)
    this.#bytes.push(...new Uint8Array(Float32Array.of(value).buffer))
    return this
  }

  bytes(field: number, value: Uint8Array): this {
    this.#varint((field << 3) | 2)
    this.#varint(value.length)
    for (const byte of value) this.#bytes.push(byte)
    return this
  }

  text(field: number, value: string): this {
    return this.bytes(field, new TextEncoder().encode(value))
  }

  end(): Uint8Array {
    return Uint8Array.from(this.#bytes)
  }
}

function framed(data: Uint8Array): Uint8Array {
  const record = new Uint8Array(16 + data.length)
  const view = new DataView(record.buffer)
  view.setBigUint64(0, BigInt(data.length), true)
  view.setUint32(8, masked(record.subarray(0, 8)), true)
  record.set(data, 12)
  view.setUint32(12 + data.length, masked(data), true)
  return record
}

/** Appends scalars to an event file of its own. */
export class TensorBoardWriter {
  readonly path: string
  readonly #file: FileHandle
  readonly #now: () => number
  #last: Promise<void> = Promise.resolve()

  private constructor(path: string, file: FileHandle, now: () => number) {
    this.path = path
    this.#file = file
    this.#now = now
  }

  /**
   * @param options.step where a run goes on: readers drop what earlier files say of later steps
   * @param options.now seconds since 1970; the system's clock when left out
   */
  static async create(
    folder: string,
    { step = 0, now = () => Date.now() / 1000 }: { step?: number; now?: () => number } = {},
  ): Promise<TensorBoardWriter> {
    const seconds = Math.floor(now())
    const name = `events.out.tfevents.${String(seconds).padStart(10, '0')}.${hostname()}`
    for (let number = 0; ; number++) {
      const path = join(folder, number === 0 ? name : `${name}.${number}`)
      let file: FileHandle
      try {
        file = await open(path, 'wx')
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EEXIST') continue
        throw error
      }
      const writer = new TensorBoardWriter(path, file, now)
      writer.#append(new Message().double(1, now()).text(3, 'brain.Event:2'))
      const started = new Message().integer(1, 1).end() // SessionLog.START
      writer.#append(new Message().double(1, now()).integer(2, step).bytes(7, started))
      await writer.flush()
      return writer
    }
  }

  /** Values by tag (`Loss/train`), of one step. */
  scalars(step: number, values: Readonly<Record<string, number>>): void {
    const summary = new Message()
    for (const [tag, value] of Object.entries(values)) {
      summary.bytes(1, new Message().text(1, tag).float(2, value).end())
    }
    this.#append(new Message().double(1, this.#now()).integer(2, step).bytes(5, summary.end()))
  }

  #append(event: Message): void {
    const record = framed(event.end())
    this.#last = this.#last.then(async () => {
      await this.#file.appendFile(record)
    })
    this.#last.catch(() => undefined) // it is thrown by flush
  }

  /** Waits until everything is with the system. */
  flush(): Promise<void> {
    return this.#last
  }

  async close(): Promise<void> {
    try {
      await this.#last
    } finally {
      await this.#file.close()
    }
  }
}
