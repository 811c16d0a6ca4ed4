import { addLayerNorm } from '../ops/add_layer_norm.ts'
import { addRmsNorm } from '../ops/add_rms_norm.ts'
import { embedding } from '../ops/embedding.ts'
import { layerNorm } from '../ops/layer_norm.ts'
import { type DenseOperand, type LinearOperand, linear } from '../ops/linear.ts'
import { rmsNorm } from '../ops/rms_norm.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { Initializer } from './init.ts'
import { Module, parameter } from './module.ts'
import type { StoredTensor, WeightFormat } from './weight-format.ts'

/** What a call puts beside the weights of layers, or in their place: an adapter. */
export interface WeightAdapter {
  /** What `layer` multiplies by. */
  linear(layer: Linear, operand: LinearOperand): LinearOperand
  /** What `layer` gives for `ids`, of which `rows` are its own. */
  embedding(layer: Embedding, ids: Tensor, rows: () => Tensor): Tensor
}

/** What a call of a layer may be told; all of it an argument, nothing a state of the layer. */
export interface LayerCall {
  /** None when left out. */
  readonly adapter?: WeightAdapter | null
}

export interface LinearOptions {
  /** Standard deviation of the initial weights. */
  readonly std: number
  /** Default false. Begins at zero. */
  readonly bias?: boolean
}

/** Weights of another kind than a dense tensor: state of their own, and the operand they make. */
export abstract class WeightSource extends Module {
  abstract operand(bias: Tensor | null): LinearOperand

  /** Method of the {@link WeightFormat} by which folders hold them; null: none does. */
  get format(): string | null {
    return null
  }

  /** What a file holds in the place of `weight`, by the end of the name (`weight`, `weight_scale`). */
  stored(): ReadonlyMap<string, StoredTensor> {
    return new Map()
  }

  override forward(x: Tensor): Tensor {
    return linear(x, this.operand(null))
  }
}

/** y = x W^T + b. The forward goes through an operand, so weights of other kinds need no other forward. */
export class Linear extends Module {
  /** [out, in]; disposed of once `source` has taken its place. */
  weight: Tensor
  /** [out], f32; null when there is none. */
  bias: Tensor | null
  source: WeightSource | null = null

  /** @param options the standard deviation alone, or with other options */
  constructor(init: Initializer, inputs: number, outputs: number, options: number | LinearOptions) {
    super()
    const { std, bias = false } = typeof options === 'number' ? { std: options } : options
    this.weight = init.linear([outputs, inputs], std)
    this.bias = bias ? init.zeros(outputs) : null
  }

  operand({ adapter = null }: LayerCall = {}): LinearOperand {
    const own = this.source?.operand(this.bias) ?? { weight: this.weight, bias: this.bias }
    return adapter?.linear(this, own) ?? own
  }

  /** Multiplies by `source` from now on, and frees the dense weights. */
  replaceWeight(source: WeightSource): void {
    this.source = source
    this.weight.dispose()
  }

  /** Dense weights in the place of deferred ones, which are freed. */
  giveWeight(weight: Tensor): void {
    this.weight.dispose()
    this.weight = parameter(weight)
  }

  /** @param x [..., in] @returns [..., out] */
  override forward(x: Tensor, call: LayerCall = {}): Tensor {
    return linear(x, this.operand(call))
  }
}

/** Rows of a table by id. As an operand it is the output layer of a tied model, which no adapter changes. */
export class Embedding extends Module {
  /** [vocabulary, hidden] */
  weight: Tensor

  constructor(init: Initializer, entries: number, size: number, std: number) {
    super()
    this.weight = init.normal([entries, size], std)
  }

  operand(): DenseOperand {
    return { weight: this.weight }
  }

  /** @param ids i32, any shape @returns ids.shape + [hidden] */
  override forward(ids: Tensor, { adapter = null }: LayerCall = {}): Tensor {
    const rows = (): Tensor => embedding(ids, this.weight)
    return adapter?.embedding(this, ids, rows) ?? rows()
  }
}

/** Root-mean-square norm over the last axis, with a weight per element. */
export class RmsNorm extends Module {
  /** [size], f32 */
  weight: Tensor
  readonly eps: number

  constructor(init: Initializer, size: number, eps: number) {
    super()
    this.weight = init.ones(size)
    this.eps = eps
  }

  override forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, { eps: this.eps })
  }

  /** The sum x + residual and its norm, in one pass; of x alone when there is no residual. */
  added(x: Tensor, residual: Tensor | null): readonly [sum: Tensor, norm: Tensor] {
    if (residual === null) return [x, this.forward(x)]
    return addRmsNorm(x, residual, this.weight, { eps: this.eps })
  }
}

/** Layer norm over the last axis, with a weight and a bias per element. */
export class LayerNorm extends Module {
  /** [size], f32 */
  weight: Tensor
  /** [size], f32 */
  bias: Tensor
  readonly eps: number

  constructor(init: Initializer, size: number, eps: number) {
    super()
    this.weight = init.ones(size)
    this.bias = init.zeros(size)
    this.eps = eps
  }

  override forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight, { b: this.bias, eps: this.eps })
  }

  /** The sum x + residual and its norm, in one pass; of x alone when there is no residual. */
  added(x: Tensor, residual: Tensor | null): readonly [sum: Tensor, norm: Tensor] {
    if (residual === null) return [x, this.forward(x)]
    return addLayerNorm(x, residual, this.weight, { b: this.bias, eps: this.eps })
  }
}
