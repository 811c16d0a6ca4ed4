// Text files in parts of bounded size: UTF-8 only, without a byte-order mark, and cut where a tokenizer
// would cut anyway, so that parts encode to what the whole would.

import { type FileHandle, open } from 'node:fs/promises'
import { FormatError } from '../runtime/errors.ts'

const READ_BYTES = 1 << 20
const PART_UNITS = 1 << 20 // UTF-16 units of a part without any place to cut

/**
 * Where text may be cut, at most at `text.length`: after a line's end with no white space beyond it;
 * else before a space; else, when `force`, between two characters. 0 when there is no such place.
 */
function cutPlace(text: string, force: boolean): number {
  for (let at = text.length - 1; at > 0; at--) {
    if (text.charCodeAt(at - 1) === 0x0a && !/\s/.test(text[at] as string)) return at
  }
  if (!force) return 0
  for (let at = text.length - 1; at > 0; at--) {
    if (text[at] === ' ' && /\S/.test(text[at - 1] as string)) return at
  }
  const last = text.charCodeAt(text.length - 1)
  return last >= 0xd800 && last < 0xdc00 ? text.length - 1 : text.length
}

/** Collects text and gives it back in parts that end where it may be cut. */
export class TextCutter {
  #held = ''

  /** The part that is complete by now; empty when none is. */
  add(text: string): string {
    this.#held += text
    const at = cutPlace(this.#held, this.#held.length > PART_UNITS)
    const part = this.#held.slice(0, at)
    this.#held = this.#held.slice(at)
    return part
  }

  /** What is left. */
  end(): string {
    const rest = this.#held
    this.#held = ''
    return rest
  }
}

/**
 * The text of a file, part by part, each of about a megabyte.
 * @throws FormatError naming file and byte when it is not UTF-8; the system's error when it cannot be read
 */
export async function* readTextParts(path: string): AsyncGenerator<string> {
  const file = await open(path)
  try {
    const cutter = new TextCutter()
    for await (const text of decoded(file, path)) {
      const part = cutter.add(text)
      if (part !== '') yield part
    }
    const rest = cutter.end()
    if (rest !== '') yield rest
  } finally {
    await file.close()
  }
}

async function* decoded(file: FileHandle, path: string): AsyncGenerator<string> {
  const decoder = new TextDecoder('utf-8', { fatal: true }) // drops a byte-order mark
  const buffer = new Uint8Array(READ_BYTES)
  for (let at = 0; ; ) {
    const { bytesRead } = await file.read(buffer, 0, READ_BYTES, at)
    const bytes = buffer.subarray(0, bytesRead)
    let text: string
    try {
      text = decoder.decode(bytes, { stream: bytesRead > 0 })
    } catch {
      const tail = await trailing(file, at)
      const place = at - tail.length + firstBadByte(concat(tail, bytes))
      throw new FormatError(`${path}: byte ${place}: expected UTF-8, found other bytes`)
    }
    if (text !== '') yield text
    if (bytesRead === 0) return
    at += bytesRead
  }
}

/** Up to three bytes before `at` that begin a character which goes on there. */
async function trailing(file: FileHandle, at: number): Promise<Uint8Array> {
  const { buffer, bytesRead } = await file.read(new Uint8Array(3), 0, Math.min(3, at), Math.max(0, at - 3))
  for (let back = 1; back <= bytesRead; back++) {
    const byte = buffer[bytesRead - back] as number
    if (byte >= 0xc0) return buffer.slice(bytesRead - back, bytesRead)
    if (byte < 0x80) break
  }
  return new Uint8Array(0)
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.length + b.length)
  both.set(a)
  both.set(b, a.length)
  return both
}

/** Place of the first byte of what is no character. */
function firstBadByte(bytes: Uint8Array): number {
  const valid = (length: number, stream: boolean): boolean => {
    try {
      new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(0, length), { stream })
      return true
    } catch {
      return false
    }
  }
  let low = 0
  let high = bytes.length
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if (valid(middle, true)) low = middle
    else high = middle - 1
  }
  // the bytes before may have begun the character that went wrong
  while (low > 0 && !valid(low, false)) low--
  return low
}
