// Scans JSON as bytes, without recursion, against the one grammar that a format has: what JSON.parse hides
// (duplicate keys, rounded integers) is an error here, with its place in the file.
import { FormatError } from '../runtime/errors.ts'

const SHORT = 256 // bytes

export const QUOTE = 0x22
const BACKSLASH = 0x5c
const COLON = 0x3a
export const COMMA = 0x2c
export const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d
export const OPEN_BRACKET = 0x5b
export const CLOSE_BRACKET = 0x5d

/** Longest name, in bytes: what bounds the memory that a hostile file can ask for. */
export const MAX_NAME_BYTES = 4096

/** What every grammar is made of; integers are unsigned, of at most 2^53 - 1. */
export class JsonScanner {
  protected readonly bytes: Uint8Array
  protected at = 0
  readonly #place: (at: number) => string
  readonly #whole: string
  readonly #utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

  /**
   * @param options.place names a byte of the text in errors
   * @param options.whole what the text is: `the header`
   */
  constructor(bytes: Uint8Array, { place, whole }: { place: (at: number) => string; whole: string }) {
    this.bytes = bytes
    this.#place = place
    this.#whole = whole
  }

  /** An object; `member` reads each value. */
  protected members(member: (key: string, at: number) => void): void {
    this.expect(OPEN_BRACE, '"{"')
    this.space()
    if (this.bytes[this.at] === CLOSE_BRACE) {
      this.at++
      return
    }
    for (;;) {
      this.space()
      const at = this.at
      const key = this.string(MAX_NAME_BYTES)
      this.expect(COLON, '":"')
      member(key, at)
      this.space()
      if (this.bytes[this.at] === CLOSE_BRACE) break
      this.expect(COMMA, '"," or "}"')
    }
    this.at++
  }

  protected integer(): number {
    this.space()
    const start = this.at
    let value = 0
    let digit = (this.bytes[this.at] ?? 0) - 0x30
    while (digit >= 0 && digit <= 9) {
      value = value * 10 + digit
      // 2^53 is not safe, and every larger decimal prefix stays unsafe
      if (!Number.isSafeInteger(value)) this.fail('an integer below 2^53', 'a larger one', start)
      digit = (this.bytes[++this.at] ?? 0) - 0x30
    }
    const length = this.at - start
    const next = this.bytes[this.at]
    const leadingZero = length > 1 && this.bytes[start] === 0x30
    if (length === 0 || leadingZero || next === 0x2e || next === 0x65 || next === 0x45) {
      this.fail('an unsigned integer', this.excerpt(start), start)
    }
    return value
  }

  protected string(maxBytes: number): string {
    this.space()
    this.expect(QUOTE, 'a string')
    const start = this.at
    let escaped = false
    let seen = 0 // all bytes or'ed: below 0x80 when the string is ASCII
    for (;;) {
      const byte = this.bytes[this.at]
      if (byte === undefined) this.fail('the end of a string', `the end of ${this.#whole}`, start)
      if (byte === QUOTE) break
      if (byte < 0x20) this.fail('no control character in a string', `0x${byte.toString(16)}`)
      seen |= byte
      if (byte === BACKSLASH) {
        escaped = true
        this.at++ // an escaped quote does not end the string
      }
      this.at++
      if (this.at - start > maxBytes)
        this.fail(`a string of at most ${maxBytes} bytes`, 'a longer one', start)
    }
    const raw = this.bytes.subarray(start, this.at++)
    // a call of TextDecoder costs a microsecond, and a header has five short strings for each tensor
    if (seen < 0x80 && !escaped && raw.length <= SHORT) return String.fromCharCode(...raw)
    let text: string
    try {
      text = this.#utf8.decode(raw)
    } catch {
      this.fail('UTF-8', 'other bytes', start)
    }
    if (!escaped) return text
    let unescaped: unknown
    try {
      unescaped = JSON.parse(`"${text}"`)
    } catch {
      this.fail('JSON escapes', this.excerpt(start), start)
    }
    // a lone surrogate would not survive being written again
    if (typeof unescaped !== 'string' || /\p{Surrogate}/u.test(unescaped)) {
      this.fail('well-formed Unicode', this.excerpt(start), start)
    }
    return unescaped
  }

  protected space(): void {
    for (;;) {
      const byte = this.bytes[this.at]
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return
      this.at++
    }
  }

  /** Nothing but white space may follow. */
  protected end(): void {
    this.space()
    if (this.at < this.bytes.length) this.fail(`only spaces after the object of ${this.#whole}`)
  }

  protected expect(byte: number, what: string): void {
    this.space()
    if (this.bytes[this.at] !== byte) this.fail(what)
    this.at++
  }

  protected excerpt(at: number): string {
    if (at >= this.bytes.length) return `the end of ${this.#whole}`
    return JSON.stringify(String.fromCharCode(...this.bytes.subarray(at, at + 16)))
  }

  protected fail(expected: string, found?: string, at = this.at): never {
    throw new FormatError(`${this.#place(at)}: expected ${expected}, found ${found ?? this.excerpt(at)}`)
  }
}
