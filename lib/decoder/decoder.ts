// The facade: a model with its tokenizer. Create or load one, train it, ask it, save it.

import { stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import type { LoraAdapter } from '../adapters/adapter.ts'
import type { LoraOptions } from '../adapters/config.ts'
import type { Lease } from '../adapters/publication.ts'
import { TextDataset } from '../data/dataset.ts'
import type { Batch } from '../data/rows.ts'
import {
  type Completion,
  type GeneratedPiece,
  Generation,
  type GenerationInputs,
  generateRows,
  makeGenerationCache,
} from '../generate/generation.ts'
import {
  completeGenerateOptions,
  GENERATE_OPTIONS,
  type GenerateOptions,
  type GenerateSettings,
  type GenerationDefaults,
} from '../generate/options.ts'
import { writeAtomic } from '../io/atomic.ts'
import type { CausalLm, ModelOptions } from '../models/causal-lm.ts'
import { createModel } from '../models/family.ts'
import { type LoadModelOptions, loadModel, loadModelInto, saveModel } from '../models/folder.ts'
import '../models/index.ts' // families register themselves
import '../quant/compressed-tensors.ts' // registers itself
import { Int8Weight, type Int8WeightOptions } from '../quant/int8.ts'
import { ConfigError, FormatError, ValueError } from '../runtime/errors.ts'
import { checkInteger, checkOptions, checkPath, checkSignal, shown } from '../runtime/options.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { ChatMessage } from '../tokenizer/chat-template.ts'
import { Tokenizer } from '../tokenizer/tokenizer.ts'
import { type Evaluation, evaluate } from '../train/step.ts'
import { type AdapterChoice, AdapterNames, leaseOf } from './adapters.ts'
import {
  GENERATION_CONFIG,
  type GenerationConfig,
  generationConfigText,
  readGenerationConfig,
} from './generation-config.ts'
import { Session, type SessionOptions } from './session.ts'

/** A text, the messages of a conversation, or token ids (such as a {@link Completion}'s). */
export type Prompt = string | readonly ChatMessage[] | Int32Array | readonly number[]

export interface DecoderOptions extends ModelOptions {
  readonly tokenizer: Tokenizer
}

export interface LoadDecoderOptions extends Omit<LoadModelOptions, 'replace'> {
  /**
   * `'as saved'` (default): dense, or int8 where the folder has int8. `'int8'`, or options of it: dense weights
   * of Linears become int8 as they are read, one after another, so that memory never holds them all.
   */
  readonly weights?: 'as saved' | 'int8' | Int8WeightOptions
}

const LOAD_OPTIONS = ['dtype', 'device', 'weights', 'signal', 'onProgress']

/** Shape of a new model: `architecture` and the keys of its Hugging Face configuration, in camelCase. */
export interface ArchitectureOptions {
  /** Default `llama`. */
  readonly architecture?: string
  readonly [key: string]: unknown
}

export interface DecoderGenerateOptions extends GenerateOptions {
  /** The adapter to answer with. Default none. */
  readonly adapter?: AdapterChoice | null
}

export interface BatchOptions extends DecoderGenerateOptions {
  /** One adapter per prompt, or null, in place of `adapter` for all. */
  readonly adapters?: readonly (AdapterChoice | null)[]
}

export interface EvaluateOptions {
  /** Rows at a time. Default 8. */
  readonly batchSize?: number
  /** Default all. */
  readonly maxRows?: number
  /** The adapter to judge the model with, as it is now. Default none. */
  readonly adapter?: AdapterChoice | null
  readonly signal?: AbortSignal
}

function isIds(prompt: Prompt): prompt is readonly number[] {
  return Array.isArray(prompt) && typeof (prompt[0] ?? 0) === 'number'
}

/** A language model as an app uses it. */
export class Decoder {
  readonly model: CausalLm
  readonly tokenizer: Tokenizer
  readonly #generation: GenerationConfig
  /** Where it was loaded from. */
  readonly #folder: string | null
  readonly #adapters: AdapterNames

  private constructor(
    model: CausalLm,
    tokenizer: Tokenizer,
    from: { readonly generation: GenerationConfig; readonly folder: string | null },
  ) {
    this.model = model
    this.tokenizer = tokenizer
    this.#generation = from.generation
    this.#folder = from.folder
    this.#adapters = new AdapterNames(model)
  }

  /**
   * An untrained model.
   * @param shape `vocabSize` is the tokenizer's when left out
   * @throws ConfigError naming a key that is not known or cannot be
   */
  static create(shape: ArchitectureOptions, given: DecoderOptions): Decoder {
    const { tokenizer, ...options } = given ?? {}
    if (!(tokenizer instanceof Tokenizer)) {
      throw new ConfigError(`Decoder.create: tokenizer must be a Tokenizer, received ${shown(tokenizer)}`)
    }
    checkOptions('Decoder.create', options, [
      'tokenizer',
      'dtype',
      'seed',
      'device',
      'zeroResiduals',
      'embeddingStd',
    ])
    if (typeof shape !== 'object' || shape === null) {
      throw new ConfigError(`Decoder.create: the shape must be an object, received ${shown(shape)}`)
    }
    const { architecture = 'llama', ...config } = shape
    const { vocabSize = tokenizer.vocabSize } = config
    if (typeof vocabSize === 'number' && vocabSize < tokenizer.vocabSize) {
      throw new ConfigError(
        `Decoder.create: vocabSize must be at least the tokenizer's ${tokenizer.vocabSize}, received ${vocabSize}`,
      )
    }
    const { bosTokenId, eosTokenId } = tokenizer
    const model = createModel(architecture, { bosTokenId, eosTokenId, ...config, vocabSize }, options)
    const eosTokenIds = new Set(eosTokenId === null ? [] : [eosTokenId])
    return new Decoder(model, tokenizer, {
      generation: { eosTokenIds, defaults: {}, json: {} },
      folder: null,
    })
  }

  /**
   * A Hugging Face folder: `config.json`, weights, `tokenizer.json`.
   * @throws ConfigError for an architecture that is not known; FormatError naming file and place
   */
  static async load(folder: string, options: LoadDecoderOptions = {}): Promise<Decoder> {
    checkOptions('Decoder.load', options, LOAD_OPTIONS)
    checkPath('Decoder.load', 'folder', folder)
    checkSignal('Decoder.load', options.signal)
    const { weights = 'as saved', ...modelOptions } = options
    const { signal } = options
    const int8 = weights === 'int8' ? {} : weights
    if (typeof int8 !== 'object' && int8 !== 'as saved') {
      throw new ConfigError(
        `Decoder.load: weights must be 'as saved', 'int8' or its options, received ${String(weights)}`,
      )
    }
    const replace = (weight: Tensor): Int8Weight => new Int8Weight(weight, int8 as Int8WeightOptions)
    await stat(folder).catch((error) => {
      if (error.code === 'ENOENT') {
        error.message = `ENOENT: Decoder.load: there is no folder '${folder}'; nothing is downloaded: a model is a folder of this machine`
      }
      throw error
    })
    const tokenizer = await Tokenizer.load(folder, signal === undefined ? {} : { signal })
    const model = await loadModel(folder, { ...modelOptions, ...(typeof int8 === 'object' && { replace }) })
    try {
      const { vocabSize } = model.size
      if (vocabSize < tokenizer.vocabSize) {
        throw new FormatError(
          `${folder}: expected a tokenizer of at most ${vocabSize} entries, as the embedding has, found ${tokenizer.vocabSize}`,
        )
      }
      const generation = await readGenerationConfig(folder, tokenizer, vocabSize)
      return new Decoder(model, tokenizer, { generation, folder })
    } catch (error) {
      model.dispose()
      throw error
    }
  }

  /** Tokens that end an answer, ascending: those of generation_config.json, config.json and the tokenizer. */
  get eosTokenIds(): number[] {
    return [...this.#generation.eosTokenIds].sort((a, b) => a - b)
  }

  /**
   * What generate, generateBatch and sessions take for options that are left out: what generation_config.json
   * says, as transformers applies it; `do_sample: false` is temperature 0. Empty for a model that was created.
   */
  get generationDefaults(): GenerationDefaults {
    return this.#generation.defaults
  }

  /** @internal The tokenizer and the ends of this decoder, with another model. */
  withModel(model: CausalLm): Decoder {
    return new Decoder(model, this.tokenizer, { generation: this.#generation, folder: this.#folder })
  }

  /** Writes a folder that {@link Decoder.load} and Hugging Face read. */
  async save(folder: string): Promise<void> {
    this.model.checkAlive('Decoder.save')
    checkPath('Decoder.save', 'folder', folder)
    await saveModel(this.model, folder)
    await this.saveTokens(folder)
  }

  /** @internal What a folder holds besides the model: the tokenizer's files and generation_config.json. */
  async saveTokens(folder: string): Promise<void> {
    await this.tokenizer.save(folder)
    const text = new TextEncoder().encode(generationConfigText(this.#generation, this.tokenizer))
    await writeAtomic(join(folder, GENERATION_CONFIG), (write) => write(text))
  }

  /** Puts the weights of a folder that {@link Decoder.save} wrote into this model: for a Trainer that goes on. */
  restore(folder: string): Promise<void> {
    return loadModelInto(this.model, folder)
  }

  /** A short continuation, alike for alike weights: what a Trainer shows of a run. */
  sample(prompt: string, adapter: LoraAdapter | null = null, signal?: AbortSignal): Promise<string> {
    const answer = { maxNewTokens: 64, temperature: 0.7, topP: 0.92, seed: 0 }
    const options = { ...answer, adapter, ...(signal !== undefined && { signal }) }
    return this.generate(prompt, options).text()
  }

  /**
   * Continues a text, a conversation or tokens. Only as much of the prompt as leaves room for an answer
   * may be given: at most `maxPositionEmbeddings` in all.
   */
  generate(prompt: Prompt, options: DecoderGenerateOptions = {}): Generation {
    checkOptions('Decoder.generate', options, [...GENERATE_OPTIONS, 'adapter'])
    const { adapter: choice, ...rest } = options
    const settings = completeGenerateOptions('Decoder.generate', rest, this.generationDefaults)
    const adapter = this.#adapters.find('Decoder.generate', choice)
    return new Generation(
      async function* (this: Decoder): AsyncGenerator<GeneratedPiece, Completion, void> {
        const ids = await this.#encode('Decoder.generate', prompt)
        const capacity = this.#capacity('Decoder.generate', ids.length, settings.maxNewTokens)
        const cache = makeGenerationCache(this.model, { capacity })
        let lease: Lease | null = null
        try {
          lease = leaseOf(adapter)
          const rows = { ...this.#parts, prompts: [ids], cache, settings, adapter: lease?.weights ?? null }
          const [completion] = yield* generateRows(rows)
          return completion as Completion
        } finally {
          lease?.release()
          cache.dispose()
        }
      }.bind(this),
    )
  }

  /**
   * Continues several prompts together, each as it would be alone; with `adapters`, those of one adapter
   * together.
   * @returns the answers, in order
   * @throws ConfigError for an adapter that is not there, or another number of them than of prompts
   */
  async generateBatch(prompts: readonly Prompt[], options: BatchOptions = {}): Promise<Completion[]> {
    const where = 'Decoder.generateBatch'
    checkOptions(where, options, [...GENERATE_OPTIONS, 'adapter', 'adapters'])
    const { adapter = null, adapters, ...rest } = options
    const settings = completeGenerateOptions(where, rest, this.generationDefaults)
    if (!Array.isArray(prompts))
      throw new ValueError(`${where}: prompts must be a list, received ${shown(prompts)}`)
    if (adapters !== undefined && (!Array.isArray(adapters) || adapters.length !== prompts.length)) {
      throw new ConfigError(
        `${where}: adapters must be ${prompts.length} of them, one per prompt, received ${adapters?.length}`,
      )
    }
    const groups = new Map<LoraAdapter | null, number[]>()
    for (const row of prompts.keys()) {
      const found = this.#adapters.find(where, adapters === undefined ? adapter : adapters[row])
      const rows = groups.get(found)
      if (rows === undefined) groups.set(found, [row])
      else rows.push(row)
    }
    const ids = await Promise.all(prompts.map((prompt) => this.#encode(where, prompt)))
    const answers: Completion[] = []
    for (const [found, rows] of groups) {
      const given = rows.map((row) => ids[row] as Int32Array)
      const completions = await this.#batch(given, rows, found, settings)
      for (const [i, row] of rows.entries()) answers[row] = completions[i] as Completion
    }
    return answers
  }

  /** @param rowNumbers their numbers in the whole batch */
  async #batch(
    ids: readonly Int32Array[],
    rowNumbers: readonly number[],
    adapter: LoraAdapter | null,
    settings: GenerateSettings,
  ): Promise<Completion[]> {
    const longest = Math.max(...ids.map(({ length }) => length))
    const capacity = this.#capacity('Decoder.generateBatch', longest, settings.maxNewTokens)
    const padding = ids.map(({ length }) => longest - length)
    const cache = makeGenerationCache(this.model, { batch: ids.length, capacity, padding })
    let lease: Lease | null = null
    try {
      lease = leaseOf(adapter)
      const weights = lease?.weights ?? null
      const given = { ...this.#parts, prompts: ids, rowNumbers, cache, settings, adapter: weights }
      const rows = generateRows(given)
      for (;;) {
        const { done, value } = await rows.next()
        if (done) return value
      }
    } finally {
      lease?.release()
      cache.dispose()
    }
  }

  /** A conversation that keeps what it has read between turns. */
  session(options: SessionOptions = {}): Session {
    checkOptions('Decoder.session', options, ['capacity', 'adapter'])
    this.model.checkAlive('Decoder.session')
    const { maxPositionEmbeddings: most } = this.model.size
    const { capacity = most } = options
    checkInteger('Decoder.session', 'capacity', capacity, 1, most)
    const adapter = this.#adapters.find('Decoder.session', options.adapter)
    return new Session({
      ...this.#parts,
      capacity,
      adapter,
      defaults: this.generationDefaults,
      encode: (prompt) => this.#encode('Session.generate', prompt),
    })
  }

  /** Adapters by name, those that were disposed of left out. */
  get adapters(): ReadonlyMap<string, LoraAdapter> {
    return this.#adapters.all()
  }

  /**
   * A new LoRA adapter beside the model, which answers as before until it is trained.
   * @param name what `generate` calls it
   * @throws ConfigError, ValueError naming the option, a name that is taken, or targets that match nothing
   */
  addAdapter(name: string, options: LoraOptions = {}): LoraAdapter {
    this.model.checkAlive('Decoder.addAdapter')
    return this.#adapters.add(name, options, this.#folder)
  }

  /**
   * A LoRA adapter from a folder that `LoraAdapter.save` or PEFT wrote.
   * @param options name: the folder's own when left out
   * @throws ConfigError for a variant of LoRA that is not known; FormatError naming file and tensor
   */
  async loadAdapter(folder: string, options: { readonly name?: string } = {}): Promise<LoraAdapter> {
    checkOptions('Decoder.loadAdapter', options, ['name'])
    this.model.checkAlive('Decoder.loadAdapter')
    const { name = basename(resolve(checkPath('Decoder.loadAdapter', 'folder', folder))) } = options
    return this.#adapters.load(name, folder, this.#folder)
  }

  /** Mean loss and perplexity over a dataset. */
  async evaluate(dataset: TextDataset, options: EvaluateOptions = {}): Promise<Evaluation> {
    checkOptions('Decoder.evaluate', options, ['batchSize', 'maxRows', 'adapter', 'signal'])
    const { batchSize = 8, maxRows } = options
    const signal = checkSignal('Decoder.evaluate', options.signal)
    if (!(dataset instanceof TextDataset)) {
      throw new ConfigError(`Decoder.evaluate: dataset must be a TextDataset, received ${shown(dataset)}`)
    }
    const adapter = this.#adapters.find('Decoder.evaluate', options.adapter)
    this.model.checkAlive('Decoder.evaluate')
    const rows: AsyncIterable<Batch> = dataset.once(batchSize, maxRows === undefined ? {} : { maxRows })
    return evaluate(this.model, rows, { adapter, ...(signal && { signal }) })
  }

  /**
   * Parameters whose names match are trained no more.
   * @param pattern of Hugging Face's names, such as `model.embed_tokens`; `*` stands for anything
   * @returns how many parameters it froze
   * @throws ValueError when it matches none
   */
  freeze(pattern: string): number {
    if (typeof pattern !== 'string') {
      throw new ValueError(`Decoder.freeze: pattern must be a text, received ${shown(pattern)}`)
    }
    const source = pattern.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '.*')
    const expression = new RegExp(`^${source}(?:\\.|$)`)
    let frozen = 0
    for (const [path, parameter] of this.model.namedParameters()) {
      const name = path.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
      if (!expression.test(name) && !expression.test(path)) continue
      parameter.requiresGrad = false
      frozen++
    }
    if (frozen === 0) throw new ValueError(`Decoder.freeze: no parameter is named ${JSON.stringify(pattern)}`)
    return frozen
  }

  /** Frees the model and its adapters. */
  dispose(): void {
    this.#adapters.dispose()
    this.model.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  async #encode(where: string, prompt: Prompt): Promise<Int32Array> {
    this.model.checkAlive(where)
    if (prompt instanceof Int32Array || isIds(prompt)) {
      const { vocabSize } = this.model.size
      for (let i = 0; i < prompt.length; i++) {
        const id = prompt[i] as number
        if (Number.isInteger(id) && id >= 0 && id < vocabSize) continue
        checkInteger(where, `token ${i} of the prompt`, id, 0, vocabSize - 1)
      }
      return prompt instanceof Int32Array ? prompt : Int32Array.from(prompt)
    }
    if (typeof prompt === 'string') return this.tokenizer.encodeAsync(prompt)
    if (!Array.isArray(prompt)) {
      throw new ValueError(
        `${where}: the prompt must be a text, messages or token ids, received ${shown(prompt)}`,
      )
    }
    return this.tokenizer.encodeChat(prompt, { addGenerationPrompt: true })
  }

  #capacity(where: string, prompt: number, maxNewTokens: number): number {
    const { maxPositionEmbeddings } = this.model.size
    if (prompt >= maxPositionEmbeddings) {
      throw new ValueError(
        `${where}: the prompt must have fewer than ${maxPositionEmbeddings} tokens, received ${prompt}`,
      )
    }
    return Math.min(maxPositionEmbeddings, prompt + maxNewTokens)
  }

  get #parts(): Pick<GenerationInputs, 'model' | 'tokenizer' | 'eosTokenIds'> {
    return { model: this.model, tokenizer: this.tokenizer, eosTokenIds: this.#generation.eosTokenIds }
  }
}
