// Builds token files off the main thread: reading, parsing, templates, tokens, writing.

import { createHash } from 'node:crypto'
import { workerData } from 'node:worker_threads'
import { type HandedText, serve, takeText } from '../runtime/worker-server.ts'
import { Tokenizer, type TokenizerParts } from '../tokenizer/tokenizer.ts'
import { type DocumentPart, documentOf, readDocuments } from './documents.ts'
import { TokenFileWriter } from './token-file.ts'
import { writeDocument } from './tokenize.ts'

/** What the thread is started with. */
export interface BuildSettings {
  readonly parts: TokenizerParts
  /** Token files to write: for training and, when some is held out, for validation. */
  readonly paths: readonly string[]
  readonly holdOut: number
  readonly dedupe: boolean
}

/** A row, or the text that is all of it. */
export type HandedRow = { readonly row: unknown } | { readonly text: HandedText }

export type BuildRequest =
  | { readonly type: 'files'; readonly paths: readonly string[] }
  | { readonly type: 'rows'; readonly rows: readonly HandedRow[]; readonly from: number }
  | { readonly type: 'finish' }

export interface BuildProgress {
  readonly documents: number
  readonly duplicates: number
  readonly tokens: number
  /** Whether the first document was plain text; null before there is one. */
  readonly plainText: boolean | null
}

const REPORT_MS = 200

const { parts, paths, holdOut, dedupe } = workerData as BuildSettings
const tokenizer = Tokenizer.fromParts(parts)
const writers: TokenFileWriter[] = []
const seen = new Set<string>()
let duplicates = 0
let plainText: boolean | null = null
let target = 0
let skipping = false

// Long texts are held out block by block, so that one book has a validation set, too.
const BLOCK = 1 << 11 // UTF-16 units
let units = 0
let heldUnits = 0

/** Validation takes what comes whenever it has less than its share: spread evenly, and never nothing. */
function targetOf(length: number): 0 | 1 {
  units += length
  if (heldUnits + length / 2 > holdOut * units) return 0
  heldUnits += length
  return 1
}

/** Blocks of a text that end with a line, or where there is none with a space. */
function* blocksOf(text: string): Generator<string> {
  for (let at = 0; at < text.length; ) {
    let end = Math.min(text.length, at + BLOCK)
    if (end < text.length) {
      const line = text.lastIndexOf('\n', end - 1)
      const space = text.lastIndexOf(' ', end - 1)
      if (line > at + BLOCK / 2) end = line + 1
      else if (space > at) end = space
    }
    yield text.slice(at, end)
    at = end
  }
}

async function addText(part: DocumentPart, body: DocumentPart['body'] & { type: 'text' }): Promise<void> {
  const blocks = [...blocksOf(body.text)]
  for (const [i, text] of blocks.entries()) {
    const next = targetOf(text.length)
    if (next !== target) writers[target]?.endDocument()
    target = next
    const first = body.first && i === 0
    const last = body.last && i === blocks.length - 1
    const block = { where: part.where, body: { type: 'text', text, first, last } } as const
    await writeDocument(writers[target] as TokenFileWriter, block, tokenizer)
  }
}

async function add(part: DocumentPart): Promise<void> {
  const { body } = part
  plainText ??= body.type === 'text'
  if (body.type !== 'text' || body.first) {
    // a long text is known by its first part: a megabyte that repeats is a copy
    const digest = createHash('sha256').update(JSON.stringify(body)).digest()
    const key = digest.toString('latin1', 0, 16)
    skipping = dedupe && seen.has(key)
    if (dedupe) seen.add(key)
    if (skipping) duplicates++
  }
  if (skipping) return
  if (body.type === 'text' && holdOut > 0) return addText(part, body)
  if (body.type !== 'text' || body.first) target = holdOut > 0 ? targetOf(1) : 0
  await writeDocument(writers[target] as TokenFileWriter, part, tokenizer)
}

function progress(): BuildProgress {
  const sum = (of: (writer: TokenFileWriter) => number): number =>
    writers.reduce((total, writer) => total + of(writer), 0)
  return { documents: sum((w) => w.documents), tokens: sum((w) => w.tokens), duplicates, plainText }
}

serve<BuildRequest>(async (request, report) => {
  for (let i = writers.length; i < paths.length; i++) {
    writers.push(await TokenFileWriter.create(paths[i] as string, tokenizer.vocabSize))
  }
  switch (request.type) {
    case 'files': {
      let reported = Date.now()
      for (const path of request.paths) {
        for await (const part of readDocuments(path)) {
          await add(part)
          if (Date.now() - reported < REPORT_MS) continue
          report(progress())
          reported = Date.now()
        }
      }
      return { value: progress() }
    }
    case 'rows':
      for (const [i, handed] of request.rows.entries()) {
        const row = 'text' in handed ? takeText(handed.text) : handed.row
        await add(documentOf(row, `row ${request.from + i}`))
      }
      return { value: progress() }
    case 'finish':
      for (const writer of writers) await (await writer.finish()).close()
      return { value: progress() }
  }
  return request satisfies never
})
