// The configuration of a GPT-2 decoder: Hugging Face's config.json in camelCase.

import { ConfigError } from '../runtime/errors.ts'
import { checkOptions, shown } from '../runtime/options.ts'
import { ConfigReader } from './config-reader.ts'

export interface Gpt2Config {
  readonly vocabSize: number
  /** Longest context: entries of the position table. Default 1024. */
  readonly nPositions: number
  /** Hidden size. */
  readonly nEmbd: number
  readonly nLayer: number
  readonly nHead: number
  /** Hidden size of the MLP. Default 4 nEmbd. */
  readonly nInner: number
  /** Default `gelu_new`, the tanh approximation. */
  readonly activationFunction: Gpt2Activation
  /** Default 1e-5. */
  readonly layerNormEpsilon: number
  /** Scores are divided by the root of the head size. Default true. */
  readonly scaleAttnWeights: boolean
  /** Scores of layer i are divided by i + 1, too. Default false. */
  readonly scaleAttnByInverseLayerIdx: boolean
  /** The output layer is the token embedding. Default true. */
  readonly tieWordEmbeddings: boolean
  /** Standard deviation of initial weights. Default 0.02. */
  readonly initializerRange: number
}

/** What a caller must say; the rest has defaults. */
export type Gpt2Options = Partial<Gpt2Config> & Pick<Gpt2Config, 'vocabSize' | 'nEmbd' | 'nLayer' | 'nHead'>

export const GPT2_ACTIVATIONS = {
  gelu_new: 'tanh',
  gelu_pytorch_tanh: 'tanh',
  gelu: 'none',
  quick_gelu: 'quick',
} as const
export type Gpt2Activation = keyof typeof GPT2_ACTIVATIONS

const DIMENSIONS = { vocabSize: 2 ** 24, nPositions: 2 ** 24, nEmbd: 2 ** 24, nInner: 2 ** 24, nLayer: 4096 }
const POSITIVE = ['layerNormEpsilon', 'initializerRange'] as const
const BOOLEANS = ['scaleAttnWeights', 'scaleAttnByInverseLayerIdx', 'tieWordEmbeddings'] as const
const KEYS: readonly (keyof Gpt2Config)[] = [
  ...(Object.keys(DIMENSIONS) as (keyof typeof DIMENSIONS)[]),
  'nHead',
  'activationFunction',
  ...POSITIVE,
  ...BOOLEANS,
]

/**
 * Fills in defaults and checks.
 * @throws ConfigError naming the key, what was expected and what was found
 */
export function completeGpt2Config(options: Gpt2Options): Gpt2Config {
  checkOptions('gpt2 config', options, KEYS)
  const config: Gpt2Config = {
    nPositions: 1024,
    nInner: 4 * Number(options.nEmbd), // what is no number is refused below
    activationFunction: 'gelu_new',
    layerNormEpsilon: 1e-5,
    scaleAttnWeights: true,
    scaleAttnByInverseLayerIdx: false,
    tieWordEmbeddings: true,
    initializerRange: 0.02,
    ...options,
  }
  const fail = (key: keyof Gpt2Config, expected: string): never => {
    throw new ConfigError(`gpt2 config: ${key} must be ${expected}, received ${shown(config[key])}`)
  }
  const whole = (key: keyof Gpt2Config, most: number): void => {
    const value: unknown = config[key]
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > most) {
      fail(key, `a whole number from 1 to ${most}`)
    }
  }
  for (const [key, most] of Object.entries(DIMENSIONS)) whole(key as keyof Gpt2Config, most)
  whole('nHead', config.nEmbd)
  if (config.nEmbd % config.nHead !== 0) fail('nHead', `a divisor of nEmbd (${config.nEmbd})`)
  if (!Object.hasOwn(GPT2_ACTIVATIONS, config.activationFunction)) {
    fail('activationFunction', `one of ${Object.keys(GPT2_ACTIVATIONS).join(', ')}`)
  }
  for (const key of POSITIVE) {
    const value: unknown = config[key]
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) fail(key, 'a positive number')
  }
  for (const key of BOOLEANS) if (typeof config[key] !== 'boolean') fail(key, 'a boolean')
  return config
}

/** nPositions -> n_positions */
function fileKey(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}

/** Hugging Face's config.json of the model. */
export function writeGpt2Config(config: Gpt2Config): Record<string, unknown> {
  return {
    architectures: ['GPT2LMHeadModel'],
    model_type: 'gpt2',
    ...Object.fromEntries(KEYS.map((key) => [fileKey(key), config[key]])),
  }
}

/**
 * Reads a config.json.
 * @throws ConfigError for a feature this family does not have here
 */
export function readGpt2Config(json: ReadonlyMap<string, unknown>): Gpt2Config {
  const reader = new ConfigReader(json)
  // of training (dropout is an argument of the call), of other heads, and an old name of n_positions
  reader.ignore('attn_pdrop', 'embd_pdrop', 'resid_pdrop', 'n_ctx')
  reader.ignore('summary_activation', 'summary_first_dropout', 'summary_proj_to_labels')
  reader.ignore('summary_type', 'summary_use_proj')
  // scores are float32 in any case
  reader.ignore('reorder_and_upcast_attn')
  const given = KEYS.map((key) => [key, reader.take(fileKey(key))] as const)
  reader.finish()
  return completeGpt2Config(
    Object.fromEntries(given.filter(([, value]) => value !== undefined)) as unknown as Gpt2Options,
  )
}
