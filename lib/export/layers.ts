// What the graphs of decoders have in common.
// Shapes: B batch, T new tokens, S all tokens, D hidden, H heads, G key-value heads, K head size.

import type { DecoderSize } from '../models/causal-lm.ts'
import type { Linear, RmsNorm } from '../nn/layers.ts'
import { type RotaryConfig, ropeFrequencies } from '../nn/rotary.ts'
import { Int8Weight } from '../quant/int8.ts'
import { ConfigError } from '../runtime/errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { Graph, Value } from './graph.ts'
import type { ExportDType, WeightStreams } from './weights.ts'

/** Lowest score: the most negative float of the dtype that scores are added up in. */
const MASKED = -3.4028234663852886e38

/** What every layer of one graph uses. */
export class DecoderGraph {
  readonly graph: Graph
  readonly size: DecoderSize
  /** Of activations. */
  readonly dtype: ExportDType
  readonly #weights: WeightStreams
  readonly inputIds: Value
  /** [B, T] i64 */
  readonly positions: Value
  /** [B, 1, T, S] f32: 0, or the lowest float where a token is not seen. */
  readonly #mask: Value
  /** Shape of scores by heads [B, H, T, S], and by groups of heads [B, G, H/G T, S]. */
  readonly #byHeads: Value
  readonly #byGroups: Value
  readonly #past: readonly { readonly key: Value; readonly value: Value }[]

