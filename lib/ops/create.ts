// Tensors from nothing, from values, and filled by a rule.

import { Device } from '../runtime/device.ts'
import { ShapeError, ValueError } from '../runtime/errors.ts'
import { checkName, shown } from '../runtime/options.ts'
import { type DType, encodeValues, itemSizes } from '../tensor/dtype.ts'
import { hooks } from '../tensor/hooks.ts'
import { checkShape, contiguousStrides, elementCount } from '../tensor/layout.ts'
import { mode } from '../tensor/mode.ts'
import { Tensor, tracked } from '../tensor/tensor.ts'
import { defineOp } from './define.ts'

const DTYPES = Object.keys(itemSizes) as DType[]

export interface CreateOptions {
  /** f32 when not said. */
  readonly dtype?: DType
  /** That of `withDevice`, else the default one. */
  readonly device?: Device
  /** Makes it a leaf that collects gradients; no scope frees it. */
  readonly requiresGrad?: boolean
}

export interface TensorOptions extends CreateOptions {
  /** One axis of `data.length` when not said; none for a number. */
  readonly shape?: readonly number[]
}

/** An uninitialised tensor. @throws ShapeError for sizes that are negative or not whole */
export function empty(shape: readonly number[], options: CreateOptions = {}): Tensor {
  checkShape('empty', shape)
  const { dtype = 'f32', device = mode.device ?? Device.default() } = options
  const storage = device.activeQueue.alloc(elementCount(shape) * itemSizes[dtype])
  const made = tracked(new Tensor(storage, shape.slice(), contiguousStrides(shape), 0, dtype))
  if (options.requiresGrad) made.requiresGrad = true
  return made
}

/**
 * A tensor of given values, copied before this returns: about 0.2 ms per megabyte on the JavaScript
 * thread. Numbers become `dtype` by rounding (bf16) or as typed arrays convert them.
 * @param data row-major
 * @throws ShapeError when the shape does not hold the values; ValueError for values that are no numbers,
 *   or whose buffer was transferred
 */
export function tensor(data: ArrayLike<number> | number, options: TensorOptions = {}): Tensor {
  const values = typeof data === 'number' ? [data] : data
  if (typeof values !== 'object' || values === null || !Number.isSafeInteger(values.length)) {
    throw new ValueError(`tensor: data must be a number or a list of numbers, received ${shown(data)}`)
  }
  const { shape = typeof data === 'number' ? [] : [values.length], dtype = 'f32' } = options
  checkShape('tensor', shape)
  if (elementCount(shape) !== values.length) {
    throw new ShapeError(`tensor: shape [${shape}] does not hold the ${values.length} values given`)
  }
  checkName('tensor', 'dtype', dtype, DTYPES)
  let bytes: Uint8Array
  try {
    bytes = encodeValues(values, dtype)
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
    // a BigInt, a symbol, a detached buffer
    throw new ValueError(`tensor: data must be numbers: ${error.message}`, { cause: error })
  }
  const made = empty(shape, options)
  made.device.activeQueue.write(made.storage, 0, bytes)
  return made
}

export const fillOp = defineOp({
  name: 'fill',
  inputs: [{ name: 'y', layout: 'any', inPlace: true }],
  outputs: [],
  attributes: ['value'],
  infer: () => [],
  primitive: true,
  differentiable: false,
})

export const iotaOp = defineOp({
  name: 'iota',
  inputs: [{ name: 'y', layout: 'any', inPlace: true }],
  outputs: [],
  attributes: ['start', 'step'],
  infer: () => [],
  primitive: true,
  differentiable: false,
})

/** Overwrites every element. Integers truncate and saturate. Not differentiable. */
export function fill(target: Tensor, value: number): void {
  fillOp([target], [value])
}

/** A tensor of one value. @throws ShapeError for sizes that are negative or not whole */
export function full(shape: readonly number[], value: number, options: CreateOptions = {}): Tensor {
  const { dtype, device, requiresGrad } = options
  const y = empty(shape, { ...(dtype && { dtype }), ...(device && { device }) })
  fill(y, value)
  if (requiresGrad) y.requiresGrad = true
  return y
}

/** A tensor of zeros. @throws ShapeError as {@link full} */
export const zeros = (shape: readonly number[], options: CreateOptions = {}): Tensor =>
  full(shape, 0, options)

/** A tensor of ones. @throws ShapeError as {@link full} */
export const ones = (shape: readonly number[], options: CreateOptions = {}): Tensor => full(shape, 1, options)

export interface IotaOptions {
  /** i32 when not said. */
  readonly dtype?: DType
  readonly device?: Device
  /** 0 when not said. */
  readonly start?: number
  /** 1 when not said. */
  readonly step?: number
}

/** start, start + step, ...: `n` of them. */
export function iota(n: number, options: IotaOptions = {}): Tensor {
  const { start = 0, step = 1, dtype = 'i32', ...rest } = options
  const y = empty([n], { dtype, ...rest })
  iotaOp([y], [start, step])
  return y
}

hooks.full = full
