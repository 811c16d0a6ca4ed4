// Consumer cards allow a block 99 KB of shared memory: attention, which wants the most, has to fit.
// The emulator refuses a launch that asks for more, as a device does.

import { describe, expect, test } from 'vitest'
import { type AttentionCase, worstOfAttention } from './attention.ts'
import { bothDevices, emulatedPlugin } from './emulated.ts'

process.env['FUSELM_CUDA_SHARED_LIMIT'] = String(99 * 1024) // read when the first device is opened

const cases: readonly AttentionCase[] = [
  { name: 'D 64', T: 70, S: 70, D: 64 },
  { name: 'D 128', T: 70, S: 90, D: 128 },
  { name: 'D 256', T: 40, S: 70, D: 256 },
]

describe.skipIf(emulatedPlugin() === null)('99 KB of shared memory', () => {
  const both = bothDevices()

  test.each(cases)('attention: $name', { timeout: 60_000 }, async (c) => {
    for (const [result, worst] of Object.entries(await worstOfAttention(both, c))) {
      expect(worst, result).toBeLessThan(1)
    }
  })
})
