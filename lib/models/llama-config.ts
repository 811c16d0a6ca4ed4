// The configuration of a LLaMA-family decoder: Hugging Face's config.json in camelCase.

import type { RopeScaling } from '../nn/rotary.ts'
import { ConfigError } from '../runtime/errors.ts'
import { checkOptions, shown } from '../runtime/options.ts'
import { checkRopeScaling } from './rope-config.ts'

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
  /** Gated activation of the MLP. Default silu. */
  readonly hiddenAct: LlamaActivation
  /** Biases of queries, keys and values. Default false. */
  readonly attentionBias: boolean
  /** Bias of attention's output. Default attentionBias; false in Qwen2. */
  readonly attentionOutputBias: boolean
  /** Default false. */
  readonly mlpBias: boolean
  /** RMSNorm of each head's queries and keys before they turn, as in Qwen3. Default false. */
  readonly qkNorm: boolean
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
  'hiddenAct',
  'attentionBias',
  'attentionOutputBias',
  'mlpBias',
  'qkNorm',
  'slidingWindow',
  'tieWordEmbeddings',
  'initializerRange',
]

const BOOLEANS = ['attentionBias', 'attentionOutputBias', 'mlpBias', 'qkNorm', 'tieWordEmbeddings'] as const

/** Hugging Face's names of activations, and how swiglu or geglu computes them. */
export const LLAMA_ACTIVATIONS = { silu: null, gelu: 'none', gelu_pytorch_tanh: 'tanh' } as const
export type LlamaActivation = keyof typeof LLAMA_ACTIVATIONS

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
    // what is no number is refused below
    headDim: Number(hiddenSize) / Number(numAttentionHeads),
    rmsNormEps: 1e-6,
    ropeTheta: 10000,
    partialRotaryFactor: 1,
    ropeScaling: null,
    maxPositionEmbeddings: 2048,
    hiddenAct: 'silu',
    attentionBias: false,
    attentionOutputBias: options.attentionBias ?? false,
    mlpBias: false,
    qkNorm: false,
    slidingWindow: null,
    tieWordEmbeddings: true,
    initializerRange: 0.02,
    ...options,
  }
  const whole = (key: keyof LlamaConfig, most: number): void => {
    const value = config[key]
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > most) {
      throw new ConfigError(
        `llama config: ${key} must be a whole number from 1 to ${most}, received ${shown(value)}`,
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
      `llama config: numKeyValueHeads must divide numAttentionHeads (${numAttentionHeads}), received ${shown(config.numKeyValueHeads)}`,
    )
  }
  for (const key of ['rmsNormEps', 'ropeTheta', 'partialRotaryFactor', 'initializerRange'] as const) {
    const value = config[key]
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) {
      throw new ConfigError(`llama config: ${key} must be a positive number, received ${shown(value)}`)
    }
  }
  const turned = rotarySize(config)
  if (turned % 2 !== 0 || turned < 2 || turned > config.headDim) {
    throw new ConfigError(
      `llama config: headDim x partialRotaryFactor must be even and from 2 to headDim (${config.headDim}) for rotary positions, received ${turned}`,
    )
  }
  checkRopeScaling('llama config', config.ropeScaling, turned / 2)
  for (const key of BOOLEANS) {
    if (typeof config[key] === 'boolean') continue
    throw new ConfigError(`llama config: ${key} must be a boolean, received ${shown(config[key])}`)
  }
  if (!Object.hasOwn(LLAMA_ACTIVATIONS, config.hiddenAct)) {
    throw new ConfigError(
      `llama config: hiddenAct must be one of ${Object.keys(LLAMA_ACTIVATIONS).join(', ')}, received ${shown(config.hiddenAct)}`,
    )
  }
  return config
}

/** Elements of a head that turn. */
export function rotarySize({ headDim, partialRotaryFactor }: LlamaConfig): number {
  return Math.floor(headDim * partialRotaryFactor)
}
