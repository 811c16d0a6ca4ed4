// Byte-level BPE training: counts distinct pieces, then merges the most frequent pair again and again.
// Memory goes by distinct pieces, not by the text. Ties go to the smaller pair of ids, and a count that
// falls is corrected when it is met: the merges are those of the Hugging Face trainer.
// Source: Sennrich et al. 2016.

import { ConfigError } from '../runtime/errors.ts'
import type { AddedToken } from './added.ts'
import { JsonValue } from './json.ts'
import { type PreTokenize, parsePreTokenizer, SPLIT_PATTERNS, type SplitPatternName } from './normalize.ts'
import { buildTables, spellBytes } from './tables.ts'
import type { TokenizerSpec } from './tokenizer-json.ts'

export interface BpeTrainerOptions {
  readonly vocabSize: number
  readonly specialTokens: readonly string[]
  readonly pattern: SplitPatternName
  /** Pairs seen less often are not merged. */
  readonly minFrequency: number
}

const MAX_PIECE = 2048 // UTF-16 units: longer ones (a base64 blob) teach nothing and cost much
const PAIR = 2 ** 21 // above any id; a pair as one exact number

/** Counts pieces of texts. */
export class PieceCounter {
  readonly counts = new Map<string, number>()
  readonly #cut: PreTokenize

  constructor(pattern: SplitPatternName) {
    const split = { type: 'Split', pattern: { Regex: SPLIT_PATTERNS[pattern] }, behavior: 'Isolated' }
    this.#cut = parsePreTokenizer(new JsonValue(split, 'pre_tokenizer'))
  }

  add(text: string): void {
    const { counts } = this
    this.#cut(text.isWellFormed() ? text : text.toWellFormed(), true, (piece) => {
      for (let at = 0; at < piece.length; at += MAX_PIECE) {
        const part = piece.length <= MAX_PIECE ? piece : piece.slice(at, at + MAX_PIECE).toWellFormed()
        const count = counts.get(part)
        // a slice of the text would keep all of it alive
        if (count === undefined) counts.set(Buffer.from(part, 'utf16le').toString('utf16le'), 1)
        else counts.set(part, count + 1)
      }
    })
  }
}

interface HeapItem {
  count: number
  readonly pair: number
}

/** Highest count first, then the smallest pair. */
class PairHeap {
  readonly #items: HeapItem[] = []

  get length(): number {
    return this.#items.length
  }

  push(item: HeapItem): void {
    const items = this.#items
    let at = items.length
    items.push(item)
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!before(item, items[parent] as HeapItem)) break
      items[at] = items[parent] as HeapItem
      at = parent
    }
    items[at] = item
  }

  pop(): HeapItem {
    const items = this.#items
    const top = items[0] as HeapItem
    const last = items.pop() as HeapItem
    if (items.length === 0) return top
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= items.length) break
      if (child + 1 < items.length && before(items[child + 1] as HeapItem, items[child] as HeapItem)) child++
      if (!before(items[child] as HeapItem, last)) break
      items[at] = items[child] as HeapItem
      at = child
    }
    items[at] = last
    return top
  }
}

function before(a: HeapItem, b: HeapItem): boolean {
  return a.count !== b.count ? a.count > b.count : a.pair < b.pair
}

/**
 * Merges until the vocabulary is full or no pair is frequent enough.
 * @param progress tokens so far
 * @throws ConfigError when the vocabulary does not hold the bytes and special tokens
 */
