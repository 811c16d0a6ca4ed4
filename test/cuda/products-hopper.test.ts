// Products by wgmma and tensor copies, run by the emulator as if on compute capability 9.0: shapes of
// enough tiles to be taken there, with edges in M, N and K, operands along K and down it.

import { describe, expect, test } from 'vitest'
import { bothDevices, emulatedPlugin } from './emulated.ts'
import { worstOf } from './products.ts'

process.env['FUSELM_EMULATED_COMPUTE'] = '90' // read when the first device is opened
process.env['FUSELM_CUDA_WGMMA'] = '1'

describe.skipIf(emulatedPlugin() === null)('products on sm_90a, emulated', () => {
  const both = bothDevices()

  test.each([
    'linear',
    'linear.dx',
    'linear.dw, added',
    'linear_group.dx',
    'matmul, a transposed batch by one',
  ])('%s', { timeout: 120_000 }, async (name) => {
    expect(await worstOf(both, 'bf16', name, { m: 1000, k: 40, n: 1004 })).toBeLessThan(1)
  })
  test('tiles of 256 columns', { timeout: 120_000 }, async () => {
    expect(await worstOf(both, 'bf16', 'linear', { m: 1250, k: 24, n: 2500 })).toBeLessThan(1)
  })
})
