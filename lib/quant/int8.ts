// int8 weights in the place of a Linear's dense ones.

import { Linear, WeightSource } from '../nn/layers.ts'
import { constant, type Module } from '../nn/module.ts'
import type { StoredTensor } from '../nn/weight-format.ts'
import type { Int8Operand } from '../ops/linear_int8.ts'
import { dequantizeInt8, type Int8Matrix, quantizeInt8 } from '../ops/quantize_int8.ts'
import { ConfigError } from '../runtime/errors.ts'
import { type DType, itemSizes } from '../tensor/dtype.ts'
import { noGrad } from '../tensor/mode.ts'
import type { Tensor } from '../tensor/tensor.ts'

export interface Int8WeightOptions {
  /** Elements of a row of weights that share a scale: 32, 64 or 128, or 0 (default): the whole row. */
  readonly group?: number
  /**
   * `'float'` (default): activations are multiplied as they are. `'int8'`: they are quantised, too: faster
   * for many rows, for inference alone, and less accurate where single channels are outliers.
   */
  readonly activations?: 'float' | 'int8'
}

/** Quantised weights of one Linear: 1 byte each, and 4 per row or group. They are not trained. */
export class Int8Weight extends WeightSource {
  /** i8 [out, in] */
  readonly values: Tensor
  /** f32 [out], or [out, ceil(in / group)] */
  readonly scales: Tensor
  readonly group: number
  readonly activations: 'float' | 'int8'

  /**
   * @param weight [out, in] f32 | bf16, to quantise; it stays the caller's. Or values and scales that are
   *   int8 already: they become this one's, and have the group
   */
  constructor(weight: Tensor | Int8Matrix, { group = 0, activations = 'float' }: Int8WeightOptions = {}) {
    super()
    const matrix = 'values' in weight ? weight : noGrad(() => quantizeInt8(weight, { group }))
    this.values = constant(matrix.values)
    this.scales = constant(matrix.scales)
    this.group = matrix.group
    this.activations = activations
  }

  override get format(): string {
    return 'compressed-tensors'
  }

  override stored(): ReadonlyMap<string, StoredTensor> {
    const [rows = 0] = this.values.shape
    const shape = this.group === 0 ? [rows, 1] : this.scales.shape
    return new Map<string, StoredTensor>([
      ['weight', { tensor: this.values }],
      ['weight_scale', { tensor: this.scales, shape }],
    ])
  }

  override operand(bias: Tensor | null): Int8Operand {
    const { values, scales, group, activations } = this
    return { kind: 'int8', values, scales, group, activations, bias }
  }

  /** The weights that the int8 values stand for, as a new tensor. */
  dequantize({ dtype = 'f32' }: { readonly dtype?: DType } = {}): Tensor {
    return dequantizeInt8(this, { dtype })
  }
}

export interface QuantizeOptions extends Int8WeightOptions {
  /** Which Linears, by path (`model.layers.0.selfAttn.qProj`); all when left out. */
  readonly include?: (path: string) => boolean
}

export interface QuantizeReport {
  /** Paths of the Linears that were quantised. */
  readonly linears: readonly string[]
  /** Of their weights. */
  readonly bytesBefore: number
  readonly bytesAfter: number
}

/**
 * Puts int8 weights in the place of the dense ones of every Linear in a module, in place; the dense ones
 * are freed. Embeddings (and an output layer tied to one) and biases stay as they are. The model then trains
 * through its adapters only: nothing else of these Linears has a gradient.
 * @throws ConfigError when there is nothing to quantise; ValueError for another group
 */
export function quantizeLinears(module: Module, options: QuantizeOptions = {}): QuantizeReport {
  const { include = () => true, ...weights } = options
  const linears: string[] = []
  let bytesBefore = 0
  let bytesAfter = 0
  for (const [path, found] of module.namedModules()) {
    if (!(found instanceof Linear) || found.source !== null || !include(path)) continue
    const { size, dtype } = found.weight
    const source = new Int8Weight(found.weight, weights)
    linears.push(path)
    bytesBefore += size * itemSizes[dtype]
    bytesAfter += source.values.size + 4 * source.scales.size
    found.replaceWeight(source)
  }
  if (linears.length === 0) throw new ConfigError('quantizeLinears: the module has no Linear to quantise')
  return { linears, bytesBefore, bytesAfter }
}
