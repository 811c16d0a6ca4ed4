// How parameters begin. Values are drawn on the device; call n of a seed is parameter n, so a model
// is the same for a seed on any device and number of threads.

import { ones, zeros } from '../ops/create.ts'
import { randn } from '../ops/normal.ts'
import { randomKey } from '../ops/random.ts'
import { Device, type DeviceName } from '../runtime/device.ts'
import { ConfigError } from '../runtime/errors.ts'
import type { DType } from '../tensor/dtype.ts'
import { scope } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { parameter } from './module.ts'

export type ParameterDType = 'f32' | 'bf16' | 'f64'

export interface InitOptions {
  readonly device: Device | DeviceName
  readonly seed: number
  /** Of matrices. Vectors (norms, biases) are f32, or f64 beside f64 matrices. */
  readonly dtype: ParameterDType
  /** Weights of Linears have shape and dtype but no memory, until a loader gives them. Default false. */
  readonly deferLinears?: boolean | undefined
  /** Most elements of all parameters that have memory. Default no limit. */
  readonly mostElements?: number | undefined
  /** The last Linear of each residual branch begins at zero. Default false. */
  readonly zeroResiduals?: boolean | undefined
  /** Of token embeddings. Default: what the model says. */
  readonly embeddingStd?: number | undefined
}

/** Hands out the initial parameters of one model, in order. */
export class Initializer {
  readonly device: Device
  readonly dtype: ParameterDType
  readonly #seed: number
  readonly #deferLinears: boolean
  readonly #mostElements: number
  readonly #zeroResiduals: boolean
  readonly #embeddingStd: number | undefined
  /** Freed when the model turns out to be too large; its constructor ends then, and nobody else has them. */
  readonly #made: Tensor[] = []
  #elements = 0
  #call = 0

  constructor(options: InitOptions) {
    const { device, seed, dtype, deferLinears = false, zeroResiduals = false, embeddingStd } = options
    const { mostElements = Infinity } = options
    if (embeddingStd !== undefined && !(embeddingStd > 0 && Number.isFinite(embeddingStd))) {
      throw new ConfigError(`embeddingStd must be a number above 0, received ${embeddingStd}`)
    }
    this.device = Device.of(device)
    this.dtype = dtype
    this.#seed = seed
    this.#deferLinears = deferLinears
    this.#mostElements = mostElements
    this.#zeroResiduals = zeroResiduals
    this.#embeddingStd = embeddingStd
  }

  get vectorDType(): DType {
    return this.dtype === 'f64' ? 'f64' : 'f32'
  }

  /** N(0, std^2). */
  normal(shape: readonly number[], std: number): Tensor {
    this.#reserve(shape)
    const key = randomKey(this.#seed, { call: this.#call++, device: this.device })
    const values = randn(shape, key, { dtype: this.dtype, std })
    key.dispose()
    return this.#hand(values)
  }

  /** Weights of a Linear: N(0, std^2), or one zero seen everywhere when they are deferred. */
  linear(shape: readonly number[], std: number): Tensor {
    if (!this.#deferLinears) return this.normal(shape, std)
    const { dtype, device } = this
    return this.#hand(scope(() => zeros([1, 1], { dtype, device }).expand(shape)))
  }

  /** Standard deviation of the last Linear of a residual branch, where it would be `std`. */
  residualStd(std: number): number {
    return this.#zeroResiduals ? 0 : std
  }

  /** Standard deviation of the token embedding, where the model says `std`. */
  embeddingStd(std: number): number {
    return this.#embeddingStd ?? std
  }

  /** A vector of zeros: a bias. */
  zeros(size: number): Tensor {
    this.#reserve([size])
    return this.#hand(zeros([size], { dtype: this.vectorDType, device: this.device }))
  }

  /** A vector of ones. */
  ones(size: number): Tensor {
    this.#reserve([size])
    return this.#hand(ones([size], { dtype: this.vectorDType, device: this.device }))
  }

  #hand(tensor: Tensor): Tensor {
    this.#made.push(tensor)
    return parameter(tensor)
  }

  #reserve(shape: readonly number[]): void {
    this.#elements += shape.reduce((product, size) => product * size, 1)
    if (this.#elements <= this.#mostElements) return
    for (const tensor of this.#made) tensor.dispose()
    throw new ConfigError(
      `config.json: expected a model of at most the ${this.#mostElements} elements that its files hold, ` +
        `found one with more, the last of shape [${shape}]`,
    )
  }
}
