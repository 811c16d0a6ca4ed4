// The vocabulary and merges as flat arrays over shared memory, so that a file is parsed in a worker and
// every thread looks up in the same bytes.

import { FormatError } from '../runtime/errors.ts'

/** Structured-cloneable; arrays are over SharedArrayBuffers. Ids go from 0 to size - 1 without gaps. */
export interface TokenTables {
  readonly size: number
  /** Tokens as the file spells them, UTF-8, one after another; token i ends at textEnds[i]. */
  readonly text: Uint8Array
  readonly textEnds: Uint32Array
  /** What tokens stand for, in the same way; for byte-level vocabularies other than the spelling. */
  readonly bytes: Uint8Array
  readonly bytesEnds: Uint32Array
  /** Open addressing: id + 1 by hash of bytes; model tokens only. */
  readonly tokenSlots: Int32Array
  /** left, right by rank */
  readonly merges: Int32Array
  /** Open addressing: rank + 1 by hash of the pair. */
  readonly mergeSlots: Int32Array
  /** Id of what a merge makes, by rank. */
  readonly mergeResults: Int32Array
  /** Id of each single byte; -1 where none. */
  readonly byteIds: Int32Array
}

// GPT-2's spelling of bytes: printable Latin-1 stands for itself, the others follow from U+0100.
const BYTE_CHARACTERS: readonly string[] = (() => {
  const characters: string[] = []
  let next = 0x100
  for (let byte = 0; byte < 256; byte++) {
    const printable =
      (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff)
    characters.push(String.fromCharCode(printable ? byte : next++))
  }
  return characters
})()
const CHARACTER_BYTES = new Map(BYTE_CHARACTERS.map((character, byte) => [character, byte]))

/** Bytes as a byte-level vocabulary spells them. Source: GPT-2, encoder.py (bytes_to_unicode). */
export function spellBytes(bytes: Uint8Array): string {
  let text = ''
  for (const byte of bytes) text += BYTE_CHARACTERS[byte]
  return text
}

/** The bytes that a byte-level spelling stands for; null when it has other characters. */
export function bytesOfSpelling(text: string): Uint8Array | null {
  const bytes = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i++) {
    const byte = CHARACTER_BYTES.get(text[i] as string)
    if (byte === undefined) return null
    bytes[i] = byte
  }
  return bytes
}

function shared<T extends Uint8Array | Uint32Array | Int32Array>(
  kind: { new (buffer: SharedArrayBuffer): T; BYTES_PER_ELEMENT: number },
  length: number,
): T {
  return new kind(new SharedArrayBuffer(length * kind.BYTES_PER_ELEMENT))
}

function slotsFor(entries: number): number {
  let slots = 16
  while (slots < entries * 2) slots *= 2
  return slots
}

function hashBytes(bytes: Uint8Array, begin: number, end: number): number {
  let hash = 0x811c9dc5
  for (let i = begin; i < end; i++) hash = Math.imul(hash ^ (bytes[i] as number), 0x01000193)
  return (hash ^ (hash >>> 15)) >>> 0
}

function hashPair(left: number, right: number): number {
  const mixed = Math.imul(left, 0x9e3779b1) ^ Math.imul(right + 0x7f4a7c15, 0x85ebca6b)
  return (mixed ^ (mixed >>> 15)) >>> 0
}

/** The id of a piece of bytes that is a token of the model, or -1. */
export function findToken(tables: TokenTables, piece: Uint8Array, begin = 0, end = piece.length): number {
  const { tokenSlots, bytes, bytesEnds } = tables
  const mask = tokenSlots.length - 1
  for (let slot = hashBytes(piece, begin, end) & mask; ; slot = (slot + 1) & mask) {
    const id = (tokenSlots[slot] as number) - 1
    if (id < 0) return -1
    const from = id === 0 ? 0 : (bytesEnds[id - 1] as number)
    if ((bytesEnds[id] as number) - from !== end - begin) continue
    let i = 0
    while (i < end - begin && bytes[from + i] === piece[begin + i]) i++
    if (i === end - begin) return id
  }
}

/** The rank of a merge, or -1. */
export function findMerge(tables: TokenTables, left: number, right: number): number {
  const { mergeSlots, merges } = tables
  const mask = mergeSlots.length - 1
  for (let slot = hashPair(left, right) & mask; ; slot = (slot + 1) & mask) {
    const rank = (mergeSlots[slot] as number) - 1
    if (rank < 0) return -1
    if (merges[2 * rank] === left && merges[2 * rank + 1] === right) return rank
  }
}

