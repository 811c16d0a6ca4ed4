// Documents from files and rows: what there is to learn from, before it is tokens.

import { createReadStream } from 'node:fs'
import { extname } from 'node:path'
import { readTextParts } from '../io/text.ts'
import { FormatError } from '../runtime/errors.ts'
import { shown } from '../runtime/options.ts'
import type { ChatMessage } from '../tokenizer/chat-template.ts'

/** What a dataset takes as one example; the shapes that public data comes in. */
export type DataRow =
  | string
  | { readonly text: string }
  | { readonly prompt: string; readonly completion: string }
  | { readonly messages: readonly ChatMessage[] }
  | { readonly conversations: readonly { readonly from: string; readonly value: string }[] }
  | { readonly instruction: string; readonly input?: string; readonly output: string }
  | { readonly data: readonly { readonly input: string; readonly output: string }[] }
  | {
      readonly input_ids: ArrayLike<number>
      readonly attention_mask?: ArrayLike<number>
      readonly labels?: ArrayLike<number>
    }
  | Int32Array

/** A document, or a part of a long one. */
export interface DocumentPart {
  /** `file.jsonl:12`, for errors. */
  readonly where: string
  readonly body:
    | { readonly type: 'text'; readonly text: string; readonly first: boolean; readonly last: boolean }
    | { readonly type: 'completion'; readonly prompt: string; readonly completion: string }
    | { readonly type: 'chat'; readonly messages: readonly ChatMessage[] }
    | { readonly type: 'ids'; readonly ids: ArrayLike<number>; readonly labels: ArrayLike<number> }
}

const MAX_LINE_BYTES = 64 * 2 ** 20
const SHAREGPT_ROLES: Readonly<Record<string, string>> = {
  human: 'user',
  user: 'user',
  gpt: 'assistant',
  assistant: 'assistant',
  system: 'system',
  tool: 'tool',
}

function refuse(where: string, expected: string, found: unknown): never {
  throw new FormatError(`${where}: expected ${expected}, found ${shown(found)}`)
}

function textField(where: string, row: Readonly<Record<string, unknown>>, field: string): string {
  const value = row[field]
  return typeof value === 'string' ? value : refuse(where, `a text as "${field}"`, value ?? null)
}

function list(where: string, row: Readonly<Record<string, unknown>>, field: string): readonly unknown[] {
  const value = row[field]
  if (!Array.isArray(value) || value.length === 0) refuse(where, `a list as "${field}"`, value ?? null)
  return value as readonly unknown[]
}

function record(where: string, value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) refuse(where, 'an object', value)
  return value as Readonly<Record<string, unknown>>
}

function numbers(where: string, field: string, value: unknown): ArrayLike<number> {
  const items = value as ArrayLike<number>
  if (!Array.isArray(value) && !ArrayBuffer.isView(value))
    refuse(where, `a list of ids as "${field}"`, value ?? null)
  for (let i = 0; i < items.length; i++) {
    if (!Number.isInteger(items[i])) refuse(where, `integers in "${field}"`, items[i])
  }
  return items
}

function idsPart(where: string, row: Readonly<Record<string, unknown>>): DocumentPart['body'] {
  const ids = numbers(where, 'input_ids', row['input_ids'])
  const given = row['labels'] === undefined ? ids : numbers(where, 'labels', row['labels'])
  const mask =
    row['attention_mask'] === undefined ? null : numbers(where, 'attention_mask', row['attention_mask'])
  if (given.length !== ids.length) refuse(where, `${ids.length} labels`, given.length)
  if (mask !== null && mask.length !== ids.length)
    refuse(where, `an attention_mask of ${ids.length}`, mask.length)
  // padding is no part of an example: rows are packed or padded here
  const kept = Array.from({ length: ids.length }, (_, i) => i).filter((i) => mask === null || mask[i] !== 0)
  return {
    type: 'ids',
    ids: kept.map((i) => ids[i] as number),
    labels: kept.map((i) => given[i] as number),
  }
}

/**
 * The document of a row.
 * @throws FormatError naming the row, what was expected and found
 */
