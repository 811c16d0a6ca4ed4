// Datasets: text, chats or ids as batches of rows, from files or rows of any size.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ConfigError } from '../runtime/errors.ts'
import { checkInteger, checkName, checkNumber, checkOptions, checkSignal, shown } from '../runtime/options.ts'
import { WorkerThread } from '../runtime/worker-thread.ts'
import { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { DataRow } from './documents.ts'
import { type Batch, exampleLayout, type Layout, type LayoutOptions, streamLayout } from './rows.ts'
import { TokenFile } from './token-file.ts'
import type { BuildProgress, BuildRequest, BuildSettings, HandedRow } from './worker.ts'

export interface TextDatasetOptions {
  readonly tokenizer: Tokenizer
  /** Tokens of a row. */
  readonly contextLength: number
  /**
   * `stream`: one run of text cut into rows, for pre-training. `examples`: whole documents in rows, for
   * conversations and other pairs. Default: `examples` when the first document is no plain text.
   */
  readonly layout?: 'stream' | 'examples'
  /** Of the order of rows; null for the order of the source. Default 0. */
  readonly seed?: number | null
  /** Drops documents whose text came before. Default true. */
  readonly dedupe?: boolean
  /** Keeps tokens in this file, to be opened again by `TextDataset.open`; else in one that vanishes. */
  readonly cache?: string
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: DataProgress) => void
}

export interface DataProgress {
  readonly documents: number
  readonly duplicates: number
  readonly tokens: number
}

export interface SplitOptions extends TextDatasetOptions {
  /** Share held out for validation, from 0 to 0.5, spread evenly: of examples, or of blocks of long texts. */
  readonly holdOut: number
}

const LAYOUTS = ['stream', 'examples'] as const
const MOST_TOKENS = 2 ** 28 // of a batch
const OPTIONS = ['tokenizer', 'contextLength', 'layout', 'seed', 'dedupe', 'cache', 'signal', 'onProgress']

/** Tokens of a corpus in rows. The same index gives the same row, whatever was read before. */
export class TextDataset {
  readonly contextLength: number
  /** Tokens in all, with those that end documents. */
  readonly tokens: number
  readonly documents: number
  /** Rows of one epoch. */
  readonly rows: number
  readonly #file: TokenFile
  readonly #layout: Layout
  readonly #unordered: Layout
  readonly #order: Readonly<Record<string, unknown>>

  private constructor(file: TokenFile, layout: 'stream' | 'examples', options: LayoutOptions) {
    this.#file = file
    this.#order = { layout, seed: options.seed }
    this.contextLength = options.contextLength
    this.tokens = file.tokens
    this.documents = file.documentEnds.length
    const make = layout === 'stream' ? streamLayout : exampleLayout
    this.#layout = make(file, options)
    this.#unordered = options.seed === null ? this.#layout : make(file, { ...options, seed: null })
    this.rows = this.#layout.rows
  }

  /**
   * From text files and `.jsonl` files (rows of the shapes in {@link DataRow}).
   * @throws FormatError naming file and line; ConfigError when there is less than one row
   */
  static fromFiles(files: readonly string[], options: SplitOptions): Promise<Split>
  static fromFiles(files: readonly string[], options: TextDatasetOptions): Promise<TextDataset>
  static fromFiles(
    files: readonly string[],
    options: TextDatasetOptions | SplitOptions,
  ): Promise<TextDataset | Split> {
    if (!Array.isArray(files) || files.some((file) => typeof file !== 'string')) {
      throw new ConfigError(`TextDataset.fromFiles: files must be a list of paths, received ${shown(files)}`)
    }
    if (files.length === 0) throw new ConfigError('TextDataset.fromFiles: expected some files, received none')
    return build('TextDataset.fromFiles', { files }, options)
  }

  /** From rows: of an array, a generator, a database cursor. */
  static from(rows: Iterable<DataRow> | AsyncIterable<DataRow>, options: SplitOptions): Promise<Split>
  static from(
    rows: Iterable<DataRow> | AsyncIterable<DataRow>,
    options: TextDatasetOptions,
  ): Promise<TextDataset>
  static from(
    rows: Iterable<DataRow> | AsyncIterable<DataRow>,
    options: TextDatasetOptions | SplitOptions,
  ): Promise<TextDataset | Split> {
    return build('TextDataset.from', { rows }, options)
  }

  /** @internal */
  static of(file: TokenFile, layout: 'stream' | 'examples', options: LayoutOptions): TextDataset {
    return new TextDataset(file, layout, options)
  }

