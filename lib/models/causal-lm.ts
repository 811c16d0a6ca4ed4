// What every decoder family has in common: what a call is told, and the way from hidden states to
// logits and loss. Shapes: B batch, T steps, D hidden, V vocabulary.

import { checkpoint } from '../autograd/checkpoint.ts'
import { applyDropout, type DropoutOptions } from '../nn/dropout.ts'
import type { ParameterDType } from '../nn/init.ts'
import { KvCache, type KvCacheOptions, type LayerCache } from '../nn/kv-cache.ts'
import type { LayerCall, Linear } from '../nn/layers.ts'
import { Module } from '../nn/module.ts'
import { type LinearOperand, linear } from '../ops/linear.ts'
import { linearCrossEntropy } from '../ops/linear_cross_entropy.ts'
import type { Device, DeviceName } from '../runtime/device.ts'
import { shapeError, ValueError } from '../runtime/errors.ts'
import { checkInteger } from '../runtime/options.ts'
import type { Tensor } from '../tensor/tensor.ts'

/** Where tokens stand and which keys they see; all from the plain causal order when left out. */
export interface SequenceOptions extends LayerCall {
  /** i32 [B, T]: position of each token; 0, 1, ... when left out. */
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

export interface LossOptions extends SequenceOptions {
  /**
   * f32 scalar: 1 / number of targets that the loss is normalised by, when it spans several
   * micro-batches; the targets of this call when left out.
   */
  readonly scale?: Tensor | null
  /** Weight of the uniform distribution over the vocabulary, in [0, 1]. Default 0. */
  readonly labelSmoothing?: number
}

export interface ModelOptions {
  /** Of matrices; vectors stay f32. bf16 matrices train on an exact float32 master. Default f32. */
  readonly dtype?: ParameterDType
  /** Of the initial weights. Default 0. */
  readonly seed?: number
  /** Where the weights live and the model runs. Default: {@link Device.default}. */
  readonly device?: Device | DeviceName
  /**
   * What layers add to the residual stream begins at zero: a new model is at first its embedding and head
   * alone, and learns sooner from little text. Default false.
   * Source: Zhang, Dauphin & Ma 2019 (Fixup), rule 1
   */
  readonly zeroResiduals?: boolean
  /** Standard deviation of new token embeddings. Default: the configuration's `initializerRange`. */
  readonly embeddingStd?: number
  /** For loaders: Linears have no weights of their own until they are given some. Default false. */
  readonly deferLinears?: boolean
  /** For loaders: a model with more elements than this is refused before it takes memory. Default no limit. */
  readonly mostElements?: number
}

/** What a decoder says of its size, whatever its configuration calls it. */
export interface DecoderSize {
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly numHiddenLayers: number
  readonly numAttentionHeads: number
  readonly numKeyValueHeads: number
  readonly headDim: number
  readonly maxPositionEmbeddings: number
  /** How many tokens each one sees up to itself; null or absent: all. */
  readonly slidingWindow?: number | null
}

/** A decoder with its output layer. Families differ in what comes before that. */
export abstract class CausalLm extends Module {
  /** Hugging Face's `model_type`: which family reads and writes it. */
  abstract readonly modelType: string
  abstract readonly config: object
  abstract readonly size: DecoderSize
  /** The output layer; null when it is tied to the embedding. */
  abstract readonly lmHead: Linear | null

  /**
   * Hidden states after the last norm.
   * @param ids i32 [B, T]
   * @returns [B, T, D]
   */
  abstract hidden(ids: Tensor, sequence?: SequenceOptions): Tensor

  /** Another untrained model of the same configuration. */
  abstract untrained(options: ModelOptions): CausalLm

  /** [V, D] */
  abstract get inputEmbedding(): Tensor

  /** The output layer [V, D]: the embedding when tied. */
  abstract head(call?: LayerCall): LinearOperand

  /**
   * Logits of the next token at every place.
   * @param ids i32 [B, T]
   * @returns [B, T, V], in the model's dtype
   */
  override forward(ids: Tensor, sequence: SequenceOptions = {}): Tensor {
    return linear(this.hidden(ids, sequence), this.head(sequence))
  }

  /**
   * Mean cross-entropy of the next token. Labels are shifted here, once: place t is trained on
   * `labels[t + 1]`. The full logits never exist.
   * @param ids i32 [B, T]
   * @param labels i32 [B, T], -100 where nothing is to be learnt; usually the ids
   * @returns f32 scalar
   */
  loss(ids: Tensor, labels: Tensor, options: LossOptions = {}): Tensor {
    const { scale = null, labelSmoothing = 0, ...sequence } = options
    const hidden = this.hidden(ids, sequence)
    return linearCrossEntropy(hidden, this.head(sequence), labels, { scale, labelSmoothing })
  }

