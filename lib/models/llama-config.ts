// The configuration of a LLaMA-family decoder: Hugging Face's config.json in camelCase.

import type { RopeScaling } from '../nn/rotary.ts'
import { ConfigError } from '../runtime/errors.ts'
import { checkOptions } from '../runtime/options.ts'
import { checkRopeScaling, readRope, snakeCase, writeRopeScaling } from './rope-config.ts'

export interface LlamaConfig {
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly numHiddenLayers: number
  readonly numAttentionHeads: number
  /** Default numAttentionHeads. */
  readonly numKeyValueHeads: number
  /** Default hiddenSize / numAttentionHeads. */
  readonly headDim: number
  /** Default 1e-6. */
  readonly rmsNormEps: number
  /** Base of the rotary frequencies. Default 10000. */
  readonly ropeTheta: number
  /** Share of each head that turns, its first part. Default 1. */
  readonly partialRotaryFactor: number
  /** Rotary scaling for longer contexts. Default null. */
  readonly ropeScaling: RopeScaling | null
  /** Longest context the model is meant for. Default 2048. */
  readonly maxPositionEmbeddings: number
  /** Mistral: how many tokens each one sees up to itself; null: all. Default null. */
  readonly slidingWindow: number | null
  /** The output layer is the embedding. Default true. */
  readonly tieWordEmbeddings: boolean
  /** Standard deviation of initial weights. Default 0.02. */
  readonly initializerRange: number
}

/** What a caller must say; the rest has defaults. */
export type LlamaOptions = Partial<LlamaConfig> &
  Pick<LlamaConfig, 'vocabSize' | 'hiddenSize' | 'intermediateSize' | 'numHiddenLayers' | 'numAttentionHeads'>

const KEYS: readonly (keyof LlamaConfig)[] = [
  'vocabSize',
  'hiddenSize',
  'intermediateSize',
  'numHiddenLayers',
  'numAttentionHeads',
  'numKeyValueHeads',
  'headDim',
  'rmsNormEps',
  'ropeTheta',
  'partialRotaryFactor',
  'ropeScaling',
  'maxPositionEmbeddings',
  'slidingWindow',
  'tieWordEmbeddings',
  'initializerRange',
]

const MAX_DIMENSION = 2 ** 24
const MAX_LAYERS = 4096

/**
 * Fills in defaults and checks.
 * @throws ConfigError naming the key, what was expected and what was found
 */
export function completeLlamaConfig(options: LlamaOptions): LlamaConfig {
  checkOptions('llama config', options, KEYS)
  const { hiddenSize, numAttentionHeads } = options
  const config: LlamaConfig = {
    numKeyValueHeads: numAttentionHeads,
    headDim: hiddenSize / numAttentionHeads,
    rmsNormEps: 1e-6,
    ropeTheta: 10000,
    partialRotaryFactor: 1,
    ropeScaling: null,
    maxPositionEmbeddings: 2048,
    slidingWindow: null,
    tieWordEmbeddings: true,
    initializerRange: 0.02,
    ...options,
  }
  const whole = (key: keyof LlamaConfig, most: number): void => {
    const value = config[key]
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > most) {
      throw new ConfigError(
        `llama config: ${key} must be a whole number from 1 to ${most}, received ${value}`,
      )
    }
  }
  for (const key of ['vocabSize', 'hiddenSize', 'intermediateSize', 'maxPositionEmbeddings'] as const) {
    whole(key, MAX_DIMENSION)
  }
  if (config.slidingWindow !== null) whole('slidingWindow', MAX_DIMENSION)
  whole('numHiddenLayers', MAX_LAYERS)
  whole('numAttentionHeads', hiddenSize)
  whole('numKeyValueHeads', numAttentionHeads)
  whole('headDim', MAX_DIMENSION)
  if (numAttentionHeads % config.numKeyValueHeads !== 0) {
    throw new ConfigError(
      `llama config: numKeyValueHeads must divide numAttentionHeads (${numAttentionHeads}), received ${config.numKeyValueHeads}`,
    )
  }
  for (const key of ['rmsNormEps', 'ropeTheta', 'partialRotaryFactor', 'initializerRange'] as const) {
    const value = config[key]
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) {
      throw new ConfigError(`llama config: ${key} must be a positive number, received ${value}`)
    }
  }
  const turned = rotarySize(config)
  if (turned % 2 !== 0 || turned < 2 || turned > config.headDim) {
    throw new ConfigError(
      `llama config: headDim x partialRotaryFactor must be even and from 2 to headDim (${config.headDim}) for rotary positions, received ${turned}`,
    )
  }
  checkRopeScaling('llama config', config.ropeScaling, turned / 2)
  if (typeof config.tieWordEmbeddings !== 'boolean') {
    throw new ConfigError(
      `llama config: tieWordEmbeddings must be a boolean, received ${config.tieWordEmbeddings}`,
    )
  }
  return config
}