  constructor(graph: Graph, size: DecoderSize, weights: WeightStreams) {
    this.graph = graph
    this.size = size
    this.dtype = weights.dtype
    this.#weights = weights
    const [B, T, P] = ['batch_size', 'sequence_length', 'past_sequence_length']
    const S = `${P} + ${T}`
    this.inputIds = graph.input('input_ids', 'i64', [B, T])
    const attentionMask = graph.input('attention_mask', 'i64', [B, S])
    this.positions = graph.input('position_ids', 'i64', [B, T])
    const { numKeyValueHeads: groups, headDim, numAttentionHeads: heads } = size
    this.#past = Array.from({ length: size.numHiddenLayers }, (_, layer) => {
      const make = (part: string): Value =>
        graph.input(`past_key_values.${layer}.${part}`, this.dtype, [B, groups, P, headDim])
      return { key: make('key'), value: make('value') }
    })
    const i64 = (values: number | number[]): Value => graph.constant('i64', values)
    const { mask, steps, total } = graph.at('mask', () => {
      const lengthOf = (x: Value, axis: number): Value =>
        graph.op('Shape', [x], { start: axis, end: axis + 1 })
      const steps = lengthOf(this.inputIds, 1)
      const total = lengthOf(attentionMask, 1)
      const scalar = (x: Value): Value => graph.op('Squeeze', [x, i64([0])])
      const last = scalar(total)
      const range = (from: Value): Value => graph.op('Range', [from, last, i64(1)])
      const first = graph.op('Sub', [last, scalar(steps)])
      const queries = graph.op('Unsqueeze', [range(first), i64([1])]) // [T, 1]
      const keys = range(i64(0)) // [S]
      let seen = graph.op('LessOrEqual', [keys, queries])
      if (size.slidingWindow) {
        const distance = graph.op('Sub', [queries, keys])
        seen = graph.op('And', [seen, graph.op('Less', [distance, i64(size.slidingWindow)])])
      }
      const real = graph.op('Cast', [attentionMask], { to: 9 })
      const both = graph.op('And', [seen, graph.op('Unsqueeze', [real, i64([1, 2])])])
      const f32 = (value: number): Value => graph.constant('f32', value)
      return { mask: graph.op('Where', [both, f32(0), f32(MASKED)]), steps, total }
    })
    this.#mask = mask
    this.#byHeads = graph.op('Concat', [i64([0, heads]), steps, total], { axis: 0 })
    this.#byGroups = graph.op('Concat', [i64([0, groups, -1]), total], { axis: 0 })
  }

  /** A parameter as it is. */
  weight(name: string, tensor: Tensor, options: { transposed?: boolean; dtype?: ExportDType } = {}): Value {
    return this.graph.initializer(this.#weights.initializer(name, tensor, options))
  }

  float(values: number | readonly number[], dtype: ExportDType = this.dtype): Value {
    const value = this.graph.constant('f32', values)
    return dtype === 'f32' ? value : this.graph.op('Cast', [value], { to: 10 })
  }

  /** x in float32, and back: what norms and the softmax are computed in. */
  wide(x: Value): Value {
    return this.dtype === 'f32' ? x : this.graph.op('Cast', [x], { to: 1 })
  }

  narrow(x: Value): Value {
    return this.dtype === 'f32' ? x : this.graph.op('Cast', [x], { to: 10 })
  }

  /** x W^T + b. @param name of the Linear in the model's files */
  linear(name: string, linear: Linear, x: Value): Value {
    const { source, bias } = linear
    let weight: Value
    if (source === null) weight = this.weight(`${name}.weight`, linear.weight, { transposed: true })
    else if (source instanceof Int8Weight) weight = this.#dequantized(name, source)
    else throw new ConfigError(`exportOnnx: the weights of ${name} are of a kind that is not exported`)
    const y = this.graph.op('MatMul', [x, weight])
    return bias === null ? y : this.graph.op('Add', [y, this.weight(`${name}.bias`, bias)])
  }

  #dequantized(name: string, { values, scales, group }: Int8Weight): Value {
    const quantized = this.weight(`${name}.weight_quantized`, values, { transposed: true })
    // the weight is [in, out]: a scale per column, or per block of rows in one
    const scale = this.weight(`${name}.weight_scale`, scales, { transposed: group !== 0 })
    const axes = group === 0 ? { axis: 1 } : { axis: 0, block_size: group }
    return this.graph.op('DequantizeLinear', [quantized, scale], axes)
  }

  /** x / rms(x) * w over the last axis, in float32. */
  rmsNorm(name: string, norm: RmsNorm, x: Value): Value {
    const { graph } = this
    const wide = this.wide(x)
    const square = graph.op('Pow', [wide, graph.constant('f32', 2)])
    const mean = graph.op('ReduceMean', [square, graph.constant('i64', [-1])], { keepdims: 1 })
    const root = graph.op('Sqrt', [graph.op('Add', [mean, graph.constant('f32', norm.eps)])])
    const weight = this.weight(`${name}.weight`, norm.weight, { dtype: 'f32' })
    return this.narrow(graph.op('Mul', [graph.op('Div', [wide, root]), weight]))
  }

  /** [B, T, N K] as [B, T, N, K]. */
  heads(x: Value, count: number): Value {
    return this.graph.op('Reshape', [x, this.graph.constant('i64', [0, 0, count, this.size.headDim])])
  }

  /**
   * Attention over the cache and the new tokens.
   * @param q [B, T, H, K] @param k [B, T, G, K] @param v [B, T, G, K]
   * @param options rotate: turns q and k [B, N, T, K]; scale: of scores
   * @returns [B, T, H K]
   */
  attention(
    layer: number,
    { q, k, v }: { readonly q: Value; readonly k: Value; readonly v: Value },
    options: { readonly scale: number; readonly rotate?: (x: Value) => Value },
  ): Value {
    const { graph, dtype } = this
    const { numAttentionHeads: heads, numKeyValueHeads: groups, headDim } = this.size
    const { scale, rotate = (x: Value) => x } = options
    const turned = (x: Value): Value => graph.op('Transpose', [x], { perm: [0, 2, 1, 3] })
    const past = this.#past[layer] as { key: Value; value: Value }
    const key = graph.op('Concat', [past.key, rotate(turned(k))], { axis: 2 })
    const value = graph.op('Concat', [past.value, turned(v)], { axis: 2 })
    const present = ['batch_size', groups, 'past_sequence_length + sequence_length', headDim]
    graph.output(`present.${layer}.key`, dtype, present, key)
    graph.output(`present.${layer}.value`, dtype, present, value)

    const grouped = heads !== groups
    let queries = graph.op('Mul', [rotate(turned(q)), this.float(scale)])
    if (grouped) {
      queries = graph.op('Reshape', [queries, graph.constant('i64', [0, groups, -1, headDim])])
    }
    let scores = graph.op('MatMul', [queries, graph.op('Transpose', [key], { perm: [0, 1, 3, 2] })])
    if (grouped) scores = graph.op('Reshape', [scores, this.#byHeads])
    const seen = graph.op('Add', [this.wide(scores), this.#mask])
    let shares = this.narrow(graph.op('Softmax', [seen], { axis: -1 }))
    if (grouped) shares = graph.op('Reshape', [shares, this.#byGroups])
    let mixed = graph.op('MatMul', [shares, value])
    if (grouped) mixed = graph.op('Reshape', [mixed, graph.constant('i64', [0, heads, -1, headDim])])
    return graph.op('Reshape', [turned(mixed), graph.constant('i64', [0, 0, heads * headDim])])
  }

  /** Rotary positions, half-split. @returns what turns [B, N, T, K] */
  rotary(config: RotaryConfig): (x: Value) => Value {
    const { graph } = this
    const { headDim } = this.size
    const { rotarySize } = config
    const [cos, sin] = graph.at('rotary', () => this.#angles(config))
    const half = rotarySize / 2
    const sizes = [half, half, ...(rotarySize < headDim ? [headDim - rotarySize] : [])]
    return (x) => {
      const parts = graph.ops('Split', [x, graph.constant('i64', sizes)], sizes.length, { axis: -1 })
      const [a, b, ...rest] = parts as [Value, Value, Value?]
      const product = (left: Value, right: Value): Value => graph.op('Mul', [left, right])
      const first = graph.op('Sub', [product(a, cos), product(b, sin)])
      const second = graph.op('Add', [product(b, cos), product(a, sin)])
      return graph.op('Concat', [first, second, ...(rest as Value[])], { axis: -1 })
    }
  }

  /** [B, 1, T, K/2] each. Phases are float64 modulo a turn: float32 has lost them at position 2^16. */
  #angles(config: RotaryConfig): [cos: Value, sin: Value] {
    const { graph } = this
    const f64 = (values: number | number[]): Value => graph.constant('f64', values)
    const { frequencies, factor } = this.#frequencies(config)
    const positions = graph.op('Unsqueeze', [
      graph.op('Cast', [this.positions], { to: 11 }),
      graph.constant('i64', [1, 3]),
    ])
    const phase = graph.op('Mul', [positions, frequencies])
    const turns = graph.op('Floor', [graph.op('Mul', [phase, f64(0.5 / Math.PI)])])
    const rest = graph.op('Sub', [phase, graph.op('Mul', [turns, f64(2 * Math.PI)])])
    const angle = graph.op('Cast', [rest], { to: 1 })
    const scaled = (x: Value): Value =>
      this.narrow(factor === 1 ? x : graph.op('Mul', [x, graph.constant('f32', factor)]))
    return [scaled(graph.op('Cos', [angle])), scaled(graph.op('Sin', [angle]))]
  }

  #frequencies(config: RotaryConfig): { frequencies: Value; factor: number } {
    const { graph } = this
    const { ropeScaling: scaling = null, maxPositionEmbeddings: most } = config
    const of = (length: number): Value =>
      graph.constant('f64', Array.from(ropeFrequencies(config, length).frequencies))
    const factor = ropeFrequencies(config).attentionFactor
    if (scaling?.ropeType === 'dynamic') return { frequencies: this.#dynamic(config, scaling.factor), factor }
    if (scaling?.ropeType !== 'longrope') return { frequencies: of(0), factor }
    const original = scaling.originalMaxPositionEmbeddings ?? most
    const long = graph.op('Greater', [
      graph.op('ReduceMax', [this.positions], { keepdims: 0 }),
      graph.constant('i64', original - 1),
    ])
    return { frequencies: graph.op('Where', [long, of(original + 1), of(0)]), factor }
  }
  /**
   * Frequencies whose base grows once positions pass the trained context, by all rows together; what the cache
   * holds stays as it was turned. As ropeFrequencies has them, in float64, rounded to float32.
   */
  #dynamic(
    { rotarySize: size, ropeTheta: theta, maxPositionEmbeddings: most }: RotaryConfig,
    factor: number,
  ): Value {
    const { graph } = this
    const f64 = (values: number | number[]): Value => graph.constant('f64', values)
    const last = graph.op('Cast', [graph.op('ReduceMax', [this.positions], { keepdims: 0 })], { to: 11 })
    const length = graph.op('Max', [graph.op('Add', [last, f64(1)]), f64(most)])
    const stretch = graph.op('Sub', [graph.op('Mul', [length, f64(factor / most)]), f64(factor - 1)])
    const base =
      size > 2
        ? graph.op('Mul', [graph.op('Pow', [stretch, f64(size / (size - 2))]), f64(theta)])
        : f64(theta)
    const exponents = Array.from({ length: size / 2 }, (_, i) => (-2 * i) / size)
    const waves = graph.op('Pow', [base, f64(exponents)])
    return graph.op('Cast', [graph.op('Cast', [waves], { to: 1 })], { to: 11 })
  }
}
