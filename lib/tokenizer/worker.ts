// What runs off the main thread: reading and writing tokenizer.json, training, long texts.

import { workerData } from 'node:worker_threads'
import { readText } from '../io/small-file.ts'
import { readTextParts } from '../io/text.ts'
import { type HandedText, serve, takeText } from '../runtime/worker-server.ts'
import { type EncodeOptions, Encoder } from './encoder.ts'
import { parseTokenizerJson, type TokenizerSpec, writeTokenizerJson } from './tokenizer-json.ts'
import { type BpeTrainerOptions, PieceCounter, trainBpe } from './train.ts'

export type TokenizerRequest =
  | { readonly type: 'load'; readonly path: string }
  | { readonly type: 'write'; readonly spec: TokenizerSpec }
  | { readonly type: 'encode'; readonly texts: readonly HandedText[]; readonly options: EncodeOptions }
  | {
      readonly type: 'count'
      readonly pattern: BpeTrainerOptions['pattern']
      readonly texts: readonly HandedText[]
    }
  | { readonly type: 'countFile'; readonly pattern: BpeTrainerOptions['pattern']; readonly path: string }
  | { readonly type: 'train'; readonly options: BpeTrainerOptions }

const MAX_FILE_BYTES = 512 * 2 ** 20 // of a tokenizer.json; the largest known has 35 MB

let encoder: Encoder | undefined
let counter: PieceCounter | undefined

serve<TokenizerRequest>(async (request, report) => {
  switch (request.type) {
    case 'load': {
      const text = await readText(request.path, MAX_FILE_BYTES)
      const spec = parseTokenizerJson(text, request.path)
      new Encoder(spec) // parts that are not known are refused here
      return { value: spec }
    }
    case 'write': {
      const text = JSON.stringify(writeTokenizerJson(request.spec), null, 2)
      const bytes = new TextEncoder().encode(`${text}\n`)
      return { value: bytes, transfer: [bytes.buffer] }
    }
    case 'encode': {
      encoder ??= new Encoder(workerData as TokenizerSpec)
      const all = encoder
      const ids = request.texts.map((text) => all.ids(takeText(text), request.options))
      return { value: ids, transfer: ids.map(({ buffer }) => buffer as ArrayBuffer) }
    }
    case 'count':
      counter ??= new PieceCounter(request.pattern)
      for (const text of request.texts) counter.add(takeText(text))
      return { value: counter.counts.size }
    case 'countFile':
      counter ??= new PieceCounter(request.pattern)
      for await (const part of readTextParts(request.path)) counter.add(part)
      return { value: counter.counts.size }
    case 'train':
      return { value: trainBpe(counter?.counts ?? new Map(), request.options, report) }
  }
  return request satisfies never
})
