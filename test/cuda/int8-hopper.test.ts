// The product of int8 by int8 by wgmma, run by the emulator as if on compute capability 9.0: shapes of
// enough tiles to be taken there, with edges in M, N and K.

import { describe, expect, test } from 'vitest'
import { bothDevices, emulatedPlugin } from './emulated.ts'
import { differingRows, worstOfInt8 } from './int8.ts'

process.env['FUSELM_EMULATED_COMPUTE'] = '90' // read when the first device is opened
process.env['FUSELM_CUDA_WGMMA'] = 'forward,int8'

describe.skipIf(emulatedPlugin() === null)('int8 products on sm_90a, emulated', () => {
  const both = bothDevices()

  test.each([
    [0, { m: 1000, k: 150, n: 1004 }],
    [0, { m: 1250, k: 40, n: 2500 }], // tiles of 256 columns
    [32, { m: 1000, k: 70, n: 1003 }],
    [64, { m: 1000, k: 130, n: 1004 }],
  ] as const)('groups of %i, %o', { timeout: 120_000 }, async (group, sizes) => {
    expect(await worstOfInt8(both, 'linear_int8_dynamic', sizes, group)).toBeLessThan(1)
  })
  test('rows alone and among others', { timeout: 120_000 }, async () => {
    expect(await differingRows(both.cuda, { m: 1000, k: 140, n: 1000 }, 128, [5, 12])).toEqual([])
  })
})
