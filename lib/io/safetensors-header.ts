// Scans the JSON header of a safetensors file, as bytes and without recursion. The grammar is
//   { "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"k": "v"} }
// and nothing else; integers are unsigned, of at most 2^53 - 1.
import { FormatError } from '../runtime/errors.ts'

/** One tensor as the header states it; nothing about it has been checked against another. */
export interface ScannedTensor {
  readonly name: string
  readonly dtype: string
  readonly shape: readonly number[]
  readonly begin: number
  readonly end: number
}

// Far above any real file; what they bound is the memory that a hostile header can ask for.
const MAX_TENSORS = 100_000
const MAX_STRING_BYTES = 4096 // names, dtypes and metadata keys
const MAX_METADATA_KEYS = 10_000
const MAX_METADATA_BYTES = 1 << 24 // of one value
const MAX_DIMENSIONS = 64

const SHORT = 256 // bytes

const QUOTE = 0x22
const BACKSLASH = 0x5c
const COLON = 0x3a
const COMMA = 0x2c
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d

export class HeaderScanner {
  readonly #bytes: Uint8Array
  readonly #file: string
  readonly #utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  #at = 0

  constructor(bytes: Uint8Array, file: string) {
    this.#bytes = bytes
    this.#file = file
  }

  scan(): { metadata: Map<string, string>; tensors: ScannedTensor[] } {
    const names = new Set<string>()
    const tensors: ScannedTensor[] = []
    let metadata: Map<string, string> | undefined
    if (this.#bytes[0] !== OPEN_BRACE) this.#fail('"{"') // by the format, before any white space
    this.#members((name, at) => {
      if (name === '__metadata__') {
        if (metadata !== undefined) this.#fail('one "__metadata__"', 'a second one', at)
        metadata = this.#metadata()
        return
      }
      if (names.has(name)) this.#fail('each name once', `${JSON.stringify(name)} again`, at)
      if (names.size === MAX_TENSORS) this.#fail(`at most ${MAX_TENSORS} tensors`, 'more', at)
      names.add(name)
      tensors.push(this.#tensor(name))
    })
    this.#space()
    if (this.#at < this.#bytes.length) this.#fail('only spaces after the header object')
    return { metadata: metadata ?? new Map(), tensors }
  }

  #metadata(): Map<string, string> {
    const metadata = new Map<string, string>()
    this.#members((key, at) => {
      if (metadata.has(key)) this.#fail('each metadata key once', `${JSON.stringify(key)} again`, at)
      if (metadata.size === MAX_METADATA_KEYS)
        this.#fail(`at most ${MAX_METADATA_KEYS} metadata keys`, 'more', at)
      metadata.set(key, this.#string(MAX_METADATA_BYTES))
    })
    return metadata
  }

  #tensor(name: string): ScannedTensor {
    const start = this.#at
    let dtype: string | undefined
    let shape: number[] | undefined
    let offsets: number[] | undefined
    this.#members((key, at) => {
      if (key === 'dtype' && dtype === undefined) dtype = this.#string(MAX_STRING_BYTES)
      else if (key === 'shape' && shape === undefined) shape = this.#integers()
      else if (key === 'data_offsets' && offsets === undefined) offsets = this.#integers()
      else
        this.#fail(
          `"dtype", "shape" and "data_offsets" of ${JSON.stringify(name)}, each once`,
          JSON.stringify(key.slice(0, 40)),
          at,
        )
    })
    if (dtype === undefined || shape === undefined || offsets === undefined) {
      const missing = dtype === undefined ? 'dtype' : shape === undefined ? 'shape' : 'data_offsets'
      this.#fail(`"${missing}" of ${JSON.stringify(name)}`, 'none', start)
    }
    const [begin, end] = offsets
    if (begin === undefined || end === undefined || offsets.length !== 2) {
      this.#fail(`two data_offsets of ${JSON.stringify(name)}`, String(offsets.length), start)
    }
    return { name, dtype, shape, begin, end }
  }

  /** An object; `member` reads each value. */
  #members(member: (key: string, at: number) => void): void {
    this.#expect(OPEN_BRACE, '"{"')
    this.#space()
    if (this.#bytes[this.#at] === CLOSE_BRACE) {
      this.#at++
      return
    }
    for (;;) {
      this.#space()
      const at = this.#at
      const key = this.#string(MAX_STRING_BYTES)
      this.#expect(COLON, '":"')
      member(key, at)
      this.#space()
      if (this.#bytes[this.#at] === CLOSE_BRACE) break
      this.#expect(COMMA, '"," or "}"')
    }
    this.#at++
  }

  #integers(): number[] {
    const values: number[] = []
    this.#expect(OPEN_BRACKET, '"["')
    this.#space()
    if (this.#bytes[this.#at] === CLOSE_BRACKET) {
      this.#at++
      return values
    }
    for (;;) {
      values.push(this.#integer())
      if (values.length > MAX_DIMENSIONS) this.#fail(`at most ${MAX_DIMENSIONS} numbers`, 'more')
      this.#space()
      if (this.#bytes[this.#at] === CLOSE_BRACKET) break
      this.#expect(COMMA, '"," or "]"')
    }
    this.#at++
    return values
  }

  #integer(): number {
    this.#space()
    const start = this.#at
    let value = 0
    let digit = (this.#bytes[this.#at] ?? 0) - 0x30
    while (digit >= 0 && digit <= 9) {
      value = value * 10 + digit
      // 2^53 is not safe, and every larger decimal prefix stays unsafe
      if (!Number.isSafeInteger(value)) this.#fail('an integer below 2^53', 'a larger one', start)
      digit = (this.#bytes[++this.#at] ?? 0) - 0x30
    }
    const length = this.#at - start
    const next = this.#bytes[this.#at]
    const leadingZero = length > 1 && this.#bytes[start] === 0x30
    if (length === 0 || leadingZero || next === 0x2e || next === 0x65 || next === 0x45) {
      this.#fail('an unsigned integer', this.#excerpt(start), start)
    }
    return value
  }

  #string(maxBytes: number): string {
    this.#space()
    this.#expect(QUOTE, 'a string')
    const start = this.#at
    let escaped = false
    let seen = 0 // all bytes or'ed: below 0x80 when the string is ASCII
    for (;;) {
      const byte = this.#bytes[this.#at]
      if (byte === undefined) this.#fail('the end of a string', 'the end of the header', start)
      if (byte === QUOTE) break
      if (byte < 0x20) this.#fail('no control character in a string', `0x${byte.toString(16)}`)
      seen |= byte
      if (byte === BACKSLASH) {
        escaped = true
        this.#at++ // an escaped quote does not end the string
      }
      this.#at++
      if (this.#at - start > maxBytes)
        this.#fail(`a string of at most ${maxBytes} bytes`, 'a longer one', start)
    }
    const raw = this.#bytes.subarray(start, this.#at++)
    // a call of TextDecoder costs a microsecond, and a header has five short strings a tensor
    if (seen < 0x80 && !escaped && raw.length <= SHORT) return String.fromCharCode(...raw)
    let text: string
    try {
      text = this.#utf8.decode(raw)
    } catch {
      this.#fail('UTF-8', 'other bytes', start)
    }
    if (!escaped) return text
    let unescaped: unknown
    try {
      unescaped = JSON.parse(`"${text}"`)
    } catch {
      this.#fail('JSON escapes', this.#excerpt(start), start)
    }
    // a lone surrogate would not survive being written again
    if (typeof unescaped !== 'string' || /\p{Surrogate}/u.test(unescaped)) {
      this.#fail('well-formed Unicode', this.#excerpt(start), start)
    }
    return unescaped
  }

  #space(): void {
    for (;;) {
      const byte = this.#bytes[this.#at]
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return
      this.#at++
    }
  }

  #expect(byte: number, what: string): void {
    this.#space()
    if (this.#bytes[this.#at] !== byte) this.#fail(what)
    this.#at++
  }

  #excerpt(at: number): string {
    if (at >= this.#bytes.length) return 'the end of the header'
    return JSON.stringify(String.fromCharCode(...this.#bytes.subarray(at, at + 16)))
  }

  #fail(expected: string, found?: string, at = this.#at): never {
    throw new FormatError(
      `${this.#file}, header byte ${8 + at}: expected ${expected}, found ${found ?? this.#excerpt(at)}`,
    )
  }
}
