// GPT-2: layer norms with bias, learned positions, fused query, key and value, a GELU MLP.
// Shapes: B batch, T steps, D hidden, H heads, K head size, V vocabulary.

import { applyDropout } from '../nn/dropout.ts'
import { Initializer } from '../nn/init.ts'
import { Embedding, type LayerCall, LayerNorm, Linear } from '../nn/layers.ts'
import { Module } from '../nn/module.ts'
import { attention } from '../ops/attention.ts'
import { mul } from '../ops/binary.ts'
import { contiguous } from '../ops/copy.ts'
import { iota } from '../ops/create.ts'
import { gelu } from '../ops/gelu.ts'
import type { LinearOperand } from '../ops/linear.ts'
import { residualAdd } from '../ops/residual_add.ts'
import { split } from '../ops/split.ts'
import { Device } from '../runtime/device.ts'
import { shapeError } from '../runtime/errors.ts'
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
import {
  completeGpt2Config,
  GPT2_ACTIVATIONS,
  type Gpt2Config,
  type Gpt2Options,
  readGpt2Config,
  writeGpt2Config,
} from './gpt2-config.ts'

class Gpt2Attention extends Module {
  /** Query, key and value, one after another: [3 D, D]. */
  readonly cAttn: Linear
  readonly cProj: Linear
  /** Of scores. */
  readonly scale: number
  readonly #heads: number

  constructor(init: Initializer, c: Gpt2Config, layer: number) {
    super()
    this.cAttn = new Linear(init, c.nEmbd, 3 * c.nEmbd, { std: c.initializerRange, bias: true })
    this.cProj = new Linear(init, c.nEmbd, c.nEmbd, { std: init.residualStd(residualStd(c)), bias: true })
    this.#heads = c.nHead
    const byHead = c.scaleAttnWeights ? Math.sqrt(c.nEmbd / c.nHead) : 1
    this.scale = 1 / (byHead * (c.scaleAttnByInverseLayerIdx ? layer + 1 : 1))
  }

