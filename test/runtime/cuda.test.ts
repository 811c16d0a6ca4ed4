// The plugin's absence and a machine without a GPU are answers, not failures.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { cudaStatus } from '../../lib/runtime/cuda.ts'

test('a plugin that is not there is named', () => {
  const status = cudaStatus({ pluginPath: '/nowhere/libfuselm_cuda.so' })
  expect(status).toMatchObject({ available: false, build: undefined, devices: [] })
  expect(status.reason).toContain(
    'the CUDA plugin is not installed (/nowhere/libfuselm_cuda.so: no such file); npm install fuselm-cuda',
  )
})

test('a file that is no plugin is named', () => {
  const status = cudaStatus({ pluginPath: join(import.meta.dirname, 'cuda.test.ts') })
  expect(status).toMatchObject({ available: false, build: undefined })
  expect(status.reason).toMatch(/^the CUDA plugin could not be opened: .*cuda\.test\.ts/)
})

const plugin = join(import.meta.dirname, '../../build/Release/libfuselm_cuda.so')
describe.skipIf(!existsSync(plugin))('the built plugin', () => {
  test('is found beside the addon, and has devices or says why not', () => {
    const status = cudaStatus()
    expect(status.pluginPath).toBe(plugin)
    expect(status.build).toMatch(/^CUDA \d+\.\d+/)
    if (status.available) expect(status.devices[0]?.computeCapability).toMatch(/^\d+\.\d$/)
    else expect(status.reason).toMatch(/^(no NVIDIA driver|the NVIDIA driver|.* has compute capability)/)
  })
})
