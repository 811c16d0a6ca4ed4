#!/usr/bin/env node
// `npm test [-- vitest arguments]`: builds what is missing, then runs vitest.
//   --crash [--times N]   only the ways a process can end, N random moments each (default 3)

import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildAll } from './build.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const args = process.argv.slice(2)
const env = { ...process.env }

function take(name, hasValue) {
  const at = args.indexOf(name)
  if (at < 0) return undefined
  return args.splice(at, hasValue ? 2 : 1).at(-1)
}

const times = take('--times', true)
if (times !== undefined) env.FUSELM_CRASH_TIMES = times
if (take('--crash', false)) args.unshift('test/crash')

try {
  buildAll(['--cuda-emulated'])
} catch (error) {
  console.error(`build: ${error.message}`)
  process.exit(1)
}
const vitest = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs')
const { status } = spawnSync(process.execPath, [vitest, 'run', ...args], { cwd: root, stdio: 'inherit', env })
process.exitCode = status ?? 1
