// Protocol buffers, written: enough for a message whose large fields are streamed from elsewhere.
// Source: https://protobuf.dev/programming-guides/encoding

/** Bytes of a known number that come when they are written. */
export interface ByteStream {
  readonly byteLength: number
  /** A part is valid until the next is asked for. */
  read(): AsyncIterable<Uint8Array>
}

const VARINT = 0
const LENGTH_DELIMITED = 2
const FIXED_32 = 5

function varint(value: number | bigint): Uint8Array {
  // negative numbers are 64-bit two's complement
  let rest = BigInt.asUintN(64, BigInt(value))
  const bytes: number[] = []
  do {
    const low = Number(rest & 0x7fn)
    rest >>= 7n
    bytes.push(rest === 0n ? low : low | 0x80)
  } while (rest !== 0n)
  return Uint8Array.from(bytes)
}

/**
 * A message: fields in the order in which they are added. Its length is known at any time, so that it can
 * be a field of another before its streams are read.
 */
export class Message {
  readonly #parts: (Uint8Array | ByteStream | Message)[] = []
  #byteLength = 0

  get byteLength(): number {
    return this.#byteLength
  }

  /** int32, int64, bool or enum. */
  int(field: number, value: number | bigint): this {
    return this.#tag(field, VARINT).#add(varint(value))
  }

  float(field: number, value: number): this {
    const bytes = new Uint8Array(4)
    new DataView(bytes.buffer).setFloat32(0, value, true)
    return this.#tag(field, FIXED_32).#add(bytes)
  }

  /** string, bytes or a message. */
  bytes(field: number, value: string | Uint8Array | ByteStream | Message): this {
    const part = typeof value === 'string' ? new TextEncoder().encode(value) : value
    return this.#tag(field, LENGTH_DELIMITED).#add(varint(part.byteLength)).#add(part)
  }

  /** Writes the message out, streams as they come. */
  async write(write: (bytes: Uint8Array) => Promise<void>): Promise<void> {
    // small parts together: a graph has tens of thousands
    let held: Uint8Array[] = []
    let size = 0
    const flush = async (): Promise<void> => {
      if (size > 0) await write(Buffer.concat(held))
      held = []
      size = 0
    }
    for (const part of this.#flat()) {
      if (part instanceof Uint8Array) {
        held.push(part)
        size += part.length
        if (size >= 1 << 16) await flush()
      } else {
        await flush()
        for await (const bytes of part.read()) await write(bytes)
      }
    }
    await flush()
  }

  *#flat(): Generator<Uint8Array | ByteStream> {
    for (const part of this.#parts) {
      if (part instanceof Message) yield* part.#flat()
      else yield part
    }
  }

  #tag(field: number, wireType: number): this {
    return this.#add(varint(field * 8 + wireType))
  }

  #add(part: Uint8Array | ByteStream | Message): this {
    this.#parts.push(part)
    this.#byteLength += part.byteLength
    return this
  }
}
