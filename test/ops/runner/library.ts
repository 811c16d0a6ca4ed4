// The one file of the runner that touches the library, so that the rest says what is checked and this
// says how it is called.

import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import {
  cudaStatus,
  Device,
  ISA_LEVELS,
  type IsaLevel,
  scope,
  withDevice,
  withReference,
} from '../../../lib/index.ts'
import { add, mul } from '../../../lib/ops/binary.ts'
import { tensor } from '../../../lib/ops/create.ts'
import { sum } from '../../../lib/ops/reduce.ts'
import { type OpRecord, registeredOps } from '../../../lib/ops/registry.ts'
import type { DType } from '../../../lib/tensor/dtype.ts'
import { isFloat } from '../../../lib/tensor/dtype.ts'
import type { Tensor } from '../../../lib/tensor/tensor.ts'
import type { CaseDType, InputSpec } from '../cases.ts'

export type { IsaLevel }
export type Dev = Device
export type Ten = Tensor
/** An op as the matrix calls it: by position, its types erased. */
export type AnyOp = OpRecord

export type KernelVariantCount = {
  readonly level: string
  readonly dtypes: number
  readonly executions: number
}
export type KernelCount = {
  readonly signature: string
  readonly executions: number
  readonly variants: readonly KernelVariantCount[]
}

export const isFloating = (dtype: DType): boolean => isFloat(dtype)

/** Levels this machine can run, generic first. */
export function machineLevels(): IsaLevel[] {
  using probe = Device.open()
  const best = probe.machineLevel
  return ISA_LEVELS.slice(0, ISA_LEVELS.indexOf(best) + 1)
}

/** Buffers of a guarded device end at an inaccessible page and begin as NaN. */
export function openDevice(options: { isa: IsaLevel; threads: number; guard: boolean }): Device {
  const device = Device.open(options)
  if (device.isa !== options.isa) throw new Error(`asked for ${options.isa}, the device runs ${device.isa}`)
  return device
}

/** The CUDA kernels compiled for the CPU (native/cuda/emulate), for machines without a GPU. */
const EMULATED = fileURLToPath(
  new URL('../../../build/cuda-emulated/libfuselm_cuda_emulated.so', import.meta.url),
)

/** The plugin whose kernels are tested here: that of a GPU, else the emulated one; or why there is none. */
export function cudaPlugin(): { level: string; plugin: string } | { reason: string } {
  const real = cudaStatus()
  if (real.available) return { level: 'cuda', plugin: real.pluginPath }
  if (existsSync(EMULATED)) return { level: 'cuda-emulated', plugin: EMULATED }
  return { reason: `${real.reason}, and ${EMULATED} is not built (npm run build:cuda-emulated)` }
}

/**
 * Buffers begin as NaN, and, emulated, end at an inaccessible page.
 * @param other where FUSELM_EMULATED_SCHEDULE is set, the device whose threads run in a drawn order
 */
export function openCuda(plugin: string, other = false): Device {
  const drawn = other && process.env['FUSELM_EMULATED_SCHEDULE'] !== undefined
  return Device.open({ device: drawn ? 'cuda:1' : 'cuda', cudaPlugin: plugin, guard: true })
}

export function closeDevice(device: Device): void {
  device.close()
}

export function kernelCounts(device: Device): readonly KernelCount[] {
  return device.kernels()
}

export function liveStorages(device: Device): number {
  return device.memory().liveStorages
}

type TensorOptions = {
  readonly shape: readonly number[]
  readonly dtype: CaseDType | DType
  readonly strides?: InputSpec['strides'] | undefined
  readonly requiresGrad?: boolean
}

/** A tensor of the given values (row-major) in the storage order that `strides` asks for. */
export function makeTensor(
  device: Device,
  values: ArrayLike<number>,
  { shape, dtype, strides, requiresGrad = false }: TensorOptions,
): Tensor {
  const result =
    strides === undefined || shape.length === 0
      ? tensor(values, { shape, dtype, device })
      : strided(device, values, shape, dtype, strides)
  if (requiresGrad) result.requiresGrad = true
  return result
}

const PADDING = 3

function strided(
  device: Device,
  values: ArrayLike<number>,
  shape: readonly number[],
  dtype: DType,
  strides: 'padded' | 'transposed',
): Tensor {
  const columns = shape.at(-1) ?? 1
  const outer = shape.slice(0, -1)
  if (strides === 'padded') {
    const width = columns + PADDING
    const rows = columns === 0 ? 0 : values.length / columns
    const padding = isFloat(dtype) ? Number.NaN : 1
    const padded = new Float64Array(rows * width).fill(padding)
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++) padded[r * width + c] = values[r * columns + c] ?? 0
    const whole = tensor(
      columns === 0 ? new Float64Array(outer.reduce((n, d) => n * d, 1) * width) : padded,
      { shape: [...outer, width], dtype, device },
    )
    return viewOf(whole, whole.slice(-1, 0, columns))
  }
  if (shape.length < 2) throw new Error('transposed strides need two axes')
  const rows = outer.at(-1) ?? 1
  const size = rows * columns
  const swapped = new Float64Array(values.length)
  for (let i = 0; i < values.length; i++) {
    const within = i % size
    swapped[i - within + (within % columns) * rows + Math.floor(within / columns)] = values[i] ?? 0
  }
  const whole = tensor(swapped, { shape: [...outer.slice(0, -1), columns, rows], dtype, device })
  return viewOf(whole, whole.transpose())
}

/** The view alone, as a leaf; its storage lives on in it. */
function viewOf(whole: Tensor, view: Tensor): Tensor {
  const leaf = view.detach()
  view.dispose()
  whole.dispose()
  return leaf
}

/** Values in row-major order, float64. */
export async function readTensor(t: Tensor): Promise<Float64Array> {
  return Float64Array.from(await t.toArray())
}

/** Names of the ops whose reference served a call while `body` ran. */
export function servedByReference(body: () => void): string[] {
  const before = new Map([...registeredOps()].map(([name, { stats }]) => [name, stats.reference]))
  body()
  return [...registeredOps()]
    .filter(([name, { stats }]) => stats.reference > (before.get(name) ?? 0))
    .map(([name]) => name)
}

/** Runs `body` on a device, by kernels or by references; frees what it made and does not return. */
export function withReferenceOn<T>(device: Device, reference: boolean, body: () => T): T {
  return scope(() => withDevice(device, () => (reference ? withReference(body) : body())))
}

/** Backpropagates all outputs, in one pass. */
export function backwardAll(outputs: readonly Tensor[], dys: readonly Tensor[]): void {
  const [output, ...more] = outputs
  const [dy] = dys
  if (output === undefined || dy === undefined) return
  if (more.length === 0) {
    output.backward(dy)
    return
  }
  let total: Tensor | null = null
  outputs.forEach((y, i) => {
    const weighted = sum(mul(y, dys[i] as Tensor))
    total = total === null ? weighted : add(total, weighted)
  })
  ;(total as Tensor | null)?.backward()
}

/** An op that says it is meant to have no kernel. */
export function isReferenceOnly(name: string): boolean {
  const definition = registeredOps().get(name)?.definition
  return definition !== undefined && 'referenceOnly' in definition && definition.referenceOnly === true
}
