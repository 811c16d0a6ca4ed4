// What runs off the main thread: reading and writing tokenizer.json, training, long texts.

import { readFile } from 'node:fs/promises'
import { parentPort, workerData } from 'node:worker_threads'
import { readTextParts } from '../io/text.ts'
import { FormatError, FuselmError } from '../runtime/errors.ts'
import { type EncodeOptions, Encoder } from './encoder.ts'
import { parseTokenizerJson, type TokenizerSpec, writeTokenizerJson } from './tokenizer-json.ts'
import { type BpeTrainerOptions, PieceCounter, trainBpe } from './train.ts'

/** One piece of work; the answer carries the same id. */
export type Request = { readonly id: number } & (
  | { readonly type: 'load'; readonly path: string }
  | { readonly type: 'write'; readonly spec: TokenizerSpec }
  | { readonly type: 'encode'; readonly texts: readonly string[]; readonly options: EncodeOptions }
  | {
      readonly type: 'count'
      readonly pattern: BpeTrainerOptions['pattern']
      readonly texts: readonly string[]
    }
  | { readonly type: 'countFile'; readonly pattern: BpeTrainerOptions['pattern']; readonly path: string }
  | { readonly type: 'train'; readonly options: BpeTrainerOptions }
)

export type Answer = { readonly id: number } & (
  | { readonly type: 'done'; readonly value: unknown }
  | { readonly type: 'progress'; readonly tokens: number }
  | { readonly type: 'failed'; readonly name: string; readonly code: string; readonly message: string }
)

const MAX_FILE_BYTES = 512 * 2 ** 20 // of a tokenizer.json; the largest known has 35 MB

let encoder: Encoder | undefined
let counter: PieceCounter | undefined

async function run(request: Request): Promise<[value: unknown, transfer: ArrayBuffer[]]> {
  switch (request.type) {
    case 'load': {
      const bytes = await readFile(request.path)
      const spec = parseTokenizerJson(textOf(bytes, request.path), request.path)
      new Encoder(spec) // parts that are not known are refused here
      return [spec, []]
    }
    case 'write': {
      const text = JSON.stringify(writeTokenizerJson(request.spec), null, 2)
      const bytes = new TextEncoder().encode(`${text}\n`)
      return [bytes, [bytes.buffer]]
    }
    case 'encode': {
      encoder ??= new Encoder(workerData as TokenizerSpec)
      const ids = request.texts.map((text) => (encoder as Encoder).ids(text, request.options))
      return [ids, ids.map(({ buffer }) => buffer as ArrayBuffer)]
    }
    case 'count':
      counter ??= new PieceCounter(request.pattern)
      for (const text of request.texts) counter.add(text)
      return [counter.counts.size, []]
    case 'countFile':
      counter ??= new PieceCounter(request.pattern)
      for await (const part of readTextParts(request.path)) counter.add(part)
      return [counter.counts.size, []]
    case 'train': {
      const progress = (tokens: number): void => send({ id: request.id, type: 'progress', tokens })
      return [trainBpe(counter?.counts ?? new Map(), request.options, progress), []]
    }
  }
  return request satisfies never
}

function textOf(bytes: Uint8Array, path: string): string {
  if (bytes.length > MAX_FILE_BYTES) {
    throw new FormatError(`${path}: expected at most ${MAX_FILE_BYTES} bytes, found ${bytes.length}`)
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new FormatError(`${path}: expected UTF-8, found other bytes`)
  }
}

function send(answer: Answer, transfer: ArrayBuffer[] = []): void {
  parentPort?.postMessage(answer, transfer)
}

async function answer(request: Request): Promise<void> {
  const { id } = request
  try {
    const [value, transfer] = await run(request)
    send({ id, type: 'done', value }, transfer)
  } catch (error) {
    const { name, message } = error instanceof Error ? error : new Error(String(error))
    const code = error instanceof FuselmError ? error.code : String((error as { code?: unknown }).code ?? '')
    send({ id, type: 'failed', name, code, message })
  }
}

// one after another, in order: counting goes before training
let last: Promise<void> = Promise.resolve()
parentPort?.on('message', (request: Request) => {
  last = last.then(() => answer(request))
})
