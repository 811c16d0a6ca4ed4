// How documents lie in rows of equal length. A row never lets one document see another: `first` names the
// first token each may attend to, positions begin anew, and a document's first token is no target.

import { ConfigError } from '../runtime/errors.ts'
import { permutation } from './permutation.ts'
import type { TokenFile } from './token-file.ts'

/** Rows of a batch, row after row. */
export interface Batch {
  readonly rows: number
  /** Tokens of a row. */
  readonly length: number
  readonly ids: Int32Array
  /** The id where the loss counts it, else -100. Not shifted: models shift. */
  readonly labels: Int32Array
  /** Position of each token in its document. */
  readonly positions: Int32Array
  /** The first place in the row that each token may attend to. */
  readonly first: Int32Array
  /** Labels that the loss counts: those other than -100, but for the first of each row. */
  readonly targets: number
}

/** A way to lay out a token file. */
export interface Layout {
  /** Rows of an epoch. */
  readonly rows: number
  /** Fills a row; `index` counts rows through all epochs. */
  fill(index: number, row: RowBuffers): Promise<void>
}

export interface RowBuffers {
  readonly ids: Int32Array
  readonly labels: Int32Array
  readonly positions: Int32Array
  readonly first: Int32Array
}

export interface LayoutOptions {
  readonly contextLength: number
  /** Null: rows in order. */
  readonly seed: number | null
  readonly padTokenId: number
}

/** The document that token `at` belongs to. */
function documentAt(ends: Float64Array, at: number): number {
  let low = 0
  let high = ends.length - 1
  while (low < high) {
    const middle = (low + high) >> 1
    if ((ends[middle] as number) > at) high = middle
    else low = middle + 1
  }
  return low
}

const orderOf = (rows: number, seed: number | null): ((index: number) => number) => {
  let epoch = -1
  let order: (index: number) => number = (index) => index
  return (index) => {
    if (seed === null) return index % rows
    const wanted = Math.floor(index / rows)
    if (wanted !== epoch) {
      epoch = wanted
      order = permutation(rows, seed, epoch)
    }
    return order(index % rows)
  }
}

/** One run of text, cut into rows that share a token, so that every token is once a target. */
export function streamLayout(file: TokenFile, { contextLength, seed }: LayoutOptions): Layout {
  const stride = contextLength - 1
  const rows = Math.floor((file.tokens - 1) / stride)
  if (rows < 1) {
    throw new ConfigError(
      `TextDataset: expected at least one row of ${contextLength} tokens, found ${file.tokens} tokens in all`,
    )
  }
  const order = orderOf(rows, seed)
  return {
    rows,
    async fill(index, { ids, labels, positions, first }) {
      const begin = order(index) * stride
      await file.read(begin, ids, labels)
      const ends = file.documentEnds
      let document = documentAt(ends, begin)
      let from = 0
      for (let i = 0; i < contextLength; i++) {
        if (begin + i >= (ends[document] as number)) {
          document++
          from = i
          labels[i] = -100
        }
        positions[i] = i - from
        first[i] = from
      }
    },
  }
}

/**
 * Whole documents, as many in a row as fit one after another in the epoch's order; longer ones are cut at
 * the row's end. What is left of a row is padding, which nothing attends to and the loss does not count.
 */
export function exampleLayout(file: TokenFile, { contextLength, seed, padTokenId }: LayoutOptions): Layout {
  const { documentEnds: ends } = file
  const begin = (document: number): number => (document === 0 ? 0 : (ends[document - 1] as number))
  const length = (document: number): number =>
    Math.min(contextLength, (ends[document] as number) - begin(document))
  if (ends.length === 0) throw new ConfigError('TextDataset: expected some examples, found none')
  // Rows of an epoch are fixed by one order of examples; epochs shuffle examples anew within the same
  // number of rows only if lengths allow, so rows are planned once and shuffled as wholes.
  const shuffled = seed === null ? (i: number) => i : permutation(ends.length, seed, -1)
  const members = new Float64Array(ends.length)
  const starts: number[] = []
  let room = 0
  for (let i = 0; i < ends.length; i++) {
    const document = shuffled(i)
    members[i] = document
    if (length(document) > room) {
      starts.push(i)
      room = contextLength
    }
    room -= length(document)
  }
  const rows = starts.length
  const order = orderOf(rows, seed)
  return {
    rows,
    async fill(index, { ids, labels, positions, first }) {
      const row = order(index)
      let at = 0
      for (let i = starts[row] as number; i < (starts[row + 1] ?? members.length); i++) {
        const document = members[i] as number
        const end = at + length(document)
        await file.read(begin(document), ids.subarray(at, end), labels.subarray(at, end))
        labels[at] = -100
        for (let t = at; t < end; t++) {
          positions[t] = t - at
          first[t] = at
        }
        at = end
      }
      ids.fill(padTokenId, at)
      labels.fill(-100, at)
      positions.fill(0, at)
      // an empty interval: padding attends to nothing
      for (let t = at; t < contextLength; t++) first[t] = t + 1
    },
  }
}
