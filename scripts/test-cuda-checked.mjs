#!/usr/bin/env node
// `npm run test:cuda-checked [-- --quick] [-- op ...]`: the CUDA kernels on the CPU under a sanitizer
// (native/cuda/emulate/check.h): races within and between blocks, reads of what nobody wrote, bounds,
// copies and products not waited for. The op matrix as on a card of compute capability 8.0 and of 9.0
// with the kernels for it, then in drawn orders of blocks, warps and lanes, then test/cuda. --quick:
// what CI runs.

import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildAll } from './build.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const ops = process.argv.slice(2)
const quick = ops[0] === '--quick'
if (quick) ops.shift()

// An op or two of every way that kernels share memory.
const QUICK = 'softmax,rms_norm,linear,linear_int8,sample,top_k,cumsum,embedding'

const build = join(root, 'build/cuda-emulated')
const checked = { FUSELM_CUDA_PLUGIN: join(build, 'libfuselm_cuda_checked.so') }
const hopper = { FUSELM_EMULATED_COMPUTE: '90', FUSELM_CUDA_WGMMA: '1' }
/** Not checked, for speed: the second device runs threads in drawn orders, and results must be bitwise the first's. */
const drawn = (seed) => ({
  FUSELM_CUDA_PLUGIN: join(build, 'libfuselm_cuda_emulated.so'),
  FUSELM_EMULATED_DEVICES: '2',
  FUSELM_EMULATED_SCHEDULE: String(seed),
})
const matrix = (env) => ({
  files: ['test/ops/matrix.test.ts'],
  env: { FUSELM_LEVELS: 'cuda', FUSELM_OPS: quick ? QUICK : ops.join(','), ...env },
})
const runs = quick
  ? [matrix(checked), { files: ['test/cuda/shared-limit.test.ts', 'test/cuda/hopper.test.ts'], env: checked }]
  : [matrix(checked), matrix({ ...checked, ...hopper }), ...[1, 2, 3].map((seed) => matrix(drawn(seed)))]
if (!quick && ops.length === 0) {
  const files = ['device', 'hopper', 'int8', 'products', 'shared-limit'].map((name) => `test/cuda/${name}`)
  runs.push({ files, env: checked })
}

try {
  buildAll(['--cuda-emulated', '--cuda-checked'])
} catch (error) {
  console.error(`build: ${error.message}`)
  process.exit(1)
}
const vitest = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs')
for (const { files, env } of runs) {
  const { status } = spawnSync(process.execPath, [vitest, 'run', '--testTimeout', '600000', ...files], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
  })
  if (status !== 0) process.exitCode = 1
}
