// The LLaMA family: RMSNorm, rotary positions, grouped-query attention, SwiGLU; with biases, norms of
// queries and keys, windows or GEGLU also Mistral, Qwen2 and Qwen3.
// Shapes: B batch, T steps, D hidden, H heads, G key-value heads, K head size, V vocabulary.

import { Initializer } from '../nn/init.ts'
import { Embedding, type LayerCall, Linear, RmsNorm } from '../nn/layers.ts'
import { Module } from '../nn/module.ts'
import { Rotary } from '../nn/rotary.ts'
import { attention } from '../ops/attention.ts'
import { geglu } from '../ops/geglu.ts'
import type { LinearOperand } from '../ops/linear.ts'
import { linearGroup } from '../ops/linear_group.ts'
import { swiglu } from '../ops/swiglu.ts'
import { Device } from '../runtime/device.ts'
import { ConfigError } from '../runtime/errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import {
  CausalLm,
  type DecoderSize,
  type LayerOptions,
  type ModelOptions,
  residualLayer,
  type SequenceOptions,
  type Stream,
  throughLayers,
} from './causal-lm.ts'
import { registerFamily, snakeCasePath } from './family.ts'
import { loadModel } from './folder.ts'
import {
  completeLlamaConfig,
  LLAMA_ACTIVATIONS,
  type LlamaConfig,
  type LlamaOptions,
  rotarySize,
} from './llama-config.ts'
import { fromHuggingFaceConfig, LLAMA_TYPES, toHuggingFaceConfig } from './llama-files.ts'

class LlamaAttention extends Module {
  readonly qProj: Linear
  readonly kProj: Linear
  readonly vProj: Linear
  readonly oProj: Linear
  /** Of each head's queries and keys; null but in Qwen3. */
  readonly qNorm: RmsNorm | null
  readonly kNorm: RmsNorm | null
  readonly #headDim: number
  readonly #window: number | null
  readonly #rotary: Rotary

  constructor(init: Initializer, c: LlamaConfig, rotary: Rotary) {
    super()
    const input = { std: c.initializerRange, bias: c.attentionBias }
    const output = { std: init.residualStd(c.initializerRange), bias: c.attentionOutputBias }
    this.qProj = new Linear(init, c.hiddenSize, c.numAttentionHeads * c.headDim, input)
    this.kProj = new Linear(init, c.hiddenSize, c.numKeyValueHeads * c.headDim, input)
    this.vProj = new Linear(init, c.hiddenSize, c.numKeyValueHeads * c.headDim, input)
    this.oProj = new Linear(init, c.numAttentionHeads * c.headDim, c.hiddenSize, output)
    this.qNorm = c.qkNorm ? new RmsNorm(init, c.headDim, c.rmsNormEps) : null
    this.kNorm = c.qkNorm ? new RmsNorm(init, c.headDim, c.rmsNormEps) : null
    this.#headDim = c.headDim
    this.#window = c.slidingWindow
    this.#rotary = rotary
  }

