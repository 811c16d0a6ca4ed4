// config.json of the architectures that are LLaMA with some features on: llama, mistral, qwen2, qwen3.

import { ConfigError } from '../runtime/errors.ts'
import { shown } from '../runtime/options.ts'
import { ConfigReader } from './config-reader.ts'
import { completeLlamaConfig, type LlamaConfig, type LlamaOptions } from './llama-config.ts'
import { readRope, snakeCase, writeRopeScaling } from './rope-config.ts'

/** What an architecture fixes; features that it does not read are as `completeLlamaConfig` has them. */
interface Architecture {
  readonly className: string
  readonly fixed: Partial<LlamaConfig>
  readonly reads: readonly (keyof LlamaConfig)[]
  /** What holds in Hugging Face when the file says nothing, where that is not our own default. */
  readonly absent?: Partial<LlamaConfig>
  /** Whether a window is read, and the one that holds when the file says nothing. */
  readonly window?: { readonly otherwise: number | null }
}

const COMMON = [
  'vocabSize',
  'hiddenSize',
  'intermediateSize',
  'numHiddenLayers',
  'numAttentionHeads',
  'numKeyValueHeads',
  'headDim',
  'rmsNormEps',
  'maxPositionEmbeddings',
  'tieWordEmbeddings',
  'initializerRange',
] as const satisfies readonly (keyof LlamaConfig)[]

/** In the order in which a model to save is looked up: the first that has all its features. */
const ARCHITECTURES: Readonly<Record<string, Architecture>> = {
  llama: { className: 'LlamaForCausalLM', fixed: {}, reads: ['attentionBias', 'mlpBias'] },
  mistral: {
    className: 'MistralForCausalLM',
    fixed: {},
    reads: [],
    absent: { numKeyValueHeads: 8, maxPositionEmbeddings: 131072 },
    window: { otherwise: 4096 },
  },
  qwen2: {
    className: 'Qwen2ForCausalLM',
    fixed: { attentionBias: true, attentionOutputBias: false },
    reads: [],
    absent: { numKeyValueHeads: 32, maxPositionEmbeddings: 32768 },
    window: { otherwise: null },
  },
  qwen3: {
    className: 'Qwen3ForCausalLM',
    fixed: { qkNorm: true },
    reads: ['attentionBias'],
    absent: { numKeyValueHeads: 32, maxPositionEmbeddings: 32768, headDim: 128 },
    window: { otherwise: null },
  },
}

export const LLAMA_TYPES: readonly string[] = Object.keys(ARCHITECTURES)

const ACTIVATIONS = {
  silu: 'silu',
  swish: 'silu',
  gelu: 'gelu',
  gelu_new: 'gelu_pytorch_tanh',
  gelu_pytorch_tanh: 'gelu_pytorch_tanh',
} as const

/**
 * The architecture that has the features of a configuration.
 * @throws ConfigError when none has them all
 */
export function architectureOf(config: LlamaConfig): string {
  const fits = ({ fixed, reads, window }: Architecture): boolean => {
    const own: LlamaOptions = { ...config, ...fixed, slidingWindow: window ? config.slidingWindow : null }
    for (const key of ['attentionBias', 'mlpBias', 'qkNorm'] as const) {
      if (!reads.includes(key) && !(key in fixed)) Object.assign(own, { [key]: false })
    }
    if (!('attentionOutputBias' in fixed)) {
      Object.assign(own, { attentionOutputBias: own.attentionBias })
    }
    return Object.entries(own).every(([key, value]) => config[key as keyof LlamaConfig] === value)
  }
  const found = Object.entries(ARCHITECTURES).find(([, architecture]) => fits(architecture))
  if (found !== undefined) return found[0]
  const { attentionBias, attentionOutputBias, mlpBias, qkNorm, slidingWindow } = config
  throw new ConfigError(
    `saveModel: no architecture of ${LLAMA_TYPES.join(', ')} has all of ${JSON.stringify({ attentionBias, attentionOutputBias, mlpBias, qkNorm, slidingWindow })}`,
  )
}

