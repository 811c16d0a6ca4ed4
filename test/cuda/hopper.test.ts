// The kernels for sm_90a, run by the emulator as if on such a device (its model of wgmma, tensor
// copies and mbarriers). The op matrix runs what every device has; on a GPU of compute capability 9
// it runs these.

import { describe, expect, test } from 'vitest'
import { type AttentionCase, worstOfAttention } from './attention.ts'
import { bothDevices, emulatedPlugin } from './emulated.ts'

// read when the first device is opened
process.env['FUSELM_EMULATED_COMPUTE'] = '90'
process.env['FUSELM_CUDA_WGMMA'] = '1'

const cases: readonly AttentionCase[] = [
  { name: 'two blocks of rows, D 64', T: 200, S: 200, D: 64 },
  { name: 'more keys than queries, D 128', T: 130, S: 290, D: 128 },
  { name: 'all keys, D padded to 128', T: 70, S: 140, D: 96, causal: false },
  { name: 'a window', T: 330, S: 330, D: 64, window: 90 },
  { name: 'documents', T: 260, S: 260, D: 128, first: (t) => t - (t % 77) },
  { name: 'queries that see nothing', B: 2, T: 140, S: 100, D: 64, first: (t) => (t < 70 ? 200 : 0) },
]

describe.skipIf(emulatedPlugin() === null)('kernels for sm_90a, emulated', () => {
  const both = bothDevices()

  test('the device is one of compute capability 9.0', () => {
    expect(both.cuda.name).toContain('sm_90')
  })

  test.each(cases)('attention: $name', { timeout: 120_000 }, async (c) => {
    for (const [result, worst] of Object.entries(await worstOfAttention(both, c))) {
      expect(worst, result).toBeLessThan(1)
    }
  })
})
