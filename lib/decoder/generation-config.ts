// generation_config.json: which tokens end an answer, and how one is drawn when the caller does not say. What a
// folder says besides is kept as it is.
// Source: https://huggingface.co/docs/transformers/main_classes/text_generation (GenerationConfig)

import { join } from 'node:path'
import type { GenerationDefaults } from '../generate/options.ts'
import { ifThere, readJsonObject } from '../io/small-file.ts'
import { FormatError } from '../runtime/errors.ts'
import { shown } from '../runtime/options.ts'
import type { SpecialTokens, Tokenizer } from '../tokenizer/tokenizer.ts'

export const GENERATION_CONFIG = 'generation_config.json'
const NONE = -1 // as some files say
/** What `do_sample` without a `top_k` means to transformers, whose files leave out what is its default. */
const TOP_K = 50
const MANY = 2 ** 30

export interface GenerationConfig {
  readonly eosTokenIds: ReadonlySet<number>
  readonly defaults: GenerationDefaults
  /** The file's object; empty where there is none. */
  readonly json: Readonly<Record<string, unknown>>
}

/**
 * What a folder says of ends: its generation_config.json and config.json may name several, the tokenizer one.
 * @throws FormatError naming the file
 */
export async function readGenerationConfig(
  folder: string,
  tokenizer: Tokenizer,
  vocabSize: number,
): Promise<GenerationConfig> {
  const found = new Set<number>(tokenizer.eosTokenId === null ? [] : [tokenizer.eosTokenId])
  const json = (await ifThere(readJsonObject(join(folder, GENERATION_CONFIG)))) ?? {}
  const config = (await ifThere(readJsonObject(join(folder, 'config.json')))) ?? {}
  for (const [name, { eos_token_id: ids }] of Object.entries({
    [GENERATION_CONFIG]: json,
    'config.json': config,
  })) {
    for (const id of Array.isArray(ids) ? ids : [ids ?? NONE]) {
      if (id === NONE) continue
      if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
        throw new FormatError(
          `${join(folder, name)}: eos_token_id: expected ids from 0 to ${vocabSize - 1}, found ${shown(ids)}`,
        )
      }
      found.add(id)
    }
  }
  return { eosTokenIds: found, defaults: defaultsOf(json, join(folder, GENERATION_CONFIG)), json }
}

/**
 * Defaults of an answer: `max_new_tokens`, `repetition_penalty` and, unless `do_sample` is false, `temperature`,
 * `top_k`, `top_p` and `min_p`. Where `do_sample` is not said, neither kind of answer is the folder's wish: values that it
 * names are taken, and those that it leaves out are this library's.
 * @throws FormatError naming file and key
 */
export function defaultsOf(json: Readonly<Record<string, unknown>>, path: string): GenerationDefaults {
  const number = (key: string, what: string, fits: (value: number) => boolean): number | undefined => {
    const value = json[key]
    if (value === null || value === undefined) return undefined
    if (typeof value === 'number' && Number.isFinite(value) && fits(value)) return value
    throw new FormatError(`${path}: ${key}: expected ${what}, found ${shown(value)}`)
  }
  const sample = json['do_sample'] ?? null
  if (sample !== null && typeof sample !== 'boolean') {
    throw new FormatError(`${path}: do_sample: expected true or false, found ${shown(sample)}`)
  }
  const temperature = number('temperature', 'a number from 0', (value) => value >= 0)
  const topP = number('top_p', 'a number from 0 to 1', (value) => value >= 0 && value <= 1)
  const topK = number(
    'top_k',
    'an integer from -1',
    (value) => Number.isInteger(value) && value >= -1 && value <= MANY,
  )
  const drawn = {
    temperature: sample === false ? 0 : temperature,
    // -1 is how vLLM says all
    topK: topK === -1 ? 0 : (topK ?? (sample === true ? TOP_K : undefined)),
    // the likeliest token is always kept, so that 0 is that one
    topP: topP === 0 ? 1e-6 : topP,
    minP: number('min_p', 'a number from 0 to 1', (value) => value >= 0 && value <= 1),
  }
  const defaults = {
    ...drawn,
    maxNewTokens: number(
      'max_new_tokens',
      'an integer from 1',
      (value) => Number.isInteger(value) && value >= 1 && value <= MANY,
    ),
    repetitionPenalty: number('repetition_penalty', 'a number above 0', (value) => value > 0),
  }
  return Object.fromEntries(Object.entries(defaults).filter(([, value]) => value !== undefined))
}

/** The text of generation_config.json. */
export function generationConfigText(
  { eosTokenIds, json }: GenerationConfig,
  special: SpecialTokens,
): string {
  const ends = [...eosTokenIds].sort((a, b) => a - b)
  const entries = {
    bos_token_id: special.bosTokenId,
    pad_token_id: special.padTokenId,
    ...json,
    eos_token_id: ends.length > 1 ? ends : ends[0],
  }
  const written = Object.entries(entries).filter(([, value]) => value !== null && value !== undefined)
  return `${JSON.stringify(Object.fromEntries(written.sort(([a], [b]) => (a < b ? -1 : 1))), null, 2)}\n`
}
