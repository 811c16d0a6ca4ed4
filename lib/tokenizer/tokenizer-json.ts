// tokenizer.json of the Hugging Face tokenizers library: byte-pair models, read and written.
// Source of the format: https://github.com/huggingface/tokenizers (serialization of Tokenizer).

import { FormatError } from '../runtime/errors.ts'
import { type AddedToken, parseAddedToken, writeAddedToken } from './added.ts'
import type { BpeOptions } from './bpe.ts'
import { type JsonObject, type JsonValue, parseJson } from './json.ts'
import { isByteLevel } from './normalize.ts'
import { buildTables, spelling, type TokenTables } from './tables.ts'

/** Everything of a tokenizer, as plain data that threads can hand to each other. */
export interface TokenizerSpec {
  readonly where: string
  readonly tables: TokenTables
  /** Ids of the model; added tokens beyond it stand in `added` alone. */
  readonly modelSize: number
  readonly model: BpeOptions
  readonly unknownToken: string | null
  readonly added: readonly AddedToken[]
  /** As the file states them. */
  readonly normalizer: unknown
  readonly preTokenizer: unknown
  readonly postProcessor: unknown
  readonly decoder: unknown
}

const MAX_TOKENS = 4_000_000 // the largest known vocabulary has 260,000

function checkModel(model: JsonValue): void {
  if (!model.get('type').missing) model.get('type').oneOf('BPE')
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix']) {
    const value = model.get(key)
    if (!value.missing && value.value !== '') value.fail('none: this library knows no such marks')
  }
  const dropout = model.get('dropout')
  if (!dropout.missing && dropout.value !== 0) dropout.fail('none: encoding has to repeat')
}

function readMerge(json: JsonValue): readonly [string, string] {
  if (typeof json.value === 'string') {
    const parts = json.value.split(' ')
    if (parts.length !== 2 || parts[0] === '' || parts[1] === '') json.fail('two tokens and a space between')
    return [parts[0] as string, parts[1] as string]
  }
  const pair = json.items()
  if (pair.length !== 2) json.fail('two tokens')
  return [(pair[0] as JsonValue).string(), (pair[1] as JsonValue).string()]
}

/**
 * Reads the text of a tokenizer.json.
 * @throws FormatError naming the place, what was expected and found
 */
export function parseTokenizerJson(text: string, where: string): TokenizerSpec {
  const root = parseJson(text, where)
  const model = root.get('model')
  checkModel(model)

  const tokens: string[] = []
  const vocabulary = model.get('vocab').object()
  const names = Object.keys(vocabulary)
  const added = root.get('added_tokens').missing ? [] : root.get('added_tokens').items().map(parseAddedToken)
  if (names.length + added.length > MAX_TOKENS) {
    throw new FormatError(`${where}: expected at most ${MAX_TOKENS} tokens, found ${names.length}`)
  }
  const limit = names.length + added.length
  const place = (id: number, token: string): void => {
    if (tokens[id] !== undefined && tokens[id] !== token) {
      throw new FormatError(
        `${where}: expected one token of id ${id}, found ${JSON.stringify(tokens[id])} and ${JSON.stringify(token)}`,
      )
    }
    tokens[id] = token
  }
  const modelIds = new Uint8Array(limit)
  for (const name of names) {
    const id = vocabulary[name]
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= limit) {
      throw new FormatError(
        `${where}: model.vocab: expected ids from 0 to ${limit - 1} without gaps, found ${JSON.stringify(id)} for ${JSON.stringify(name.slice(0, 60))}`,
      )
    }
    if (name === '') throw new FormatError(`${where}: model.vocab: expected tokens of some length, found ""`)
    place(id, name)
    modelIds[id] = 1
  }
  const contents = new Set<string>()
  for (const { id, content } of added) {
    if (id >= limit) {
      throw new FormatError(
        `${where}: added_tokens: expected ids from 0 to ${limit - 1} without gaps, found ${id} for ${JSON.stringify(content)}`,
      )
    }
    if (contents.has(content)) {
      throw new FormatError(
        `${where}: added_tokens: expected ${JSON.stringify(content)} once, found it again`,
      )
    }
    contents.add(content)
    const own = Object.hasOwn(vocabulary, content) ? vocabulary[content] : undefined
    if (own !== undefined && own !== id) {
      throw new FormatError(
        `${where}: added_tokens: expected id ${String(own)} for ${JSON.stringify(content)} as in model.vocab, found ${id}`,
      )
    }
    place(id, content)
  }
  for (let id = 0; id < tokens.length; id++) {
    if (tokens[id] === undefined) {
      throw new FormatError(`${where}: expected ids without gaps, found no token of id ${id}`)
    }
  }

  const merges = model.get('merges').items()
  const preTokenizer = root.get('pre_tokenizer')
  const byteLevel = isByteLevel(preTokenizer)
  const tables = buildTables(where, {
    tokens,
    isModel: (id) => modelIds[id] === 1,
    byteLevel,
    mergeCount: merges.length,
    merges: (function* () {
      for (const merge of merges) yield readMerge(merge)
    })(),
  })
  const unknown = model.get('unk_token')
  const unknownToken = unknown.missing ? null : unknown.string()
  let unknownId: number | null = null
  if (unknownToken !== null) {
    const id = Object.hasOwn(vocabulary, unknownToken) ? vocabulary[unknownToken] : undefined
    if (typeof id !== 'number') unknown.fail('a token of the vocabulary')
    unknownId = id as number
  }
  return {
    where,
    tables,
    modelSize: names.length,
    model: {
      byteLevel,
      byteFallback: model.get('byte_fallback').boolean(false),
      ignoreMerges: model.get('ignore_merges').boolean(false),
      unknownId,
      fuseUnknown: model.get('fuse_unk').boolean(false),
    },
    unknownToken,
    added,
    normalizer: root.get('normalizer').value ?? null,
    preTokenizer: preTokenizer.value ?? null,
    postProcessor: root.get('post_processor').value ?? null,
    decoder: root.get('decoder').value ?? null,
  }
}

/** The JSON object of a tokenizer.json, merges as pairs. */
export function writeTokenizerJson(spec: TokenizerSpec): JsonObject {
  const { tables, model, added } = spec
  const beyond = new Set(added.filter(({ id }) => id >= spec.modelSize).map(({ id }) => id))
  const vocab: [string, number][] = []
  const texts: string[] = []
  for (let id = 0; id < tables.size; id++) {
    const text = spelling(tables, id) as string
    texts.push(text)
    if (!beyond.has(id)) vocab.push([text, id])
  }
  const merges: [string, string][] = []
  for (let rank = 0; rank < tables.mergeResults.length; rank++) {
    merges.push([
      texts[tables.merges[2 * rank] as number] as string,
      texts[tables.merges[2 * rank + 1] as number] as string,
    ])
  }
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added.map(writeAddedToken),
    normalizer: spec.normalizer,
    pre_tokenizer: spec.preTokenizer,
    post_processor: spec.postProcessor,
    decoder: spec.decoder,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: spec.unknownToken,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: model.fuseUnknown,
      byte_fallback: model.byteFallback,
      ignore_merges: model.ignoreMerges,
      // fromEntries defines own properties, also for a token named __proto__
      vocab: Object.fromEntries(vocab),
      merges,
    },
  }
}
