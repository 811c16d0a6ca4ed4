// The tokenizer people hold: load, train, encode, decode, save.

import { stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { makeFolder, writeAtomic } from '../io/atomic.ts'
import { explainMissing, ifThere, readText } from '../io/small-file.ts'
import { ConfigError, ValueError } from '../runtime/errors.ts'
import { checkInteger, checkOptions, checkPath, checkSignal, shown } from '../runtime/options.ts'
import type { HandedText } from '../runtime/worker-server.ts'
import { WorkerThread } from '../runtime/worker-thread.ts'
import type { AddedToken } from './added.ts'
import { type ChatMessage, ChatTemplate } from './chat-template.ts'
import { DecodeStream } from './decode.ts'
import { type EncodeOptions, Encoder } from './encoder.ts'
import { JsonValue, parseJson } from './json.ts'
import { SPLIT_PATTERNS, type SplitPatternName } from './normalize.ts'
import { bytesOfSpelling, findToken, spelling } from './tables.ts'
import type { TokenizerSpec } from './tokenizer-json.ts'
import type { TokenizerRequest } from './worker.ts'

const MAX_SYNC_UNITS = 1 << 16 // what encode takes without blocking the event loop for more than some ms
const MAX_UNITS = 1 << 25 // of one text
const BATCH_UNITS = 1 << 18 // of texts handed to the thread at once
const BATCH_TEXTS = 1 << 10

export interface TrainTokenizerOptions {
  /** Text files, UTF-8. */
  readonly files?: readonly string[]
  /** Texts, instead of files or beside them. */
  readonly texts?: Iterable<string> | AsyncIterable<string>
  /** Entries in all: 256 bytes, the special tokens, and merges as far as the text gives them. */
  readonly vocabSize: number
  /** First ids, in this order. Default `<bos> <eos> <pad> <unk>`. */
  readonly specialTokens?: readonly string[]
  /** How text is cut before merging. Default `llama3`. */
  readonly pattern?: SplitPatternName
  /** Pairs seen less often are not merged. Default 2. */
  readonly minFrequency?: number
  readonly signal?: AbortSignal
  /** Of merging: tokens so far and wanted. */
  readonly onProgress?: (progress: { readonly tokens: number; readonly total: number }) => void
}

/** Roles of special tokens, by id. */
export interface SpecialTokens {
  readonly bosTokenId: number | null
  readonly eosTokenId: number | null
  readonly padTokenId: number | null
  readonly unkTokenId: number | null
}

/** @internal Everything of a tokenizer, as another thread can have it. */
export interface TokenizerParts {
  readonly spec: TokenizerSpec
  readonly special: SpecialTokens
  readonly chatTemplate: string | null
  /** tokenizer_config.json as it was read, for what this library has no use for. */
  readonly config: Readonly<Record<string, unknown>>
}

/** What other libraries have in the place of tokenizer.json. */
const OTHER_TOKENIZERS = {
  'tokenizer.model':
    'of SentencePiece, which is not read; AutoTokenizer of transformers writes tokenizer.json',
  'vocab.json': 'which is not read; AutoTokenizer of transformers writes tokenizer.json from it',
}
const ROLES = ['bos', 'eos', 'pad', 'unk'] as const

/** Text to token ids and back: byte-pair models in the files of Hugging Face. Immutable. */
export class Tokenizer {
  readonly bosTokenId: number | null
  readonly eosTokenId: number | null
  readonly padTokenId: number | null
  readonly unkTokenId: number | null
  /** Ids that can occur: 0 to vocabSize - 1. */
  readonly vocabSize: number
  readonly #parts: TokenizerParts
  readonly #added: ReadonlyMap<number, AddedToken>
  readonly #thread: WorkerThread<TokenizerRequest>
  #encoder: Encoder | undefined
  #template: ChatTemplate | undefined

  private constructor(parts: TokenizerParts) {
    this.#parts = parts
    this.bosTokenId = parts.special.bosTokenId
    this.eosTokenId = parts.special.eosTokenId
    this.padTokenId = parts.special.padTokenId
    this.unkTokenId = parts.special.unkTokenId
    this.vocabSize = parts.spec.tables.size
    this.#added = new Map(parts.spec.added.map((token) => [token.id, token]))
    this.#thread = threadFor(parts.spec)
  }

  /**
   * Learns byte-level byte-pair merges, off the event loop.
   * @throws ConfigError for options that cannot be; FormatError naming a file that is not UTF-8
   * Source: Sennrich et al. 2016; the merges are those of the Hugging Face trainer
   */
  static async train(options: TrainTokenizerOptions): Promise<Tokenizer> {
    checkOptions('Tokenizer.train', options, TRAIN_OPTIONS)
    const { files = [], texts = [], signal, onProgress, pattern = 'llama3' } = options
    const { specialTokens = ['<bos>', '<eos>', '<pad>', '<unk>'], minFrequency = 2 } = options
    const total = checkInteger('Tokenizer.train', 'vocabSize', options.vocabSize, 256, 2 ** 20)
    checkInteger('Tokenizer.train', 'minFrequency', minFrequency, 1, 2 ** 31)
    if (!Object.hasOwn(SPLIT_PATTERNS, pattern)) {
      throw new ConfigError(
        `Tokenizer.train: pattern must be one of ${Object.keys(SPLIT_PATTERNS).join(', ')}, received ${String(pattern)}`,
      )
    }
    if (!Array.isArray(specialTokens) || specialTokens.some((token) => typeof token !== 'string')) {
      throw new ConfigError(
        `Tokenizer.train: specialTokens must be a list of texts, received ${shown(specialTokens)}`,
      )
    }
    checkSignal('Tokenizer.train', signal)
    if (new Set(specialTokens).size !== specialTokens.length || specialTokens.includes('')) {
      throw new ConfigError('Tokenizer.train: specialTokens must differ from each other and be some text')
    }
    const thread = threadFor(null, true)
    try {
      let distinct = 0
      for (const path of files) distinct = await thread.ask({ type: 'countFile', pattern, path }, { signal })
      for await (const batch of batches(texts)) {
        const texts = await handed(thread, batch, signal)
        distinct = await thread.ask({ type: 'count', pattern, texts }, { signal })
      }
      if (distinct === 0) throw new ConfigError('Tokenizer.train: expected some text, found none')
      const trained = { vocabSize: total, specialTokens, pattern, minFrequency }
      const spec = await thread.ask<TokenizerSpec, number>(
        { type: 'train', options: trained },
        { signal, onProgress: (tokens) => onProgress?.({ tokens, total }) },
      )
      const role = (name: string): number | null => {
        const id = specialTokens.indexOf(`<${name}>`)
        return id < 0 ? null : id
      }
      const [bosTokenId, eosTokenId, padTokenId, unkTokenId] = ROLES.map(role) as [null, null, null, null]
      const special = { bosTokenId, eosTokenId, padTokenId, unkTokenId }
      return new Tokenizer({ spec, special, chatTemplate: null, config: {} })
    } finally {
      thread.close()
    }
  }

  /**
   * Reads a folder with `tokenizer.json` (and `tokenizer_config.json`, `chat_template.jinja`, where
   * there are), or the file itself; off the event loop.
   * @throws FormatError naming file and place
   */
  static async load(path: string, options: { signal?: AbortSignal } = {}): Promise<Tokenizer> {
    checkOptions('Tokenizer.load', options, ['signal'])
    checkPath('Tokenizer.load', 'path', path)
    const signal = checkSignal('Tokenizer.load', options.signal)
    signal?.throwIfAborted()
    const isFolder = (await stat(path)).isDirectory()
    const folder = isFolder ? path : dirname(path)
    const file = isFolder ? join(path, 'tokenizer.json') : path
    await stat(file).catch(async (error) => {
      throw await explainMissing(error, { missing: 'tokenizer.json', folder, instead: OTHER_TOKENIZERS })
    })
    const thread = threadFor(null)
    let spec: TokenizerSpec
    try {
      spec = await thread.ask<TokenizerSpec>({ type: 'load', path: file }, { signal })
    } finally {
      thread.close()
    }
    const configPath = join(folder, 'tokenizer_config.json')
    const text = await ifThere(readText(configPath))
    const config = text === null ? new JsonValue({}, configPath) : parseJson(text, configPath)
    const role = (name: string): number | null => roleOf(spec, config, `${name}_token`)
    const template = (await ifThere(readText(join(folder, 'chat_template.jinja')))) ?? templateOf(config)
    return new Tokenizer({
      spec,
      special: {
        bosTokenId: role('bos'),
        eosTokenId: role('eos'),
        padTokenId: role('pad'),
        unkTokenId: role('unk'),
      },
      chatTemplate: template,
      config: config.object(),
    })
  }

  /**
   * Writes `tokenizer.json`, `tokenizer_config.json` and, where there is one, `chat_template.jinja`, each
   * atomically.
   */
  async save(folder: string): Promise<void> {
    checkPath('Tokenizer.save', 'folder', folder)
    const { spec, special, chatTemplate, config } = this.#parts
    const bytes = await this.#thread.ask<Uint8Array>({ type: 'write', spec })
    await makeFolder(folder)
    await writeAtomic(join(folder, 'tokenizer.json'), (write) => write(bytes))
    const tokens = Object.fromEntries(
      ROLES.map((role) => [`${role}_token`, special[`${role}TokenId`]] as const)
        .filter(([, id]) => id !== null)
        .map(([key, id]) => [key, this.idToToken(id as number)]),
    )
    const written = {
      tokenizer_class: 'PreTrainedTokenizerFast',
      clean_up_tokenization_spaces: false,
      ...config,
      ...tokens,
      ...(chatTemplate !== null && { chat_template: chatTemplate }),
    }
    const text = new TextEncoder().encode(`${JSON.stringify(written, null, 2)}\n`)
    await writeAtomic(join(folder, 'tokenizer_config.json'), (write) => write(text))
    if (chatTemplate !== null) {
      await writeAtomic(join(folder, 'chat_template.jinja'), (write) =>
        write(new TextEncoder().encode(chatTemplate)),
      )
    }
  }

  /**
   * Ids of a text of at most 64 KiB; longer ones would hold up the event loop.
   * @throws ValueError naming `encodeAsync` for a longer text
   */
  encode(text: string, options: EncodeOptions = {}): Int32Array {
    checkText('Tokenizer.encode', text)
    checkOptions('Tokenizer.encode', options, ENCODE_OPTIONS)
    if (text.length > MAX_SYNC_UNITS) {
      throw new ValueError(
        `Tokenizer.encode: text must have at most ${MAX_SYNC_UNITS} characters, received ${text.length}; use encodeAsync`,
      )
    }
    this.#encoder ??= new Encoder(this.#parts.spec)
    return this.#encoder.ids(text, options)
  }

  /**
   * Ids of texts of any length (32 Mi characters each), off the event loop.
   * @param text one text, or many
   */
  async encodeAsync(text: string, options?: EncodeAsyncOptions): Promise<Int32Array>
  async encodeAsync(texts: readonly string[], options?: EncodeAsyncOptions): Promise<Int32Array[]>
  async encodeAsync(
    input: string | readonly string[],
    given: EncodeAsyncOptions = {},
  ): Promise<Int32Array | Int32Array[]> {
    checkOptions('Tokenizer.encodeAsync', given, [...ENCODE_OPTIONS, 'signal'])
    const { signal, ...options } = given
    checkSignal('Tokenizer.encodeAsync', signal)
    const texts = typeof input === 'string' ? [input] : input
    for (const text of texts) {
      checkText('Tokenizer.encodeAsync', text)
      if (text.length > MAX_UNITS) {
        throw new ValueError(
          `Tokenizer.encodeAsync: a text must have at most ${MAX_UNITS} characters, received ${text.length}`,
        )
      }
    }
    const all: Int32Array[] = []
    for await (const batch of batches(texts)) {
      const handedTexts = await handed(this.#thread, batch, signal)
      const ids = await this.#thread.ask<Int32Array[]>(
        { type: 'encode', texts: handedTexts, options },
        { signal },
      )
      all.push(...ids)
    }
    return typeof input === 'string' ? (all[0] ?? new Int32Array(0)) : all
  }

  /** Text of ids. Bytes that are not UTF-8 show as U+FFFD, ids past the vocabulary as nothing. */
  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    if (typeof ids !== 'object' || ids === null) {
      throw new ValueError(`Tokenizer.decode: ids must be a list of numbers, received ${shown(ids)}`)
    }
    const stream = this.decodeStream(options)
    let text = ''
    for (let i = 0; i < ids.length; i++) text += stream.push(ids[i] as number)
    return text + stream.end()
  }

  /** Decodes ids as they come, never half a character. */
  decodeStream(options: DecodeOptions = {}): DecodeStream {
    checkOptions('Tokenizer.decode', options, ['skipSpecialTokens'])
    this.#encoder ??= new Encoder(this.#parts.spec)
    const { spec } = this.#parts
    return new DecodeStream(
      spec.tables,
      this.#encoder.decoder,
      this.#encoder.addedTexts,
      options.skipSpecialTokens ?? true,
    )
  }

  /** A token as its file spells it; undefined past the vocabulary. */
  idToToken(id: number): string | undefined {
    return this.#added.get(id)?.content ?? spelling(this.#parts.spec.tables, id)
  }

  tokenToId(token: string): number | undefined {
    return idOf(this.#parts.spec, token)
  }

  /** The Jinja text of the chat template; null when the model has none. */
  get chatTemplate(): string | null {
    return this.#parts.chatTemplate
  }

  /** The same tokenizer with another chat template. */
  withChatTemplate(source: string): Tokenizer {
    new ChatTemplate(source)
    return new Tokenizer({ ...this.#parts, chatTemplate: source })
  }

  /**
   * A conversation as the text its model was trained on.
   * @throws ConfigError without a chat template; ValueError for what the template refuses
   */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    checkOptions('Tokenizer.applyChatTemplate', options, CHAT_OPTIONS)
    const { chatTemplate } = this.#parts
    if (chatTemplate === null) {
      throw new ConfigError(
        'Tokenizer.applyChatTemplate: this tokenizer has no chat template; give it one by withChatTemplate',
      )
    }
    this.#template ??= new ChatTemplate(chatTemplate)
    const { addGenerationPrompt = false, tools, variables = {} } = options
    const names = Object.fromEntries(
      ROLES.map((role) => [`${role}_token`, this[`${role}TokenId`]] as const)
        .filter(([, id]) => id !== null)
        .map(([key, id]) => [key, this.idToToken(id as number)]),
    )
    return this.#template.render(messages, {
      ...names,
      ...variables,
      ...(tools !== undefined && { tools }),
      add_generation_prompt: addGenerationPrompt,
    })
  }

  /**
   * Ids of a conversation. What the template writes is all there is: nothing is put around it, so a
   * `<bos>` of the template is not doubled.
   */
  async encodeChat(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): Promise<Int32Array> {
    const text = this.applyChatTemplate(messages, options)
    return this.encodeAsync(text, { addSpecialTokens: false })
  }

  /** @internal What another thread needs for {@link Tokenizer.fromParts}. */
  get parts(): TokenizerParts {
    return this.#parts
  }

  /** @internal */
  static fromParts(parts: TokenizerParts): Tokenizer {
    return new Tokenizer(parts)
  }

  /** @internal Ids of a text of any length, on this thread: for threads that nobody waits on. */
  encodeHere(text: string, addSpecialTokens: boolean): Int32Array {
    this.#encoder ??= new Encoder(this.#parts.spec)
    return this.#encoder.ids(text, { addSpecialTokens })
  }
}