export function documentOf(row: unknown, where: string): DocumentPart {
  if (typeof row === 'string') return { where, body: { type: 'text', text: row, first: true, last: true } }
  if (row instanceof Int32Array) return { where, body: { type: 'ids', ids: row, labels: row } }
  const fields = record(where, row)
  const has = (field: string): boolean => Object.hasOwn(fields, field)
  if (has('messages')) {
    const messages = list(where, fields, 'messages').map((item, i) => {
      const message = record(`${where}: messages[${i}]`, item)
      textField(`${where}: messages[${i}]`, message, 'role')
      return message as unknown as ChatMessage
    })
    return { where, body: { type: 'chat', messages } }
  }
  if (has('conversations')) {
    const messages = list(where, fields, 'conversations').map((item, i): ChatMessage => {
      const place = `${where}: conversations[${i}]`
      const turn = record(place, item)
      const from = textField(place, turn, 'from')
      const role = Object.hasOwn(SHAREGPT_ROLES, from) ? SHAREGPT_ROLES[from] : undefined
      return {
        role: role ?? refuse(place, `"from" to be one of ${Object.keys(SHAREGPT_ROLES).join(', ')}`, from),
        content: textField(place, turn, 'value'),
      }
    })
    return { where, body: { type: 'chat', messages } }
  }
  if (has('input_ids')) return { where, body: idsPart(where, fields) }
  if (has('prompt') || has('completion')) {
    const prompt = textField(where, fields, 'prompt')
    return { where, body: { type: 'completion', prompt, completion: textField(where, fields, 'completion') } }
  }
  if (has('instruction')) {
    const input = has('input') ? textField(where, fields, 'input') : ''
    const instruction = textField(where, fields, 'instruction')
    const content = input === '' ? instruction : `${instruction}\n\n${input}`
    const answer = { role: 'assistant', content: textField(where, fields, 'output') }
    return { where, body: { type: 'chat', messages: [{ role: 'user', content }, answer] } }
  }
  if (has('data')) {
    const messages = list(where, fields, 'data').flatMap((item, i): ChatMessage[] => {
      const place = `${where}: data[${i}]`
      const pair = record(place, item)
      return [
        { role: 'user', content: textField(place, pair, 'input') },
        { role: 'assistant', content: textField(place, pair, 'output') },
      ]
    })
    return { where, body: { type: 'chat', messages } }
  }
  if (has('text')) {
    return { where, body: { type: 'text', text: textField(where, fields, 'text'), first: true, last: true } }
  }
  return refuse(
    where,
    'one of "text", "prompt" and "completion", "messages", "conversations", "instruction", "data", "input_ids"',
    Object.keys(fields),
  )
}

/** Lines of a file with their numbers from 1, blank ones left out. */
async function* readLines(path: string): AsyncGenerator<{ text: string; number: number }> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  let parts: Buffer[] = []
  let held = 0
  let number = 0
  const line = (): string => {
    const bytes = Buffer.concat(parts)
    parts = []
    held = 0
    number++
    try {
      return decoder.decode(bytes).trim()
    } catch {
      throw new FormatError(`${path}:${number}: expected UTF-8, found other bytes`)
    }
  }
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) {
    for (let from = 0; from < chunk.length; ) {
      const end = chunk.indexOf(0x0a, from)
      const part = chunk.subarray(from, end < 0 ? chunk.length : end)
      held += part.length
      if (held > MAX_LINE_BYTES) {
        throw new FormatError(
          `${path}:${number + 1}: expected lines of at most ${MAX_LINE_BYTES} bytes, found more`,
        )
      }
      parts.push(part)
      if (end < 0) break
      const text = line()
      if (text !== '') yield { text, number }
      from = end + 1
    }
  }
  const last = line()
  if (last !== '') yield { text: last, number }
}

/**
 * Documents of a file: rows of JSON for `.jsonl`, otherwise one text, in parts.
 * @throws FormatError naming file and line
 */
export async function* readDocuments(path: string): AsyncGenerator<DocumentPart> {
  if (extname(path).toLowerCase() === '.jsonl') {
    for await (const { text, number } of readLines(path)) {
      const where = `${path}:${number}`
      let row: unknown
      try {
        row = JSON.parse(text)
      } catch (error) {
        throw new FormatError(`${where}: expected JSON, found ${(error as Error).message.slice(0, 100)}`)
      }
      yield documentOf(row, where)
    }
    return
  }
  let first = true
  let held: string | undefined
  for await (const text of readTextParts(path)) {
    if (held !== undefined) {
      yield { where: path, body: { type: 'text', text: held, first, last: false } }
      first = false
    }
    held = text
  }
  if (held !== undefined) yield { where: path, body: { type: 'text', text: held, first, last: true } }
}
