// Products through the library backend, with a stand-in for cuBLASLt that computes by plain loops and
// refuses what the library would (native/cuda/emulate/cublaslt.cc): layouts, transposes, accumulation,
// bias, batches, and which products go there.

import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bothDevices, emulated, emulatedPlugin } from './emulated.ts'
import { worstOfInt8 } from './int8.ts'
import { products, worstOf } from './products.ts'

const library = emulated('libcublaslt_emulated.so')

describe.skipIf(emulatedPlugin() === null || library === null)('products through cuBLASLt, emulated', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fuselm-cublaslt-'))
  const trace = join(folder, 'calls')
  beforeAll(() => {
    process.env['FUSELM_CUBLASLT'] = library ?? '' // read at the first product
    process.env['FUSELM_CUBLASLT_TRACE'] = trace
  })
  const both = bothDevices()
  afterAll(() => {
    rmSync(folder, { recursive: true })
  })
  const calls = (): number => (existsSync(trace) ? readFileSync(trace, 'utf8').split('\n').length - 1 : 0)

  const names = Object.keys(products)
  const short = { m: 24, k: 64, n: 40 }
  const long = { m: 16, k: 1032, n: 24 } // K enough for sums in a workspace
  test.each(names)('f32 %s', async (name) => {
    const before = calls()
    expect(await worstOf(both, 'f32', name, short)).toBeLessThan(1)
    if (name !== 'linear_group.dx' && name !== 'lora_linear') expect(calls() - before).toBe(1)
  })
  test.each(names)('bf16 %s', async (name) => {
    const before = calls()
    expect(await worstOf(both, 'bf16', name, long)).toBeLessThan(1)
    // a product a segment; the term of lora_linear is ours, but x A^T is the library's
    expect(calls() - before).toBe(name === 'linear_group.dx' || name === 'lora_linear' ? 2 : 1)
  })
  test.each(['linear_int8', 'linear_int8.dx'] as const)('%s by a bf16 copy of the weights', async (name) => {
    const before = calls()
    const sizes = { m: 256, k: 1040, n: 24 }
    expect(await worstOfInt8(both, name, sizes, 0)).toBeLessThan(1)
    expect(calls() - before).toBe(1)
  })
  test('rows that are not aligned stay with our kernels', async () => {
    const before = calls()
    const sizes = { m: 17, k: 63, n: 41 }
    for (const name of names) expect(await worstOf(both, 'bf16', name, sizes), name).toBeLessThan(1)
    expect(calls()).toBe(before)
  })
})