export interface EncodeAsyncOptions extends EncodeOptions {
  readonly signal?: AbortSignal
}

export interface DecodeOptions {
  /** Leaves out tokens such as `<eos>`. Default true. */
  readonly skipSpecialTokens?: boolean
}

export interface ChatTemplateOptions {
  /** Ends with the opening of the assistant's turn. Default false. */
  readonly addGenerationPrompt?: boolean
  /** Tools the model may call, as the template wants them. */
  readonly tools?: readonly unknown[]
  /** Further variables of the template. */
  readonly variables?: Readonly<Record<string, unknown>>
}

const ENCODE_OPTIONS = ['addSpecialTokens', 'splitSpecialTokens']
const CHAT_OPTIONS = ['addGenerationPrompt', 'tools', 'variables']
const TRAIN_OPTIONS = [
  'files',
  'texts',
  'vocabSize',
  'specialTokens',
  'pattern',
  'minFrequency',
  'signal',
  'onProgress',
]

function threadFor(spec: TokenizerSpec | null, keep = false): WorkerThread<TokenizerRequest> {
  return new WorkerThread('tokenizer/worker.js', { data: spec, keep })
}

function checkText(where: string, text: unknown): asserts text is string {
  if (typeof text !== 'string')
    throw new ValueError(`${where}: text must be a string, received ${typeof text}`)
}

