// Every op that was imported, by name; and what served their calls.

import type { Device } from '../runtime/device.ts'
import { ValueError } from '../runtime/errors.ts'
import type { Kernel } from '../runtime/kernel.ts'
import { profilePath, provideFlops } from '../runtime/profile.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { OpDefinition } from './spec.ts'

/** Since the start, or the last resetOpStats. */
export interface OpStats {
  /** Calls served by a kernel. */
  kernel: number
  /** Calls served by the reference. */
  reference: number
  /** Dense copies inserted because an input did not have the layout that the kernel takes. */
  copies: number
  /** Floating-point operations enqueued, while profiling. */
  flops: number
}

/** An op with its types erased: what the registry hands out. */
export interface OpRecord {
  (
    inputs: readonly (Tensor | null)[],
    attributes?: readonly (number | boolean)[],
    groups?: readonly (readonly (Tensor | null)[])[],
  ): readonly (Tensor | null)[]
  readonly definition: OpDefinition
  /** The text kernels are registered under. */
  readonly signature: string
  /** How messages name it. */
  readonly label: string
  readonly stats: OpStats
  /** @internal Whose values the node keeps. */
  readonly savesAt: {
    readonly inputs: readonly boolean[]
    readonly group: readonly boolean[]
    readonly outputs: readonly boolean[]
  }
  /** @internal The device of `kernel`, the one looked up last. */
  device: Device | null
  /** @internal */
  kernel: Kernel | undefined
}

const ops = new Map<string, OpRecord>()

/** @internal Whether calls count their flops. */
export const profiling = { on: profilePath() !== undefined }

/** @internal */
export function registerOp(op: OpRecord): void {
  const { name } = op.definition
  if (ops.has(name)) throw new ValueError(`defineOp: two ops are named '${name}'`)
  ops.set(name, op)
}

/** Every op whose file was imported (lib/ops/index.ts imports all), by name. */
export function registeredOps(): ReadonlyMap<string, OpRecord> {
  return ops
}

/** What served the calls of each op, by name. */
export function opStats(): Map<string, Readonly<OpStats>> {
  return new Map([...ops].map(([name, { stats }]) => [name, { ...stats }]))
}

provideFlops(() => new Map([...ops].map(([name, { stats }]) => [name, stats.flops])))

export function resetOpStats(): void {
  for (const { stats } of ops.values()) {
    stats.kernel = 0
    stats.reference = 0
    stats.copies = 0
    stats.flops = 0
  }
}