  override forward(x_BTD: Tensor, call: LayerOptions): Tensor {
    const { first = null, layerCache } = call
    const [batch = 0, steps = 0, size = 0] = x_BTD.shape
    const [q_BTHK, k_BTHK, v_BTHK] = split(this.cAttn.forward(x_BTD, call), [size, size, size]).map((y) =>
      y.reshape([batch, steps, this.#heads, -1]),
    ) as [Tensor, Tensor, Tensor]
    const o_BTHK = layerCache
      ? layerCache.attend(this.#scaled(q_BTHK), k_BTHK, v_BTHK)
      : attention(q_BTHK, k_BTHK, v_BTHK, { first, scale: this.scale })
    return this.cProj.forward(o_BTHK.reshape([batch, steps, size]), call)
  }

  /** Queries for a cache, which divides scores by the root of the head size. */
  #scaled(q: Tensor): Tensor {
    const factor = this.scale * Math.sqrt(q.shape.at(-1) ?? 1)
    return factor === 1 ? q : mul(q, factor)
  }
}

class Gpt2Mlp extends Module {
  readonly cFc: Linear
  readonly cProj: Linear
  readonly #approximate: (typeof GPT2_ACTIVATIONS)[keyof typeof GPT2_ACTIVATIONS]

  constructor(init: Initializer, c: Gpt2Config) {
    super()
    this.cFc = new Linear(init, c.nEmbd, c.nInner, { std: c.initializerRange, bias: true })
    this.cProj = new Linear(init, c.nInner, c.nEmbd, { std: init.residualStd(residualStd(c)), bias: true })
    this.#approximate = GPT2_ACTIVATIONS[c.activationFunction]
  }

  override forward(x: Tensor, call: LayerCall): Tensor {
    return this.cProj.forward(gelu(this.cFc.forward(x, call), { approximate: this.#approximate }), call)
  }
}

/** What a layer adds to the stream twice keeps its variance: Radford et al. 2019, section 2.3. */
function residualStd({ initializerRange, nLayer }: Gpt2Config): number {
  return initializerRange / Math.sqrt(2 * nLayer)
}

class Gpt2Layer extends Module {
  readonly ln1: LayerNorm
  readonly attn: Gpt2Attention
  readonly ln2: LayerNorm
  readonly mlp: Gpt2Mlp

  constructor(init: Initializer, c: Gpt2Config, layer: number) {
    super()
    this.ln1 = new LayerNorm(init, c.nEmbd, c.layerNormEpsilon)
    this.attn = new Gpt2Attention(init, c, layer)
    this.ln2 = new LayerNorm(init, c.nEmbd, c.layerNormEpsilon)
    this.mlp = new Gpt2Mlp(init, c)
  }

  override forward(stream: Stream, sequence: LayerOptions): Stream {
    const { ln1, attn: attention, ln2, mlp } = this
    return residualLayer(stream, sequence, { norms: [ln1, ln2], attention, mlp })
  }
}

/** The decoder without its output layer; its field names are Hugging Face's, in camelCase. */
class Gpt2Model extends Module {
  readonly wte: Embedding
  readonly wpe: Embedding
  readonly h: Gpt2Layer[]
  readonly lnF: LayerNorm

  constructor(init: Initializer, c: Gpt2Config) {
    super()
    this.wte = new Embedding(init, c.vocabSize, c.nEmbd, init.embeddingStd(c.initializerRange))
    this.wpe = new Embedding(init, c.nPositions, c.nEmbd, c.initializerRange)
    this.h = Array.from({ length: c.nLayer }, (_, layer) => new Gpt2Layer(init, c, layer))
    this.lnF = new LayerNorm(init, c.nEmbd, c.layerNormEpsilon)
  }

  override forward(ids: Tensor, sequence: SequenceOptions): Tensor {
    const embed = (positions: Tensor | null): Tensor => {
      const places = this.wpe.forward(positions ?? this.#inOrder(ids), sequence)
      return applyDropout(residualAdd(this.wte.forward(ids, sequence), places), sequence.dropout)
    }
    return this.lnF.added(...throughLayers(ids, sequence, { embed, layers: this.h }))[1]
  }

  /** i32 [B, T]: 0, 1, ... in every row. */
  #inOrder(ids: Tensor): Tensor {
    const [batch = 0, steps = 0] = ids.shape
    const most = this.wpe.weight.shape[0] ?? 0
    if (steps > most) throw shapeError('gpt2', 'ids', `[B, T] with T at most nPositions (${most})`, ids)
    return contiguous(iota(steps, { device: ids.device }).expand([batch, steps]))
  }
}

/** A GPT-2 decoder with its output layer. Embeddings, too, take `dropout`. */
export class Gpt2 extends CausalLm {
  readonly modelType = 'gpt2'
  readonly config: Gpt2Config
  readonly transformer: Gpt2Model
  readonly lmHead: Linear | null

  /** @throws ConfigError */
  constructor(
    options: Gpt2Options,
    { dtype = 'f32', seed = 0, device = Device.default(), ...start }: ModelOptions = {},
  ) {
    super()
    const config = completeGpt2Config(options)
    const init = new Initializer({ device, seed, dtype, ...start })
    this.config = config
    this.transformer = new Gpt2Model(init, config)
    this.lmHead = config.tieWordEmbeddings
      ? null
      : new Linear(init, config.nEmbd, config.vocabSize, config.initializerRange)
  }

  get size(): DecoderSize {
    const { vocabSize, nEmbd, nLayer, nHead, nPositions } = this.config
    return {
      vocabSize,
      hiddenSize: nEmbd,
      numHiddenLayers: nLayer,
      numAttentionHeads: nHead,
      numKeyValueHeads: nHead,
      headDim: nEmbd / nHead,
      maxPositionEmbeddings: nPositions,
    }
  }

  override hidden(ids: Tensor, sequence: SequenceOptions = {}): Tensor {
    return this.transformer.forward(ids, sequence)
  }

  override untrained(options: ModelOptions): Gpt2 {
    return new Gpt2(this.config, options)
  }

  get inputEmbedding(): Tensor {
    return this.transformer.wte.weight
  }

  override head(call: LayerCall = {}): LinearOperand {
    return this.lmHead?.operand(call) ?? this.transformer.wte.operand()
  }
}

registerFamily<Gpt2>({
  modelTypes: ['gpt2'],
  create: (json, options) => new Gpt2(readGpt2Config(json), options),
  writeConfig: (model) => writeGpt2Config(model.config),
  weights: (model) =>
    [...model.stateDict()].map(([path, tensor]) => ({
      // ln1 -> ln_1
      name: snakeCasePath(path).replace(/\bln(\d)/, 'ln_$1'),
      tensor,
      // Hugging Face's Conv1D is [in, out]
      transposed: /\.c[A-Z]\w*\.(weight|source\.\w+)$/.test(path),
    })),
  transposedLinears: true,
  dtypeOf: 'transformer.wte.weight',
  fileName(name) {
    // causal masks that old versions saved
    if (/(^|\.)attn\.(masked_)?bias$/.test(name)) return null
    // OpenAI's own files hold the decoder without a head, hence without the prefix
    return /^(wte|wpe|h|ln_f)\./.test(name) ? `transformer.${name}` : name
  },
})