async function handed(
  thread: WorkerThread<TokenizerRequest>,
  texts: readonly string[],
  signal: AbortSignal | undefined,
): Promise<HandedText[]> {
  const all: HandedText[] = []
  for (const text of texts) all.push(await thread.hand(text, signal))
  return all
}

/** Texts in batches of about half a megabyte, so that none holds up the event loop when it is copied. */
async function* batches(texts: Iterable<string> | AsyncIterable<string>): AsyncGenerator<string[]> {
  let batch: string[] = []
  let units = 0
  for await (const text of texts) {
    checkText('Tokenizer', text)
    batch.push(text)
    units += text.length
    if (units < BATCH_UNITS && batch.length < BATCH_TEXTS) continue
    yield batch
    batch = []
    units = 0
  }
  if (batch.length > 0) yield batch
}

function idOf(spec: TokenizerSpec, token: string): number | undefined {
  const added = spec.added.find(({ content }) => content === token)
  if (added !== undefined) return added.id
  const bytes = spec.model.byteLevel ? bytesOfSpelling(token) : new TextEncoder().encode(token)
  const id = bytes === null || bytes.length === 0 ? -1 : findToken(spec.tables, bytes)
  return id < 0 ? undefined : id
}

/** A role's token in tokenizer_config.json: its text, or an object with it. */
function roleOf(spec: TokenizerSpec, config: JsonValue, key: string): number | null {
  const json = config.get(key)
  if (json.missing) return null
  const token = typeof json.value === 'string' ? json.value : json.get('content').string()
  return idOf(spec, token) ?? json.fail('a token of tokenizer.json')
}

/** One template, or the one named default of a list. */
function templateOf(config: JsonValue): string | null {
  const json = config.get('chat_template')
  if (json.missing) return null
  if (typeof json.value === 'string') return json.value
  const named = json.items().find((item) => item.get('name').value === 'default')
  return named === undefined
    ? json.fail('a text, or a list with one named default')
    : named.get('template').string()
}