/** Elements of a head that turn. */
export function rotarySize({ headDim, partialRotaryFactor }: LlamaConfig): number {
  return Math.floor(headDim * partialRotaryFactor)
}

/** Hugging Face's config.json of the model. */
export function toHuggingFaceConfig(config: LlamaConfig): Record<string, unknown> {
  const windowed = config.slidingWindow !== null
  return {
    architectures: [windowed ? 'MistralForCausalLM' : 'LlamaForCausalLM'],
    attention_bias: false,
    head_dim: config.headDim,
    hidden_act: 'silu',
    hidden_size: config.hiddenSize,
    initializer_range: config.initializerRange,
    intermediate_size: config.intermediateSize,
    max_position_embeddings: config.maxPositionEmbeddings,
    mlp_bias: false,
    model_type: windowed ? 'mistral' : 'llama',
    num_attention_heads: config.numAttentionHeads,
    num_hidden_layers: config.numHiddenLayers,
    num_key_value_heads: config.numKeyValueHeads,
    rms_norm_eps: config.rmsNormEps,
    ...(config.partialRotaryFactor === 1 ? {} : { partial_rotary_factor: config.partialRotaryFactor }),
    rope_scaling: config.ropeScaling && writeRopeScaling(config.ropeScaling),
    rope_theta: config.ropeTheta,
    ...(windowed && { sliding_window: config.slidingWindow }),
    tie_word_embeddings: config.tieWordEmbeddings,
    vocab_size: config.vocabSize,
  }
}

/**
 * Reads a config.json.
 * @throws ConfigError for another architecture, or a feature this family does not have here
 */
export function fromHuggingFaceConfig(value: ReadonlyMap<string, unknown>): LlamaConfig {
  const type = value.get('model_type')
  refuse(value, 'hidden_act', 'silu')
  refuse(value, 'attention_bias', false)
  refuse(value, 'mlp_bias', false)
  const options: Record<string, unknown> = {}
  for (const key of KEYS) {
    const found = value.get(snakeCase(key))
    if (found !== undefined && found !== null) options[key] = found
  }
  for (const [key, found] of Object.entries(readRope(value))) {
    if (found === undefined || found === null) delete options[key]
    else options[key] = found
  }
  // Mistral's default in Hugging Face; a LLaMA has none, whatever its file says
  if (type === 'llama') delete options['slidingWindow']
  else if (!value.has('sliding_window')) options['slidingWindow'] = 4096
  // Hugging Face's own default, unlike ours
  options['tieWordEmbeddings'] ??= false
  return completeLlamaConfig(options as LlamaOptions)
}

function refuse(config: ReadonlyMap<string, unknown>, key: string, only: unknown): void {
  const found = config.get(key)
  if (found !== undefined && found !== null && found !== only) {
    throw new ConfigError(
      `config.json: ${key} must be ${JSON.stringify(only)}, received ${JSON.stringify(found)}`,
    )
  }
}