const decoder = new TextDecoder('utf-8', { ignoreBOM: true })

/** A token as the file spells it; undefined past the vocabulary. */
export function spelling({ text, textEnds, size }: TokenTables, id: number): string | undefined {
  if (!Number.isInteger(id) || id < 0 || id >= size) return undefined
  return decoder.decode(text.slice(id === 0 ? 0 : textEnds[id - 1], textEnds[id]))
}

export interface Vocabulary {
  /** Spellings by id, of the model and then of the added tokens that are no part of it. */
  readonly tokens: readonly string[]
  /** How many of them are the model's; null where ids interleave, then `isModel` tells. */
  readonly isModel: (id: number) => boolean
  readonly byteLevel: boolean
  /** Pairs of spellings, best first. */
  readonly merges: Iterable<readonly [string, string]>
  readonly mergeCount: number
}

/**
 * Builds the tables.
 * @throws FormatError for a merge that names no token
 */
export function buildTables(where: string, vocabulary: Vocabulary): TokenTables {
  const { tokens, isModel, byteLevel, mergeCount } = vocabulary
  const encoder = new TextEncoder()
  const spelled = tokens.map((token) => encoder.encode(token))
  const meant = spelled.map((bytes, id) =>
    byteLevel && isModel(id) ? (bytesOfSpelling(tokens[id] as string) ?? bytes) : bytes,
  )
  const pack = (parts: readonly Uint8Array[]): [Uint8Array, Uint32Array] => {
    const ends = shared(Uint32Array, parts.length)
    let total = 0
    parts.forEach((part, i) => {
      total += part.length
      ends[i] = total
    })
    const bytes = shared(Uint8Array, total)
    parts.forEach((part, i) => {
      bytes.set(part, (ends[i] as number) - part.length)
    })
    return [bytes, ends]
  }
  const [text, textEnds] = pack(spelled)
  const [bytes, bytesEnds] = pack(meant)

  const tokenSlots = shared(Int32Array, slotsFor(tokens.length))
  const ids = new Map<string, number>()
  const byteIds = shared(Int32Array, 256).fill(-1)
  tokens.forEach((token, id) => {
    if (!isModel(id)) return
    ids.set(token, id)
    const own = meant[id] as Uint8Array
    // a byte-level token with characters that stand for no byte can never be made from text
    if (byteLevel && bytesOfSpelling(token) === null) return
    let slot = hashBytes(own, 0, own.length) & (tokenSlots.length - 1)
    while (tokenSlots[slot] !== 0) slot = (slot + 1) & (tokenSlots.length - 1)
    tokenSlots[slot] = id + 1
    if (byteLevel && own.length === 1) byteIds[own[0] as number] = id
    const fallback = byteLevel ? null : /^<0x([0-9A-Fa-f]{2})>$/.exec(token)
    if (fallback !== null) byteIds[Number.parseInt(fallback[1] as string, 16)] = id
  })

  const merges = shared(Int32Array, 2 * mergeCount)
  const mergeResults = shared(Int32Array, mergeCount)
  const mergeSlots = shared(Int32Array, slotsFor(mergeCount))
  let rank = 0
  for (const [left, right] of vocabulary.merges) {
    const found = [left, right, left + right].map((token) => {
      const id = ids.get(token)
      if (id === undefined) {
        throw new FormatError(
          `${where}: merge ${rank}: expected ${JSON.stringify(token)} in the vocabulary, found no such token`,
        )
      }
      return id
    })
    merges[2 * rank] = found[0] as number
    merges[2 * rank + 1] = found[1] as number
    mergeResults[rank] = found[2] as number
    let slot = hashPair(found[0] as number, found[1] as number) & (mergeSlots.length - 1)
    let known = false
    while (mergeSlots[slot] !== 0) {
      const other = (mergeSlots[slot] as number) - 1
      known ||= merges[2 * other] === found[0] && merges[2 * other + 1] === found[1]
      slot = (slot + 1) & (mergeSlots.length - 1)
    }
    if (known) {
      throw new FormatError(
        `${where}: merge ${rank}: expected each pair once, found ${JSON.stringify([left, right])} again`,
      )
    }
    mergeSlots[slot] = rank + 1
    rank++
  }
  return {
    size: tokens.length,
    text,
    textEnds,
    bytes,
    bytesEnds,
    tokenSlots,
    merges,
    mergeSlots,
    mergeResults,
    byteIds,
  }
}