export function trainBpe(
  counts: ReadonlyMap<string, number>,
  { vocabSize, specialTokens, minFrequency, pattern }: BpeTrainerOptions,
  progress: (tokens: number) => void = () => {},
): TokenizerSpec {
  const least = 256 + specialTokens.length
  if (vocabSize < least) {
    throw new ConfigError(
      `Tokenizer.train: vocabSize must be at least ${least} (256 bytes, ${specialTokens.length} special tokens), received ${vocabSize}`,
    )
  }
  const tokens: string[] = [...specialTokens]
  const ids = new Map<string, number>(tokens.map((token, id) => [token, id]))
  // bytes in the order of their spellings, as the Hugging Face trainer has them
  const spellings = Array.from({ length: 256 }, (_, byte) => spellBytes(Uint8Array.of(byte)))
  const byteIds = new Int32Array(256)
  for (const byte of [...spellings.keys()].sort((a, b) =>
    (spellings[a] as string) < (spellings[b] as string) ? -1 : 1,
  )) {
    const text = spellings[byte] as string
    let id = ids.get(text)
    if (id === undefined) {
      id = tokens.push(text) - 1
      ids.set(text, id)
    }
    byteIds[byte] = id
  }

  // every distinct piece as ids, one after another
  const encoder = new TextEncoder()
  const words: Int32Array[] = []
  const weights: number[] = []
  for (const [piece, count] of counts) {
    const bytes = encoder.encode(piece)
    if (bytes.length < 2) continue
    words.push(Int32Array.from(bytes, (byte) => byteIds[byte] as number))
    weights.push(count)
  }
  const pairCounts = new Map<number, number>()
  const places = new Map<number, number[]>() // words where a pair stands, or once stood
  const change = (pair: number, by: number, word: number, touched: Set<number> | null): void => {
    pairCounts.set(pair, (pairCounts.get(pair) ?? 0) + by)
    if (by < 0) return
    const list = places.get(pair)
    if (list === undefined) places.set(pair, [word])
    else if (list.at(-1) !== word) list.push(word)
    touched?.add(pair)
  }
  words.forEach((word, index) => {
    const weight = weights[index] as number
    for (let i = 0; i + 1 < word.length; i++) {
      change((word[i] as number) * PAIR + (word[i + 1] as number), weight, index, null)
    }
  })
  const heap = new PairHeap()
  for (const [pair, count] of pairCounts) heap.push({ pair, count })

  const merges: [string, string][] = []
  while (tokens.length < vocabSize && heap.length > 0) {
    const top = heap.pop()
    const current = pairCounts.get(top.pair) ?? 0
    if (current !== top.count) {
      if (current > 0) heap.push({ pair: top.pair, count: current })
      continue
    }
    if (top.count < Math.max(1, minFrequency)) break
    const left = Math.floor(top.pair / PAIR)
    const right = top.pair % PAIR
    const text = (tokens[left] as string) + (tokens[right] as string)
    let id = ids.get(text)
    if (id === undefined) {
      id = tokens.push(text) - 1
      ids.set(text, id)
    }
    merges.push([tokens[left] as string, tokens[right] as string])
    const touched = new Set<number>()
    for (const index of places.get(top.pair) ?? []) {
      const word = words[index] as Int32Array
      const weight = weights[index] as number
      words[index] = merge(word, left, right, id, (pair, sign) => change(pair, sign * weight, index, touched))
    }
    places.delete(top.pair)
    pairCounts.delete(top.pair)
    for (const pair of touched) {
      const count = pairCounts.get(pair) ?? 0
      if (count > 0) heap.push({ pair, count })
    }
    if (merges.length % 256 === 0) progress(tokens.length)
  }
  progress(tokens.length)
  return trainedSpec(tokens, merges, specialTokens, pattern)
}

/** Replaces (left, right) by `id`; `change` hears of each pair that goes (-1) or comes (1). */
function merge(
  word: Int32Array,
  left: number,
  right: number,
  id: number,
  change: (pair: number, sign: 1 | -1) => void,
): Int32Array {
  let kept = 0
  const length = word.length
  for (let i = 0; i < length; i++) {
    if (word[i] !== left || i + 1 >= length || word[i + 1] !== right) {
      word[kept++] = word[i] as number
      continue
    }
    if (kept > 0) {
      const previous = word[kept - 1] as number
      change(previous * PAIR + left, -1)
      change(previous * PAIR + id, 1)
    }
    if (i + 2 < length) {
      const next = word[i + 2] as number
      change(right * PAIR + next, -1)
      change(id * PAIR + next, 1)
    }
    word[kept++] = id
    i++
  }
  return kept === length ? word : word.slice(0, kept)
}

function trainedSpec(
  tokens: readonly string[],
  merges: readonly (readonly [string, string])[],
  specialTokens: readonly string[],
  pattern: SplitPatternName,
): TokenizerSpec {
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }
  return {
    where: 'trained tokenizer',
    tables: buildTables('trained tokenizer', {
      tokens,
      isModel: () => true,
      byteLevel: true,
      merges,
      mergeCount: merges.length,
    }),
    modelSize: tokens.length,
    model: { byteLevel: true, byteFallback: false, ignoreMerges: false, unknownId: null, fuseUnknown: false },
    unknownToken: null,
    added: specialTokens.map(
      (content, id): AddedToken => ({
        id,
        content,
        special: true,
        lstrip: false,
        rstrip: false,
        singleWord: false,
        normalized: false,
      }),
    ),
    normalizer: null,
    preTokenizer: {
      type: 'Sequence',
      pretokenizers: [
        {
          type: 'Split',
          pattern: { Regex: SPLIT_PATTERNS[pattern] },
          behavior: 'Isolated',
          invert: false,
        },
        byteLevel,
      ],
    },
    postProcessor: null,
    decoder: byteLevel,
  }
}
