#!/usr/bin/env node
// `npm run quickstart [-- arguments of the example]`: builds, then runs examples/quickstart.ts.

import { spawnSync } from 'node:child_process'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildAll, buildExamples } from './build.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const started = performance.now()
try {
  buildAll()
  buildExamples()
} catch (error) {
  console.error(`build: ${error.message}`)
  process.exit(1)
}
const buildSeconds = ((performance.now() - started) / 1000).toFixed(1)
const example = ['--enable-source-maps', 'build/examples/quickstart.js', '--build-seconds', buildSeconds]
const { status } = spawnSync(process.execPath, [...example, ...process.argv.slice(2)], {
  cwd: root,
  stdio: 'inherit',
})
process.exitCode = status ?? 1
