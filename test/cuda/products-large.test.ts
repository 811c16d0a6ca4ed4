// Products of enough tiles of C for the large ones of mma.sync, with edges in M, N and K, operands along K and
// down it: the op matrix has none as large.

import { describe, expect, test } from 'vitest'
import { bothDevices, emulatedPlugin } from './emulated.ts'
import { worstOf } from './products.ts'

describe.skipIf(emulatedPlugin() === null)('products of many tiles, emulated', () => {
  const both = bothDevices()

  test.each(['linear', 'linear.dx', 'linear.dw, added'])('%s', { timeout: 120_000 }, async (name) => {
    expect(await worstOf(both, 'bf16', name, { m: 1283, k: 41, n: 1346 })).toBeLessThan(1)
  })
})
