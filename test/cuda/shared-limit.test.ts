// Consumer cards allow a block 99 KB of shared memory: attention, which wants the most, has to fit.
// The emulator refuses a launch that asks for more, as a device does.

import { afterAll, beforeAll, describe, test } from 'vitest'
import { Device } from '../../lib/index.ts'
import { type AttentionCase, compareAttention, emulatedPlugin } from './attention.ts'

process.env['FUSELM_CUDA_SHARED_LIMIT'] = String(99 * 1024) // read when the first device is opened
const plugin = emulatedPlugin()

const cases: readonly AttentionCase[] = [
  { name: 'D 64', T: 70, S: 70, D: 64 },
  { name: 'D 128', T: 70, S: 90, D: 128 },
  { name: 'D 256', T: 40, S: 70, D: 256 },
]

describe.skipIf(plugin === null)('99 KB of shared memory', () => {
  let cuda: Device
  let cpu: Device
  beforeAll(() => {
    cuda = Device.open({ device: 'cuda', cudaPlugin: plugin ?? '', guard: true })
    cpu = Device.open({ device: 'cpu' })
  })
  afterAll(() => {
    cuda.close()
    cpu.close()
  })

  test.each(cases)('attention: $name', { timeout: 60_000 }, (c) => compareAttention(cpu, cuda, c))
})