  /**
   * An empty cache of keys and values for {@link SequenceOptions.cache}; the caller disposes of it.
   * @param options capacity: maxPositionEmbeddings when left out
   * @throws ConfigError, ValueError, OutOfMemoryError
   */
  makeCache(options: Partial<KvCacheOptions> = {}): KvCache {
    const { numHiddenLayers: layers, numKeyValueHeads: kvHeads, headDim } = this.size
    const { slidingWindow: window = null, maxPositionEmbeddings: capacity } = this.size
    const { dtype, device } = this.inputEmbedding
    return new KvCache({ layers, kvHeads, headDim, window, dtype, device }, { capacity, ...options })
  }
}

/**
 * How many targets {@link CausalLm.loss} finds in labels [..., T]: every place but the first of a row
 * whose label is not -100. 1 / their number over all micro-batches of a step is `scale`.
 */
export function countTargets(labels: ArrayLike<number>, length: number): number {
  let count = 0
  for (let i = 0; i < labels.length; i++) if (i % length !== 0 && labels[i] !== -100) count++
  return count
}

/** What a layer is told of the sequence. */
export interface LayerOptions extends SequenceOptions {
  readonly layerCache?: LayerCache
}

/** The residual stream, and what is still to be added to it: the next norm does both in one pass. */
export type Stream = readonly [x: Tensor, added: Tensor | null]

/** A norm of the stream, which does what is still to be added on its way. */
interface StreamNorm {
  added(x: Tensor, residual: Tensor | null): readonly [sum: Tensor, norm: Tensor]
}

/** What a pre-norm layer is made of, whatever its family calls the parts. */
export interface LayerParts {
  readonly norms: readonly [beforeAttention: StreamNorm, beforeMlp: StreamNorm]
  readonly attention: { forward(x: Tensor, sequence: LayerOptions): Tensor }
  readonly mlp: { forward(x: Tensor, call: LayerCall): Tensor }
}

/**
 * The stream after a layer that adds first the attention, then the MLP of its norm. Both are dropped from before
 * they are added.
 */
export function residualLayer(
  [x, added]: Stream,
  sequence: LayerOptions,
  { norms: [beforeAttention, beforeMlp], attention, mlp }: LayerParts,
): Stream {
  const { dropout } = sequence
  const [h, input] = beforeAttention.added(x, added)
  const mixed = attention.forward(input, sequence)
  const [z, between] = beforeMlp.added(h, applyDropout(mixed, dropout))
  return [z, applyDropout(mlp.forward(between, sequence), dropout)]
}

export interface Layers {
  /** The stream's beginning. @param positions i32 [B, T]; null: 0, 1, ... in every row */
  embed(positions: Tensor | null): Tensor
  readonly layers: readonly { forward(stream: Stream, sequence: LayerOptions): Stream }[]
}

/**
 * The stream after all layers: over a cache, or with those layers as checkpoint regions that
 * `sequence.checkpoint` names.
 * @throws ValueError if `checkpoint` is neither a boolean nor a whole number from 1; ValueError, ShapeError
 *   for what does not go with a cache
 */
export function throughLayers(ids: Tensor, sequence: SequenceOptions, { embed, layers }: Layers): Stream {
  const { positions = null, first = null, cache, lengths = null, checkpoint: option = false } = sequence
  const { adapter = null } = sequence
  if (cache) {
    if (positions || first) {
      throw new ValueError('forward: a cache says where tokens stand; leave out positions and first')
    }
    const [batch, steps = 0] = ids.shape
    if (batch !== cache.batch) {
      throw shapeError('forward', 'ids', `[${cache.batch},T] to match the cache`, ids)
    }
    const placed = { positions: cache.begin(steps, lengths), length: cache.length + steps }
    let stream: Stream = [embed(placed.positions), null]
    for (const [i, layer] of layers.entries()) {
      stream = layer.forward(stream, { ...placed, adapter, layerCache: cache.layer(i) })
    }
    cache.advance(steps, lengths)
    return stream
  }
  const every = typeof option === 'number' ? checkInteger('checkpoint', 'n', option, 1, 2 ** 31) : 1
  let stream: Stream = [embed(positions), null]
  for (const [i, layer] of layers.entries()) {
    if (option === false || i % every !== 0) stream = layer.forward(stream, sequence)
    else {
      // what a region uses must live until backward: tensors are its inputs
      stream = checkpoint(
        (x, added, positions, first) => layer.forward([x, added], { ...sequence, positions, first }),
        ...stream,
        positions,
        first,
      )
    }
  }
  return stream
}
