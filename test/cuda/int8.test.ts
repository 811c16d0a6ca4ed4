// Products with int8 weights that the op matrix has no shapes for: rows enough that W is widened, or that
// tiles are large; by way of one kernel or another, a row's bits are the same.

import { describe, expect, test } from 'vitest'
import { bothDevices, emulatedPlugin } from './emulated.ts'
import { differingRows, worstOfInt8 } from './int8.ts'

describe.skipIf(emulatedPlugin() === null)('int8 products, emulated', () => {
  const both = bothDevices()

  test.each([
    ['linear_int8', { m: 260, k: 72, n: 70 }, 0],
    ['linear_int8', { m: 257, k: 45, n: 33 }, 0],
    ['linear_int8', { m: 256, k: 130, n: 40 }, 64],
    ['linear_int8.dx', { m: 260, k: 72, n: 70 }, 0],
    ['linear_int8.dx', { m: 256, k: 147, n: 40 }, 32],
    ['linear_int8', { m: 20, k: 2100, n: 70 }, 0], // in slices of K
    ['linear_int8', { m: 70, k: 1601, n: 33 }, 64],
    ['linear_int8.dx', { m: 20, k: 72, n: 1290 }, 32],
    ['linear_int8_dynamic', { m: 70, k: 300, n: 90 }, 0],
    ['linear_int8_dynamic', { m: 70, k: 300, n: 91 }, 64],
    ['linear_int8_dynamic', { m: 1290, k: 150, n: 1330 }, 128],
    ['linear_int8_dynamic', { m: 1285, k: 70, n: 1297 }, 0],
  ] as const)('%s %o, groups of %i', { timeout: 120_000 }, async (product, sizes, group) => {
    expect(await worstOfInt8(both, product, sizes, group)).toBeLessThan(1)
  })
  test.each([0, 32, 64, 128])(
    'rows alone and among others, groups of %i',
    { timeout: 120_000 },
    async (group) => {
      expect(await differingRows(both.cuda, { m: 70, k: 4500, n: 40 }, group, [1, 3, 8, 9])).toEqual([])
    },
  )
})
