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

const encoder = new TextEncoder()

/**
 * A message: fields in the order in which they are added. Its length is known at any time, so that it can
 * be a field of another before its streams are read. What is added is copied, but for streams: a graph has tens
 * of thousands of fields, and an object for each would hold up the event loop.
 */
export class Message {
  /** What was added before the bytes in `#tail`. */
  readonly #parts: (Uint8Array | ByteStream)[] = []
  #tail = new Uint8Array(64)
  #used = 0
  #before = 0

  get byteLength(): number {
    return this.#before + this.#used
  }

  /** int32, int64, bool or enum. */
  int(field: number, value: number | bigint): this {
    return this.#varint(field * 8 + VARINT).#varint(value)
  }

  float(field: number, value: number): this {
    this.#varint(field * 8 + FIXED_32).#reserve(4)
    new DataView(this.#tail.buffer).setFloat32(this.#used, value, true)
    this.#used += 4
    return this
  }

  /** string, bytes or a message. */
  bytes(field: number, value: string | Uint8Array | ByteStream | Message): this {
    const part = typeof value === 'string' ? encoder.encode(value) : value
    this.#varint(field * 8 + LENGTH_DELIMITED).#varint(part.byteLength)
    if (part instanceof Uint8Array) return this.#copy(part)
    if (!(part instanceof Message)) return this.#add(part)
    for (const inner of part.#parts) {
      if (inner instanceof Uint8Array) this.#copy(inner)
      else this.#add(inner)
    }
    return this.#copy(part.#tail.subarray(0, part.#used))
  }

  /** Writes the message out, streams as they come. */
  async write(write: (bytes: Uint8Array) => Promise<void>): Promise<void> {
    for (const part of [...this.#parts, this.#tail.subarray(0, this.#used)]) {
      if (part instanceof Uint8Array) await write(part)
      else for await (const bytes of part.read()) await write(bytes)
    }
  }

  #varint(value: number | bigint): this {
    this.#reserve(10)
    if (typeof value === 'number' && value >= 0 && value < 2 ** 31) {
      let rest = value
      for (; rest >= 0x80; rest >>>= 7) this.#tail[this.#used++] = (rest & 0x7f) | 0x80
      this.#tail[this.#used++] = rest
      return this
    }
    // negative numbers are 64-bit two's complement
    let rest = BigInt.asUintN(64, BigInt(value))
    for (; rest >= 0x80n; rest >>= 7n) this.#tail[this.#used++] = Number(rest & 0x7fn) | 0x80
    this.#tail[this.#used++] = Number(rest)
    return this
  }

  #copy(bytes: Uint8Array): this {
    this.#reserve(bytes.length)
    this.#tail.set(bytes, this.#used)
    this.#used += bytes.length
    return this
  }

  #add(stream: ByteStream): this {
    const bytes = this.#tail.slice(0, this.#used)
    this.#parts.push(bytes, stream)
    this.#before += bytes.length + stream.byteLength
    this.#used = 0
    return this
  }

  #reserve(bytes: number): void {
    const needed = this.#used + bytes
    if (needed <= this.#tail.length) return
    const larger = new Uint8Array(Math.max(needed, 2 * this.#tail.length))
    larger.set(this.#tail.subarray(0, this.#used))
    this.#tail = larger
  }
}
