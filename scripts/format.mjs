#!/usr/bin/env node
// Formats what the repository tracks: TypeScript and JSON with Biome (and its safe lint fixes), C++
// and CUDA with clang-format. With --check it changes nothing and fails on a difference.

import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

const check = process.argv.includes('--check')
const require = createRequire(import.meta.url)

// The binary of the npm package, so that every machine formats with the same version and none
// needs it installed.
const clangFormat = join(dirname(require.resolve('clang-format/package.json')), 'bin/linux_x64/clang-format')
const biome = join(dirname(require.resolve('@biomejs/biome/package.json')), 'bin/biome')

const listed = spawnSync(
  'git',
  ['ls-files', '--cached', '--others', '--exclude-standard', '*.h', '*.cc', '*.cu', '*.cuh'],
  { encoding: 'utf8' },
)
if (listed.status !== 0) throw new Error(`git ls-files: ${listed.stderr}`)
const native = listed.stdout.split('\n').filter((path) => path !== '')

const runs = [
  [process.execPath, [biome, 'check', '--error-on-warnings', ...(check ? [] : ['--write'])]],
  [clangFormat, [...(check ? ['--dry-run', '--Werror'] : ['-i']), ...native]],
]
for (const [program, args] of runs) {
  const { status, error } = spawnSync(program, args, { stdio: 'inherit' })
  if (error) console.error(`${program}: ${error.message}`)
  if (status !== 0) process.exitCode = 1
}