  /**
   * Opens the tokens that an earlier dataset kept in its `cache`.
   * @throws FormatError when the file is none, or was not finished
   */
  static async open(
    path: string,
    options: {
      contextLength: number
      layout: 'stream' | 'examples'
      seed?: number | null
      padTokenId?: number
    },
  ): Promise<TextDataset> {
    checkOptions('TextDataset.open', options, ['contextLength', 'layout', 'seed', 'padTokenId'])
    const where = 'TextDataset.open'
    const { seed = 0, padTokenId = 0 } = options
    const contextLength = checkInteger(where, 'contextLength', options.contextLength, 2, 2 ** 24)
    const layout = checkName(where, 'layout', options.layout, LAYOUTS)
    if (seed !== null) checkInteger(where, 'seed', seed, 0, 2 ** 32 - 1)
    checkInteger(where, 'padTokenId', padTokenId, 0, 2 ** 31 - 2)
    const file = await TokenFile.open(path)
    try {
      return new TextDataset(file, layout, { contextLength, seed, padTokenId })
    } catch (error) {
      await file.close()
      throw error
    }
  }

  /**
   * `count` rows from row `index` on, counted through all epochs: what a training step reads.
   * @param options ordered: in the order of the source, for evaluation
   */
  async batch(index: number, count: number, { ordered = false }: { ordered?: boolean } = {}): Promise<Batch> {
    checkInteger('TextDataset.batch', 'index', index, 0, Number.MAX_SAFE_INTEGER - MOST_TOKENS)
    this.#checkRows('TextDataset.batch', 'count', count, 0)
    const indices = Array.from({ length: count }, (_, row) => index + row)
    return this.#read(ordered ? this.#unordered : this.#layout, indices)
  }

  async #read(layout: Layout, indices: readonly number[]): Promise<Batch> {
    const length = this.contextLength
    const make = (): Int32Array => new Int32Array(indices.length * length)
    const batch = { ids: make(), labels: make(), positions: make(), first: make() }
    for (const [row, index] of indices.entries()) {
      const part = (array: Int32Array): Int32Array => array.subarray(row * length, (row + 1) * length)
      const buffers = {
        ids: part(batch.ids),
        labels: part(batch.labels),
        positions: part(batch.positions),
        first: part(batch.first),
      }
      await layout.fill(index, buffers)
    }
    let targets = 0
    for (let i = 0; i < batch.labels.length; i++) if (i % length !== 0 && batch.labels[i] !== -100) targets++
    return { rows: indices.length, length, targets, ...batch }
  }

  /** Batches in training's order from row `from` on, without end, one read ahead. */
  async *batches(size: number, { from = 0 }: { from?: number } = {}): AsyncGenerator<Batch> {
    this.#checkRows('TextDataset.batches', 'size', size, 1)
    checkInteger('TextDataset.batches', 'from', from, 0, Number.MAX_SAFE_INTEGER - MOST_TOKENS)
    let next = this.batch(from, size)
    for (let row = from + size; ; row += size) {
      const batch = await next
      next = this.batch(row, size)
      // a failure surfaces when the batch is asked for, not as an unhandled rejection before
      next.catch(() => undefined)
      yield batch
    }
  }

  /**
   * Every row once, in the source's order; the last batch may be smaller.
   * @param options maxRows: only so many, spread evenly over the source
   */
  async *once(size: number, { maxRows = this.rows }: { maxRows?: number } = {}): AsyncGenerator<Batch> {
    this.#checkRows('TextDataset.once', 'size', size, 1)
    checkInteger('TextDataset.once', 'maxRows', maxRows, 1, Number.MAX_SAFE_INTEGER)
    const rows = Math.min(maxRows, this.rows)
    for (let row = 0; row < rows; row += size) {
      const indices = Array.from({ length: Math.min(size, rows - row) }, (_, i) =>
        Math.floor(((row + i) * this.rows) / rows),
      )
      yield await this.#read(this.#unordered, indices)
    }
  }

  /** @internal What decides the rows and their order, as plain data. */
  async identity(): Promise<Readonly<Record<string, unknown>>> {
    const { contextLength, tokens, rows } = this
    return { tokens, rows, contextLength, ...this.#order, digest: await this.#file.digest() }
  }

  /** Twice is once. */
  close(): Promise<void> {
    return this.#file.close()
  }

  #checkRows(where: string, name: string, value: number, least: number): void {
    checkInteger(where, name, value, least, Math.floor(MOST_TOKENS / this.contextLength))
  }
}

export interface Split {
  readonly train: TextDataset
  readonly validation: TextDataset
}

const BATCH_ROWS = 256
const BATCH_UNITS = 1 << 18 // of JSON, about: what one message to the thread carries

/** Rows in batches small enough to be copied to another thread between two events. */
async function* batchesOf(
  rows: Iterable<DataRow> | AsyncIterable<DataRow>,
): AsyncGenerator<{ rows: DataRow[]; from: number }> {
  let batch: DataRow[] = []
  let units = 0
  let from = 0
  for await (const row of rows) {
    batch.push(row)
    units += weight(row)
    if (batch.length < BATCH_ROWS && units < BATCH_UNITS) continue
    yield { rows: batch, from }
    from += batch.length
    batch = []
    units = 0
  }
  if (batch.length > 0) yield { rows: batch, from }
}