/**
 * Hugging Face's config.json of the model.
 * @throws ConfigError for features that no architecture has together
 */
export function toHuggingFaceConfig(config: LlamaConfig): Record<string, unknown> {
  const type = architectureOf(config)
  const { className, reads, window } = ARCHITECTURES[type] as Architecture
  const layers = config.numHiddenLayers
  const windowed = config.slidingWindow !== null
  return {
    architectures: [className],
    hidden_act: config.hiddenAct,
    model_type: type,
    ...Object.fromEntries([...COMMON, ...reads].map((key) => [snakeCase(key), config[key]])),
    ...(config.partialRotaryFactor === 1 ? {} : { partial_rotary_factor: config.partialRotaryFactor }),
    rope_scaling: config.ropeScaling && writeRopeScaling(config.ropeScaling),
    rope_theta: config.ropeTheta,
    ...(window && { sliding_window: config.slidingWindow }),
    // Qwen: a switch, and the first layers without
    ...(window?.otherwise === null && {
      use_sliding_window: windowed,
      max_window_layers: windowed ? 0 : layers,
    }),
  }
}

/**
 * Reads a config.json.
 * @throws ConfigError naming a key for a feature that is not known here
 */
export function fromHuggingFaceConfig(json: ReadonlyMap<string, unknown>): LlamaConfig {
  const type = String(json.get('model_type'))
  const architecture = ARCHITECTURES[type]
  if (architecture === undefined) {
    throw new ConfigError(
      `config.json: model_type must be one of ${LLAMA_TYPES.join(', ')}, received ${shown(json.get('model_type'))}`,
    )
  }
  const { fixed, reads, absent, window } = architecture
  const reader = new ConfigReader(json)
  // Hugging Face ties nothing unless told to, unlike our own default
  const options: Record<string, unknown> = { tieWordEmbeddings: false, ...absent, ...fixed }
  for (const key of [...COMMON, ...reads]) {
    // null is no silence: it asks for what the other numbers give
    if (json.get(snakeCase(key)) === null) delete options[key]
    const found = reader.take(snakeCase(key))
    if (found !== undefined) options[key] = found
  }
  options['hiddenAct'] = reader.oneOf('hidden_act', ACTIVATIONS, 'silu')
  for (const [key, found] of Object.entries(readRope(json))) {
    if (found !== undefined && found !== null) options[key] = found
  }
  reader.ignore('rope_scaling', 'rope_parameters', 'rope_theta', 'partial_rotary_factor')
  reader.ignore('original_max_position_embeddings')
  // a LLaMA has no window, whatever its file says
  const found = readWindow(reader, Number(options['numHiddenLayers']), window?.otherwise ?? null)
  options['slidingWindow'] = window === undefined ? null : found
  reader.only('pretraining_tp', 1)
  reader.finish()
  return completeLlamaConfig(options as LlamaOptions)
}

/** @throws ConfigError when only some layers have a window */
function readWindow(reader: ConfigReader, layers: number, otherwise: number | null): unknown {
  const named = reader.has('sliding_window')
  const size = reader.take('sliding_window') ?? null
  const switched = reader.take('use_sliding_window')
  const first = reader.take('max_window_layers')
  const types = reader.take('layer_types')
  if (switched === false) return null
  const mixed = (key: string, value: unknown): ConfigError =>
    new ConfigError(`config.json: ${key} must give all layers a window or none, received ${shown(value)}`)
  if (Array.isArray(types)) {
    if (types.every((kind) => kind === 'full_attention')) return null
    if (!types.every((kind) => kind === 'sliding_attention')) throw mixed('layer_types', types)
    return size ?? otherwise
  }
  if (switched === true && typeof first === 'number' && first > 0) {
    if (first < layers) throw mixed('max_window_layers', first)
    return null
  }
  return named ? size : otherwise
}
