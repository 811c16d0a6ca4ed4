#!/usr/bin/env node
// `npm run lint`: every check that needs no test run, each with its time; fails if any fails.

import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import './generate-barrels.mjs'

const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')

const checks = [
  ['format and lint', ['scripts/format.mjs', '--check']],
  ['floors', ['scripts/check-floors.mjs']],
  ['types of lib, test, bench, examples', [tsc, '-p', '.']],
  // Needs a build; CI builds first.
  ...(existsSync('build') ? [['weak symbols of kernel objects', ['scripts/check-kernels.mjs']]] : []),
  ...(existsSync('dist/index.d.ts')
    ? [
        ['published types', ['scripts/check-types.mjs']],
        // as a user has them: what is internal is not there
        ['examples on published types', [tsc, '-p', 'tsconfig.examples.json', '--noEmit']],
      ]
    : []),
]

const failed = []
for (const [name, args] of checks) {
  const start = Date.now()
  const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' })
  const seconds = ((Date.now() - start) / 1000).toFixed(1)
  console.log(`${status === 0 ? 'ok  ' : 'FAIL'} ${name} (${seconds} s)`)
  if (status !== 0) failed.push(name)
}
if (!existsSync('build/CMakeFiles'))
  console.log('left out: weak symbols of kernel objects (not built; npm run build)')
if (!existsSync('dist/index.d.ts')) console.log('left out: published types (not built; npm run build)')
if (failed.length > 0) {
  console.error(`lint: failed: ${failed.join(', ')}`)
  process.exitCode = 1
}
