// The LLaMA family: RMSNorm, rotary positions, grouped-query attention, SwiGLU.
// Shapes: B batch, T steps, D hidden, H heads, G key-value heads, K head size, V vocabulary.

import { checkpoint } from '../autograd/checkpoint.ts'
import { applyDropout, type DropoutOptions } from '../nn/dropout.ts'
import { Initializer, type ParameterDType } from '../nn/init.ts'
import { KvCache, type KvCacheOptions, type LayerCache } from '../nn/kv-cache.ts'
import { Embedding, Linear, RmsNorm } from '../nn/layers.ts'
import { Module } from '../nn/module.ts'
import { Rotary } from '../nn/rotary.ts'
import { attention } from '../ops/attention.ts'
import { linear } from '../ops/linear.ts'
import { linearCrossEntropy } from '../ops/linear_cross_entropy.ts'
import { swiglu } from '../ops/swiglu.ts'
import { Device } from '../runtime/device.ts'
import { shapeError, ValueError } from '../runtime/errors.ts'
import { checkInteger } from '../runtime/options.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { completeLlamaConfig, type LlamaConfig, type LlamaOptions, rotarySize } from './llama-config.ts'

/** Where tokens stand and which keys they see; all from the plain causal order when left out. */
export interface SequenceOptions {
  /** i32 [B, T]: rotary position of each token; 0, 1, ... when left out. */
  readonly positions?: Tensor | null
  /**
   * Positions that the sequence spans, for rotary scaling that depends on it (dynamic, longrope); T when
   * left out.
   */
  readonly length?: number
  /** i32 [B, T]: first key each token may attend to (documents, left padding); 0 when left out. */
  readonly first?: Tensor | null
  /**
   * Generation: tokens are appended to it and attend to all it holds; it says where they stand, so
   * `positions`, `first` and `length` are left out. Inside `noGrad`.
   */
  readonly cache?: KvCache | null
  /** With a cache: how many tokens of each row are real, the rest being padding on the right. */
  readonly lengths?: readonly number[] | null
  /** Training: dropout of what each attention and MLP adds to the stream. None when left out. */
  readonly dropout?: DropoutOptions | null
  /**
   * Training: layers whose activations backward computes again instead of keeping them. True: all of
   * them; n: one of every n. None when left out.
   */
  readonly checkpoint?: boolean | number
}

/** What a layer is told of the sequence. */
interface LayerOptions extends SequenceOptions {
  readonly layerCache?: LayerCache
}

class LlamaAttention extends Module {
  readonly qProj: Linear
  readonly kProj: Linear
  readonly vProj: Linear
  readonly oProj: Linear
  readonly #headDim: number
  readonly #window: number | null
  readonly #rotary: Rotary

  constructor(init: Initializer, c: LlamaConfig, rotary: Rotary) {
    super()
    const std = c.initializerRange
    this.qProj = new Linear(init, c.hiddenSize, c.numAttentionHeads * c.headDim, std)
    this.kProj = new Linear(init, c.hiddenSize, c.numKeyValueHeads * c.headDim, std)
    this.vProj = new Linear(init, c.hiddenSize, c.numKeyValueHeads * c.headDim, std)
    this.oProj = new Linear(init, c.numAttentionHeads * c.headDim, c.hiddenSize, std)
    this.#headDim = c.headDim
    this.#window = c.slidingWindow
    this.#rotary = rotary
  }