/** The text of a row that is nothing else. */
function wholeText(row: DataRow): string | null {
  if (typeof row === 'string') return row
  if (typeof row !== 'object' || row === null || !('text' in row)) return null
  return typeof row.text === 'string' && Object.keys(row).length === 1 ? row.text : null
}

function weight(value: unknown): number {
  if (typeof value === 'string') return value.length
  if (ArrayBuffer.isView(value)) return value.byteLength
  if (typeof value !== 'object' || value === null) return 8
  return Object.values(value).reduce((sum: number, item) => sum + weight(item), 8)
}

type Source =
  | { readonly files: readonly string[] }
  | { readonly rows: Iterable<DataRow> | AsyncIterable<DataRow> }

function isIterable(value: unknown): boolean {
  if (value === null || value === undefined) return false
  return Symbol.iterator in Object(value) || Symbol.asyncIterator in Object(value)
}

async function build(
  where: string,
  source: Source,
  options: TextDatasetOptions | SplitOptions,
): Promise<TextDataset | Split> {
  checkOptions(where, options, [...OPTIONS, 'holdOut'])
  const { tokenizer, contextLength, seed = 0, dedupe = true, cache, signal, onProgress } = options
  checkInteger(where, 'contextLength', contextLength, 2, 2 ** 24)
  if (seed !== null) checkInteger(where, 'seed', seed, 0, 2 ** 32 - 1)
  if (options.layout !== undefined) checkName(where, 'layout', options.layout, LAYOUTS)
  checkSignal(where, signal)
  if (!(tokenizer instanceof Tokenizer)) {
    throw new ConfigError(`${where}: tokenizer must be a Tokenizer, received ${shown(tokenizer)}`)
  }
  const given: unknown = 'rows' in source ? source.rows : []
  if (typeof given === 'string' || !isIterable(given)) {
    throw new ConfigError(`${where}: rows must be an iterable of rows, received ${shown(given)}`)
  }
  const holdOut = checkNumber(where, 'holdOut', 'holdOut' in options ? options.holdOut : 0, {
    from: 0,
    to: 0.5,
  })
  const folder = cache === undefined ? await mkdtemp(join(tmpdir(), 'fuselm-tokens-')) : null
  const base = cache ?? join(folder as string, 'tokens')
  const paths = holdOut > 0 ? [base, `${base}.validation`] : [base]
  const settings: BuildSettings = { parts: tokenizer.parts, paths, holdOut, dedupe }
  const thread = new WorkerThread<BuildRequest>('data/worker.js', { data: settings, keep: true })
  const report = ({ documents, duplicates, tokens }: BuildProgress): void =>
    onProgress?.({ documents, duplicates, tokens })
  let done = false
  try {
    if ('files' in source) {
      await thread.ask<BuildProgress, BuildProgress>(
        { type: 'files', paths: source.files },
        { signal, onProgress: report },
      )
    } else {
      for await (const batch of batchesOf(source.rows)) {
        const rows: HandedRow[] = []
        for (const row of batch.rows) {
          const text = wholeText(row)
          rows.push(text === null ? { row } : { text: await thread.hand(text, signal) })
        }
        report(await thread.ask<BuildProgress>({ type: 'rows', rows, from: batch.from }, { signal }))
      }
    }
    const total = await thread.ask<BuildProgress>({ type: 'finish' }, { signal })
    report(total)
    const layout = options.layout ?? (total.plainText === false ? 'examples' : 'stream')
    const padTokenId = tokenizer.padTokenId ?? tokenizer.eosTokenId ?? 0
    const [train, validation] = await opened(where, paths, layout, { contextLength, seed, padTokenId })
    done = true
    return validation === undefined ? (train as TextDataset) : { train: train as TextDataset, validation }
  } finally {
    thread.close()
    // without a cache the open files are all that is left; after a failure nothing is
    if (folder !== null) await rm(folder, { recursive: true, force: true })
    else if (!done) for (const path of paths) await rm(path, { force: true })
  }
}

async function opened(
  where: string,
  paths: readonly string[],
  layout: 'stream' | 'examples',
  options: LayoutOptions,
): Promise<TextDataset[]> {
  const files: TokenFile[] = []
  try {
    for (const path of paths) files.push(await TokenFile.open(path))
    const held = files[1]
    if (held !== undefined && held.tokens < options.contextLength) {
      throw new ConfigError(
        `${where}: holdOut left ${held.tokens} tokens for validation, fewer than a row of ${options.contextLength}; give more text, a larger share, or no holdOut`,
      )
    }
    return files.map((file) => TextDataset.of(file, layout, options))
  } catch (error) {
    for (const file of files) await file.close()
    throw error
  }
}
