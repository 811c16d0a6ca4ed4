// Weights of Linears that are not dense, in a model's folder: what reads and writes them. A format is
// known by its own file, which registers it; models know none.

import type { SafetensorsEntry } from '../io/safetensors.ts'
import type { Uploader } from '../io/upload.ts'
import type { Device } from '../runtime/device.ts'
import { ConfigError } from '../runtime/errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { Linear, WeightSource } from './layers.ts'

/** A tensor as a file has it. */
export interface StoredTensor {
  readonly tensor: Tensor
  /** In the file, where it differs from the tensor's. */
  readonly shape?: readonly number[]
}

/** Where tensors are read from. */
export interface WeightFile {
  /** To name in errors that are no single tensor's. */
  readonly path: string
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>
  /** The file that has a tensor. */
  fileOf(name: string): string
  /** Fills `target` with bytes of a tensor, from byte `begin` of them. */
  readPart(name: string, begin: number, target: Uint8Array): Promise<void>
}

/** A Linear, and how files hold its matrix. */
export interface FiledLinear {
  readonly linear: Linear
  /** As [in, out] (Hugging Face's Conv1D). */
  readonly transposed: boolean
}

/** Reads the weights of one folder's Linears. */
export interface WeightReader {
  /** Ends of names, beside `weight`, that belong to them. */
  readonly suffixes: readonly string[]
  /**
   * The weights of a Linear; null when the file has dense ones.
   * @param place `nameOf`: the file's name of the tensor that ends so; undefined when there is none. `shape`:
   *   [out, in]; `transposed`: the file has [in, out]
   * @throws FormatError naming file and tensor
   */
  read(place: {
    readonly file: WeightFile
    readonly uploader: Uploader
    readonly nameOf: (suffix: string) => string | undefined
    readonly shape: readonly number[]
    readonly transposed: boolean
    readonly device: Device
  }): Promise<WeightSource | null>
}

export interface WeightFormat {
  /** `quant_method` of config.json's `quantization_config`. */
  readonly method: string
  /** @throws ConfigError naming what it cannot read */
  reader(config: ReadonlyMap<string, unknown>): WeightReader
  /**
   * `quantization_config` of a model.
   * @param linears by their names in files, all of this format
   * @param dense names of the model's other Linears
   * @throws ConfigError for weights that it cannot hold
   */
  config(linears: ReadonlyMap<string, FiledLinear>, dense: readonly string[]): Record<string, unknown>
}

const formats = new Map<string, WeightFormat>()

export function registerWeightFormat(format: WeightFormat): WeightFormat {
  formats.set(format.method, format)
  return format
}

/** @throws ConfigError naming the methods there are */
export function weightFormat(method: unknown): WeightFormat {
  const format = typeof method === 'string' ? formats.get(method) : undefined
  if (format !== undefined) return format
  throw new ConfigError(
    `config.json: quantization_config.quant_method must be one of ${[...formats.keys()].sort().join(', ')}, received ${JSON.stringify(method) ?? 'none'}`,
  )
}
