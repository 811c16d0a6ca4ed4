// A device behind the plugin: memory, order, failure and cancelling, with the emulated kernels where
// there is no GPU. What each kernel computes is the op matrix's business.

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  AbortError,
  Device,
  noGrad,
  OutOfMemoryError,
  ops,
  type Tensor,
  tensor,
  withDevice,
  withQueue,
  zeros,
} from '../../lib/index.ts'
import { cudaPlugin } from '../ops/runner/library.ts'
import { LIMITS, parity } from './parity.ts'

const cuda = cudaPlugin()
const plugin = 'plugin' in cuda ? cuda.plugin : ''

test.skipIf('plugin' in cuda)('without a plugin the reason is said', () => {
  expect(() => Device.open({ device: 'cuda' })).toThrow(/no CUDA device: .+/)
  using device = Device.open({ device: 'auto' })
  expect(device.kind).toBe('cpu')
})

describe.skipIf(!('plugin' in cuda))(`CUDA device (${'level' in cuda ? cuda.level : ''})`, () => {
  let device: Device
  beforeAll(() => {
    device = Device.open({ device: 'cuda', cudaPlugin: plugin })
  })
  afterAll(() => {
    device.close()
  })
  const on = <T>(body: () => T): T => withDevice(device, () => noGrad(body))

  test('names itself, its kind and its kernels', () => {
    expect(device.kind).toBe('cuda')
    expect(device.name.length).toBeGreaterThan(0)
    expect(device.kernel('add(a, b) -> (y)')?.level).toMatch(/^cuda/)
    using auto = Device.open({ device: 'auto', cudaPlugin: plugin })
    expect(auto.kind).toBe('cuda')
  })

  test('a device that is not there is named', () => {
    expect(() => Device.open({ device: 'cuda:99', cudaPlugin: plugin })).toThrow(/no CUDA device 99/)
    expect(() => Device.open({ device: 'gpu' as 'cuda' })).toThrow(/must be one of auto, cpu, cuda/)
  })

  test('data goes there and comes back; memory returns to where it was', async () => {
    const before = device.memory().liveBuffers
    const a = tensor(
      Float32Array.from({ length: 3_000_000 }, (_, i) => i % 1000),
      { device },
    )
    const sum = on(() => ops.add(a, a))
    const values = await sum.toArray()
    expect(values[2_999_999]).toBe((2_999_999 % 1000) * 2)
    a.dispose()
    sum.dispose()
    await device.sync()
    expect(device.memory().liveBuffers).toBe(before)
  })

  test('queues wait for each other where they share a tensor', async () => {
    const other = device.createQueue({ priority: 3 })
    let x: Tensor = tensor(new Float32Array(4096).fill(1), { device })
    for (let i = 0; i < 12; i++) {
      const y = on(() => (i % 2 === 0 ? withQueue(other, () => ops.add(x, x)) : ops.add(x, x)))
      x.dispose()
      x = y
    }
    expect((await x.toArray())[4095]).toBe(4096)
    x.dispose()
  })

  test('a failed command poisons what depends on it, and the device goes on', async () => {
    const x = tensor(new Float32Array(64).fill(2), { device })
    await device.sync() // what stands before it must not be the one that fails
    device.failAllocation(1)
    const lost = on(() => ops.add(x, x))
    const after = on(() => ops.add(lost, x))
    await expect(after.toArray()).rejects.toThrow(OutOfMemoryError)
    const fine = on(() => ops.add(x, x))
    expect((await fine.toArray())[63]).toBe(4)
    for (const t of [x, lost, after, fine]) t.dispose()
    await device.sync().catch(() => undefined)
  })

  test('memory past the limit is OutOfMemoryError with byte counts', async () => {
    using small = Device.open({ device: 'cuda', cudaPlugin: plugin, memoryLimit: 80 * 2 ** 20 })
    const big = withDevice(small, () => zeros([64 * 2 ** 20]))
    await expect(big.toArray()).rejects.toThrow(/asked for 268435456 bytes.*limit 83886080/)
    const little = withDevice(small, () => zeros([8]))
    expect([...(await little.toArray())]).toEqual(new Array(8).fill(0))
    big.dispose()
    little.dispose()
  })

  test('what an owner enqueued is drained', async () => {
    const owner = device.newOwner()
    const gate = device.createQueue()
    const x = tensor(new Float32Array(16).fill(1), { device })
    const y = on(() => withQueue(gate, () => gate.withOwner(owner, () => ops.add(x, x))))
    device.cancel(owner)
    // Either it had run, or it says why it did not.
    const settled = await y.toArray().then(
      (values) => values[0],
      (error: unknown) => error,
    )
    expect(settled === 2 || settled instanceof AbortError).toBe(true)
    x.dispose()
    y.dispose()
  })

  test('closing with work queued frees everything', () => {
    const passing = Device.open({ device: 'cuda', cudaPlugin: plugin, memoryLimit: 2 ** 31 })
    const x = tensor(new Float32Array(1 << 20).fill(1), { device: passing })
    for (let i = 0; i < 50; i++) withDevice(passing, () => noGrad(() => ops.add(x, x))).dispose()
    passing.close()
    expect(passing.closed).toBe(true)
  })

  for (const dtype of ['f32', 'bf16'] as const) {
    test(`6 training steps in ${dtype} follow the CPU's`, { timeout: 120_000 }, async () => {
      const { cpu, worst, served } = await parity(plugin, dtype, 6)
      expect(served).toEqual([])
      expect(cpu.at(-1)).toBeLessThan(cpu[0] ?? 0)
      expect(worst).toBeLessThanOrEqual(LIMITS[dtype])
    })
  }
})
