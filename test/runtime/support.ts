// Raw tensors for tests of the runtime itself: no lib/tensor, no lib/ops.
import { Device, type DeviceOptions } from '../../lib/runtime/device.ts'
import type { Kernel } from '../../lib/runtime/kernel.ts'
import type { Queue } from '../../lib/runtime/queue.ts'
import type { Storage, TensorArg } from '../../lib/runtime/storage.ts'

/** Code of f32 in the command format. */
export const F32 = 1

export interface Raw extends TensorArg {
  readonly storage: Storage
}

export function raw(queue: Queue, shape: readonly number[], forKernel?: Kernel): Raw {
  const strides = shape.map((_, d) => shape.slice(d + 1).reduce((a, b) => a * b, 1))
  const count = shape.reduce((a, b) => a * b, 1)
  return { storage: queue.alloc(count * 4, forKernel?.code), dtypeCode: F32, offset: 0, shape, strides }
}

export function kernel(device: Device, signature: string): Kernel {
  const found = device.kernel(signature)
  if (found === undefined) throw new Error(`no kernel ${signature}`)
  return found
}

export function full(queue: Queue, shape: readonly number[], value: number): Raw {
  const fill = kernel(queue.device, 'fill(y!) [value]')
  const y = raw(queue, shape, fill)
  queue.enqueue(fill, [y], [value])
  return y
}

export function add(queue: Queue, a: Raw, b: Raw, shape = a.shape): Raw {
  const sum = kernel(queue.device, 'add(a, b) -> (y)')
  const y = raw(queue, shape, sum)
  queue.enqueue(sum, [a, b, y], [])
  return y
}

/** [n, n] by [n, n]: the way to keep the executor busy. */
export function matmul(queue: Queue, a: Raw, b: Raw): Raw {
  const y = raw(queue, [a.shape[0] ?? 0, b.shape[1] ?? 0])
  queue.enqueue(kernel(queue.device, 'matmul(a, b) -> (y)'), [a, b, y], [])
  return y
}

export function copyInto(queue: Queue, target: Raw, source: Raw): void {
  queue.enqueue(kernel(queue.device, 'copy_into(target!, source)'), [target, source], [])
}

export async function values(queue: Queue, x: Raw): Promise<number[]> {
  return [...new Float32Array(await queue.read(x.storage, 0, x.storage.bytes))]
}

export async function rejection(promise: Promise<unknown>): Promise<{ code: string; message: string }> {
  try {
    await promise
  } catch (error) {
    return error as { code: string; message: string }
  }
  throw new Error('expected a rejection')
}

/** Opens a device for one test and closes it afterwards, checking that nothing is left. */
export async function withDevice(
  options: DeviceOptions,
  body: (device: Device) => Promise<void>,
): Promise<void> {
  const device = Device.open(options)
  try {
    await body(device)
    await device.sync()
    const { liveStorages, liveBuffers, liveBytes } = device.memory()
    if (liveStorages + liveBuffers + liveBytes !== 0) {
      throw new Error(`left behind: ${liveStorages} storages, ${liveBuffers} buffers, ${liveBytes} bytes`)
    }
  } finally {
    device.close()
  }
}
