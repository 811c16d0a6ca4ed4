#!/usr/bin/env node
// `npm run quickstart [-- arguments of the example]`: builds, then runs examples/quickstart.ts.

import { spawnSync } from 'node:child_process'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildAll, buildExamples } from './build.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
try {
  buildAll()
  buildExamples()
} catch (error) {
  console.error(`build: ${error.message}`)
  process.exit(1)
}
const args = ['--enable-source-maps', 'build/examples/quickstart.js', ...process.argv.slice(2)]
const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' })
process.exitCode = status ?? 1
