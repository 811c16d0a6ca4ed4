// Text as bytes, bytes as tokens: the plainest tokenizer there is, with ids 0 to 255.
import { readFile } from 'node:fs/promises'
import { ConfigError } from '../runtime/errors.ts'

/** Number of ids that bytes can have. */
export const BYTE_VOCABULARY = 256

/**
 * Reads files one after another, off the event loop, into one run of ids, each file followed by a
 * zero byte. Stops at `maxBytes`.
 */
export async function readByteTokens(
  files: readonly string[],
  { maxBytes = Number.POSITIVE_INFINITY }: { maxBytes?: number } = {},
): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  let length = 0
  for (const file of files) {
    if (length >= maxBytes) break
    const bytes = await readFile(file)
    const part = bytes.subarray(0, Math.min(bytes.length, maxBytes - length))
    parts.push(part)
    length += part.length + 1
  }
  const tokens = new Uint8Array(length)
  let at = 0
  for (const part of parts) {
    tokens.set(part, at)
    at += part.length + 1
  }
  return tokens
}

/** Text of ids; bytes that are not UTF-8 (a character cut in half) show as U+FFFD. */
export function decodeBytes(ids: ArrayLike<number>): string {
  return new TextDecoder().decode(Uint8Array.from(ids))
}

/** A small generator for shuffling (xorshift, 32 bits): the same sequence for the same seed. */
export function randomSource(seed: number): () => number {
  let state = (seed ^ 0x9e3779b9) >>> 0 || 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return state / 0x1_0000_0000
  }
}

/** The windows of `length` ids that start at the given places, row after row. */
export function windowsAt(tokens: ArrayLike<number>, starts: readonly number[], length: number): Int32Array {
  const ids = new Int32Array(starts.length * length)
  starts.forEach((start, row) => {
    for (let i = 0; i < length; i++) ids[row * length + i] = tokens[start + i] ?? 0
  })
  return ids
}

/**
 * A batch of windows at random places: `batch` rows of `length` ids, row after row. The model
 * shifts labels itself, so ids are labels too.
 * @throws ConfigError when there are fewer tokens than one row
 */
export function randomWindows(
  tokens: ArrayLike<number>,
  { batch, length, random }: { batch: number; length: number; random: () => number },
): Int32Array {
  const places = tokens.length - length + 1
  if (places < 1)
    throw new ConfigError(`randomWindows: ${tokens.length} tokens are fewer than one row of ${length}`)
  const starts = Array.from({ length: batch }, () => Math.floor(random() * places))
  return windowsAt(tokens, starts, length)
}
