// How a text is continued, with defaults.

import { ConfigError } from '../runtime/errors.ts'
import { checkInteger, checkNumber, checkOptions, checkSignal } from '../runtime/options.ts'

/** Where it says so, a model that was loaded has defaults of its own: `Decoder.generationDefaults`. */
export interface GenerateOptions {
  /** Default the model's, or 256. */
  readonly maxNewTokens?: number
  /** 0 takes the likeliest token each time. Default the model's, or 1. */
  readonly temperature?: number
  /** Draws from the k likeliest; 0 is all. Default the model's, or 0. */
  readonly topK?: number
  /** Draws from the fewest likeliest that reach this probability. Default the model's, or 1. */
  readonly topP?: number
  /** Draws from those at least this share as probable as the likeliest. Default the model's, or 0. */
  readonly minP?: number
  /**
   * Above 1 makes tokens of the prompt and the answer less likely (Hugging Face's rule). Default the model's,
   * or 1.
   */
  readonly repetitionPenalty?: number
  /** The same seed and prompt give the same text. Default: another one each time. */
  readonly seed?: number
  /** Texts that end the answer; they are not part of it. */
  readonly stop?: readonly string[]
  /**
   * Ends the answer where it is (`finishReason` says `aborted`); before its first token, its reason is
   * thrown.
   */
  readonly signal?: AbortSignal
}

/** What a model's folder says in the place of the defaults of {@link GenerateOptions}. */
export type GenerationDefaults = Readonly<
  Partial<Record<'maxNewTokens' | 'temperature' | 'topK' | 'topP' | 'minP' | 'repetitionPenalty', number>>
>

export interface GenerateSettings extends Required<Omit<GenerateOptions, 'signal'>> {
  readonly signal: AbortSignal | undefined
}

export const GENERATE_OPTIONS = [
  'maxNewTokens',
  'temperature',
  'topK',
  'topP',
  'minP',
  'repetitionPenalty',
  'seed',
  'stop',
  'signal',
] as const

/**
 * @param defaults in the place of the library's
 * @throws ConfigError, ValueError naming the option
 */
export function completeGenerateOptions(
  where: string,
  options: GenerateOptions,
  defaults: GenerationDefaults = {},
): GenerateSettings {
  checkOptions(where, options, GENERATE_OPTIONS)
  const own = {
    maxNewTokens: 256,
    temperature: 1,
    topK: 0,
    topP: 1,
    minP: 0,
    repetitionPenalty: 1,
    ...defaults,
  }
  const { temperature = own.temperature, topK = own.topK, topP = own.topP, minP = own.minP } = options
  const { maxNewTokens = own.maxNewTokens, repetitionPenalty = own.repetitionPenalty } = options
  const { stop = [], seed = Math.floor(Math.random() * 2 ** 32) } = options
  if (!Array.isArray(stop) || stop.some((text) => typeof text !== 'string' || text === '')) {
    throw new ConfigError(`${where}: stop must be a list of texts that are not empty`)
  }
  return {
    maxNewTokens: checkInteger(where, 'maxNewTokens', maxNewTokens, 1, 2 ** 30),
    temperature: checkNumber(where, 'temperature', temperature, { from: 0 }),
    topK: checkInteger(where, 'topK', topK, 0, 2 ** 30),
    topP: checkNumber(where, 'topP', topP, { above: 0, to: 1 }),
    minP: checkNumber(where, 'minP', minP, { from: 0, to: 1 }),
    repetitionPenalty: checkNumber(where, 'repetitionPenalty', repetitionPenalty, { above: 0 }),
    seed: checkInteger(where, 'seed', seed, 0, Number.MAX_SAFE_INTEGER),
    stop,
    signal: checkSignal(where, options.signal),
  }
}

/** Why an answer ended. */
export type FinishReason = 'eos' | 'stop' | 'length' | 'aborted'