  override forward(x_BTD: Tensor, { positions, first = null, length, layerCache }: LayerOptions): Tensor {
    const [batch = 0, steps = 0] = x_BTD.shape
    const heads = (y: Tensor): Tensor => y.reshape([batch, steps, -1, this.#headDim])
    const rotated = (y: Tensor): Tensor => this.#rotary.forward(heads(y), { positions, length })
    const q_BTHK = rotated(this.qProj.forward(x_BTD))
    const k_BTGK = rotated(this.kProj.forward(x_BTD))
    const v_BTGK = heads(this.vProj.forward(x_BTD))
    const o_BTHK =
      layerCache?.attend(q_BTHK, k_BTGK, v_BTGK) ??
      attention(q_BTHK, k_BTGK, v_BTGK, { first, window: this.#window })
    return this.oProj.forward(o_BTHK.reshape([batch, steps, -1]))
  }
}

class LlamaMlp extends Module {
  readonly gateProj: Linear
  readonly upProj: Linear
  readonly downProj: Linear

  constructor(init: Initializer, { hiddenSize, intermediateSize, initializerRange }: LlamaConfig) {
    super()
    this.gateProj = new Linear(init, hiddenSize, intermediateSize, initializerRange)
    this.upProj = new Linear(init, hiddenSize, intermediateSize, initializerRange)
    this.downProj = new Linear(init, intermediateSize, hiddenSize, initializerRange)
  }

  override forward(x: Tensor): Tensor {
    return this.downProj.forward(swiglu(this.gateProj.forward(x), this.upProj.forward(x)))
  }
}

/** The residual stream, and what is still to be added to it: the next norm does both in one pass. */
type Stream = readonly [x: Tensor, added: Tensor | null]

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

  override forward([x, added]: Stream, sequence: LayerOptions): Stream {
    const [h, input] = this.inputLayernorm.added(x, added)
    const mixed = this.selfAttn.forward(input, sequence)
    const [z, between] = this.postAttentionLayernorm.added(h, applyDropout(mixed, sequence.dropout))
    return [z, applyDropout(this.mlp.forward(between), sequence.dropout)]
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
    this.embedTokens = new Embedding(init, c.vocabSize, c.hiddenSize, c.initializerRange)
    this.layers = Array.from({ length: c.numHiddenLayers }, () => new LlamaLayer(init, c, rotary))
    this.norm = new RmsNorm(init, c.hiddenSize, c.rmsNormEps)
  }

  override dispose(): void {
    super.dispose()
    this.#rotary.dispose()
  }

  override forward(ids: Tensor, sequence: SequenceOptions): Tensor {
    if (sequence.cache) return this.#cached(ids, sequence.cache, sequence)
    const { positions = null, first = null } = sequence
    let stream: Stream = [this.embedTokens.forward(ids), null]
    for (const [i, layer] of this.layers.entries()) {
      stream = isCheckpointed(i, sequence.checkpoint)
        ? checkpoint(
            (x, added, positions, first) => layer.forward([x, added], { ...sequence, positions, first }),
            ...stream,
            positions,
            first,
          )
        : layer.forward(stream, sequence)
    }
    return this.norm.added(...stream)[1]
  }

  #cached(ids: Tensor, cache: KvCache, { positions, first, lengths = null }: SequenceOptions): Tensor {
    if (positions || first) {
      throw new ValueError('llama: a cache says where tokens stand; leave out positions and first')
    }
    const [batch, steps = 0] = ids.shape
    if (batch !== cache.batch) throw shapeError('llama', 'ids', `[${cache.batch},T] to match the cache`, ids)
    const placed = { positions: cache.begin(steps, lengths), length: cache.length + steps }
    let stream: Stream = [this.embedTokens.forward(ids), null]
    for (const [i, layer] of this.layers.entries()) {
      stream = layer.forward(stream, { ...placed, layerCache: cache.layer(i) })
    }
    cache.advance(steps, lengths)
    return this.norm.added(...stream)[1]
  }
}

/** @throws ValueError if `option` is neither a boolean nor a whole number from 1 */
function isCheckpointed(layer: number, option: boolean | number = false): boolean {
  if (typeof option === 'boolean') return option
  return layer % checkInteger('checkpoint', 'n', option, 1, 2 ** 31) === 0
}

export interface ModelOptions {
  /** Of matrices; vectors stay f32. bf16 matrices train on an exact float32 master. Default f32. */
  readonly dtype?: ParameterDType
  /** Of the initial weights. Default 0. */
  readonly seed?: number
  readonly device?: Device
}

export interface LossOptions extends SequenceOptions {
  /**
   * f32 [1]: 1 / number of targets that the loss is normalised by, when it spans several
   * micro-batches; the targets of this call when left out.
   */
  readonly scale?: Tensor | null
}

/** A LLaMA decoder with its output layer. */
export class Llama extends Module {
  readonly config: LlamaConfig
  readonly model: LlamaModel
  /** Null when tied to the embedding. */
  readonly lmHead: Linear | null

  /** @throws ConfigError */
  constructor(
    options: LlamaOptions,
    { dtype = 'f32', seed = 0, device = Device.default() }: ModelOptions = {},
  ) {
    super()
    const config = completeLlamaConfig(options)
    const init = new Initializer({ device, seed, dtype })
    this.config = config
    this.model = new LlamaModel(init, config)
    this.lmHead = config.tieWordEmbeddings
      ? null
      : new Linear(init, config.hiddenSize, config.vocabSize, config.initializerRange)
  }

  /**
   * Logits of the next token at every place.
   * @param ids i32 [B, T]
   * @returns [B, T, V], in the model's dtype
   */
  override forward(ids: Tensor, sequence: SequenceOptions = {}): Tensor {
    return linear(this.model.forward(ids, sequence), this.#head())
  }

  /**
   * Mean cross-entropy of the next token. Labels are shifted here, once: place t is trained on
   * `labels[t + 1]`. The full logits never exist.
   * @param ids i32 [B, T]
   * @param labels i32 [B, T], -100 where nothing is to be learnt; usually the ids
   * @returns f32 scalar
   */
  loss(ids: Tensor, labels: Tensor, { scale = null, ...sequence }: LossOptions = {}): Tensor {
    return linearCrossEntropy(this.model.forward(ids, sequence), this.#head(), labels, { scale })
  }

  override dispose(): void {
    super.dispose()
    this.model.dispose()
  }

  /**
   * An empty cache of keys and values for {@link SequenceOptions.cache}; the caller disposes of it.
   * @param options capacity: maxPositionEmbeddings when left out
   * @throws ConfigError, ValueError, OutOfMemoryError
   */
  makeCache(options: Partial<KvCacheOptions> = {}): KvCache {
    const { config: c, model } = this
    const { dtype, device } = model.embedTokens.weight
    const { numHiddenLayers: layers, numKeyValueHeads: kvHeads, headDim, slidingWindow: window } = c
    return new KvCache(
      { layers, kvHeads, headDim, window, dtype, device },
      { capacity: c.maxPositionEmbeddings, ...options },
    )
  }

  #head(): { readonly weight: Tensor } {
    return (this.lmHead ?? this.model.embedTokens).operand()
  }
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