  override forward(x_BTD: Tensor, call: LayerOptions): Tensor {
    const { positions, first = null, length, layerCache } = call
    const [batch = 0, steps = 0] = x_BTD.shape
    const heads = (y: Tensor): Tensor => y.reshape([batch, steps, -1, this.#headDim])
    const rotated = (y: Tensor, norm: RmsNorm | null): Tensor =>
      this.#rotary.forward(norm === null ? heads(y) : norm.forward(heads(y)), { positions, length })
    const projections = [
      this.qProj.operand(call),
      this.kProj.operand(call),
      this.vProj.operand(call),
    ] as const
    const [q_BTD, k_BTD, v_BTD] = linearGroup(x_BTD, projections)
    const q_BTHK = rotated(q_BTD, this.qNorm)
    const k_BTGK = rotated(k_BTD, this.kNorm)
    const v_BTGK = heads(v_BTD)
    const o_BTHK =
      layerCache?.attend(q_BTHK, k_BTGK, v_BTGK) ??
      attention(q_BTHK, k_BTGK, v_BTGK, { first, window: this.#window })
    return this.oProj.forward(o_BTHK.reshape([batch, steps, -1]), call)
  }
}

class LlamaMlp extends Module {
  readonly gateProj: Linear
  readonly upProj: Linear
  readonly downProj: Linear

  readonly #approximate: (typeof LLAMA_ACTIVATIONS)[keyof typeof LLAMA_ACTIVATIONS]

  constructor(init: Initializer, c: LlamaConfig) {
    super()
    const options = { std: c.initializerRange, bias: c.mlpBias }
    this.gateProj = new Linear(init, c.hiddenSize, c.intermediateSize, options)
    this.upProj = new Linear(init, c.hiddenSize, c.intermediateSize, options)
    const output = { ...options, std: init.residualStd(options.std) }
    this.downProj = new Linear(init, c.intermediateSize, c.hiddenSize, output)
    this.#approximate = LLAMA_ACTIVATIONS[c.hiddenAct]
  }

  override forward(x: Tensor, call: LayerCall): Tensor {
    const [gate, up] = linearGroup(x, [this.gateProj.operand(call), this.upProj.operand(call)])
    const approximate = this.#approximate
    const inner = approximate === null ? swiglu(gate, up) : geglu(gate, up, { approximate })
    return this.downProj.forward(inner, call)
  }
}

class LlamaLayer extends Module {
  readonly inputLayernorm: RmsNorm
  readonly selfAttn: LlamaAttention
  readonly postAttentionLayernorm: RmsNorm
  readonly mlp: LlamaMlp

  constructor(init: Initializer, c: LlamaConfig, rotary: Rotary) {
    super()
    this.inputLayernorm = new RmsNorm(init, c.hiddenSize, c.rmsNormEps)
    this.selfAttn = new LlamaAttention(init, c, rotary)
    this.postAttentionLayernorm = new RmsNorm(init, c.hiddenSize, c.rmsNormEps)
    this.mlp = new LlamaMlp(init, c)
  }

  override forward(stream: Stream, sequence: LayerOptions): Stream {
    const { inputLayernorm, selfAttn: attention, postAttentionLayernorm, mlp } = this
    return residualLayer(stream, sequence, {
      norms: [inputLayernorm, postAttentionLayernorm],
      attention,
      mlp,
    })
  }
}

/** The decoder without its output layer; its field names are Hugging Face's, in camelCase. */
class LlamaModel extends Module {
  readonly embedTokens: Embedding
  readonly layers: LlamaLayer[]
  readonly norm: RmsNorm
  readonly #rotary: Rotary

  constructor(init: Initializer, c: LlamaConfig) {
    super()
    const rotary = new Rotary({ ...c, rotarySize: rotarySize(c) }, init.device)
    this.#rotary = rotary
    this.embedTokens = new Embedding(init, c.vocabSize, c.hiddenSize, init.embeddingStd(c.initializerRange))
    this.layers = Array.from({ length: c.numHiddenLayers }, () => new LlamaLayer(init, c, rotary))
    this.norm = new RmsNorm(init, c.hiddenSize, c.rmsNormEps)
  }

  override dispose(): void {
    super.dispose()
    this.#rotary.dispose()
  }

  override forward(ids: Tensor, sequence: SequenceOptions): Tensor {
    const embed = (): Tensor => this.embedTokens.forward(ids, sequence)
    return this.norm.added(...throughLayers(ids, sequence, { embed, layers: this.layers }))[1]
  }
}

/** A LLaMA decoder with its output layer. */
export class Llama extends CausalLm {
  readonly modelType = 'llama'
  readonly config: LlamaConfig
  readonly model: LlamaModel
  readonly lmHead: Linear | null

  /** @throws ConfigError */
  constructor(
    options: LlamaOptions,
    { dtype = 'f32', seed = 0, device = Device.default(), ...start }: ModelOptions = {},
  ) {
    super()
    const config = completeLlamaConfig(options)
    const init = new Initializer({ device, seed, dtype, ...start })
    this.config = config
    this.model = new LlamaModel(init, config)
    this.lmHead = config.tieWordEmbeddings
      ? null
      : new Linear(init, config.hiddenSize, config.vocabSize, config.initializerRange)
  }

  get size(): DecoderSize {
    return this.config
  }

  override hidden(ids: Tensor, sequence: SequenceOptions = {}): Tensor {
    return this.model.forward(ids, sequence)
  }

  override untrained(options: ModelOptions): Llama {
    return new Llama(this.config, options)
  }

  get inputEmbedding(): Tensor {
    return this.model.embedTokens.weight
  }

  override dispose(): void {
    super.dispose()
    this.model.dispose()
  }

  override head(call: LayerCall = {}): LinearOperand {
    return this.lmHead?.operand(call) ?? this.model.embedTokens.operand()
  }
}

registerFamily<Llama>({
  modelTypes: LLAMA_TYPES,
  create: (json, options) => new Llama(fromHuggingFaceConfig(json), options),
  writeConfig: (model) => toHuggingFaceConfig(model.config),
  weights: (model) => [...model.stateDict()].map(([path, tensor]) => ({ name: snakeCasePath(path), tensor })),
  dtypeOf: 'model.embed_tokens.weight',
  // old files hold the rotary frequencies
  fileName: (name) => (name.endsWith('.rotary_emb.inv_freq') ? null : name),
})

/**
 * {@link loadModel} for a folder that must hold a model of this family.
 * @throws ConfigError if it holds another
 */
export async function loadLlama(folder: string, options: Omit<ModelOptions, 'seed'> = {}): Promise<Llama> {
  const model = await loadModel(folder, options)
  if (model instanceof Llama) return model
  model.dispose()
  throw new ConfigError(`loadLlama: ${folder} holds a ${model.modelType} model; use loadModel`)
}

/** The reference models that benches and docs speak of, by their size. */
export const referenceModels = {
  '1M': { vocabSize: 512, hiddenSize: 128, numHiddenLayers: 4, numAttentionHeads: 4, intermediateSize: 384 },
  '10M': {
    vocabSize: 4096,
    hiddenSize: 256,
    numHiddenLayers: 8,
    numAttentionHeads: 4,
    intermediateSize: 768,
  },
  '124M': {
    vocabSize: 50304,
    hiddenSize: 768,
    numHiddenLayers: 12,
    numAttentionHeads: 12,
    intermediateSize: 2048,
  },
} as const satisfies Record<string, LlamaOptions>
