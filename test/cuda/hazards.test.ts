// The checked build of the CUDA kernels finds what it says: kernels with a bug each, and twins without
// (native/cuda/emulate/hazards.cc).

import { spawnSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { emulated } from './emulated.ts'

const program = emulated('fuselm_cuda_hazards')

test.skipIf(program === null)('hazards of kernels are found, and only those', () => {
  const { status, stdout } = spawnSync(program ?? '', { encoding: 'utf8' })
  expect(stdout).toMatch(/^\d+ passed, 0 failed\n$/)
  expect(status).toBe(0)
})
