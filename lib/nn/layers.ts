import { addLayerNorm } from '../ops/add_layer_norm.ts'
import { addRmsNorm } from '../ops/add_rms_norm.ts'
import { embedding } from '../ops/embedding.ts'
import { layerNorm } from '../ops/layer_norm.ts'
import { type DenseOperand, type LinearOperand, linear } from '../ops/linear.ts'
import { rmsNorm } from '../ops/rms_norm.ts'
import { Device } from '../runtime/device.ts'
import { checkInteger, checkOptions } from '../runtime/options.ts'
import { mode } from '../tensor/mode.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { Initializer, type ParameterDType } from './init.ts'
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

/** Of a Linear that is part of no model. */
export interface SingleLinearOptions {
  /** Standard deviation of the initial weights. Default 1 / sqrt(3 inputs). */
  readonly std?: number
  /** Default true. Begins at zero. */
  readonly bias?: boolean
  /** Default f32. */
  readonly dtype?: ParameterDType
  /** Of the weights. Default: 0 for the first such layer of a process, 1 for the second, and so on. */
  readonly seed?: number
  readonly device?: Device
}

let singles = 0

type ModelLinear = [init: Initializer, inputs: number, outputs: number, options: number | LinearOptions]
type SingleLinear = [inputs: number, outputs: number, options?: SingleLinearOptions | undefined]

const isSingle = (given: ModelLinear | SingleLinear): given is SingleLinear =>
  !(given[0] instanceof Initializer)

/** The arguments of the first form, from those of the second. */
function single([inputs, outputs, options = {}]: SingleLinear): ModelLinear {
  checkOptions('nn.Linear', options, ['std', 'bias', 'dtype', 'seed', 'device'])
  const most = 2 ** 24
  const rows = checkInteger('nn.Linear', 'outputs', outputs, 1, most)
  const columns = checkInteger('nn.Linear', 'inputs', inputs, 1, most)
  const { dtype = 'f32', device = mode.device ?? Device.default(), seed = singles++ } = options
  const { std = 1 / Math.sqrt(3 * columns), bias = true } = options
  return [new Initializer({ dtype, device, seed }), columns, rows, { std, bias }]
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

  /** As a layer of a model, whose initializer seeds all of it. */
  constructor(init: Initializer, inputs: number, outputs: number, options: number | LinearOptions)
  /** By itself: `new nn.Linear(64, 256)`. */
  constructor(inputs: number, outputs: number, options?: SingleLinearOptions)
  constructor(...given: ModelLinear | SingleLinear) {
    super()
    const [init, inputs, outputs, options] = isSingle(given) ? single(given) : given
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
