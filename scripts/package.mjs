#!/usr/bin/env node
// `npm run package [-- folder]`: the tarball as it would be published, with the addon prebuilt for
// this platform. Works in a copy below build/package, so that prebuildify, which moves the addon it
// finds, leaves the checkout's own build alone. Prints the tarball's path last.

import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildAll } from './build.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const stage = join(root, 'build/package')
const out = resolve(process.argv[2] ?? join(root, 'build'))

function run(command, args) {
  const { status, stdout } = spawnSync(command, args, {
    cwd: stage,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed\n${stdout}`)
  return stdout
}

process.chdir(root)
buildAll()
rmSync(stage, { recursive: true, force: true })
mkdirSync(stage, { recursive: true })
const { files } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
for (const name of ['package.json', ...files]) {
  if (name !== 'prebuilds' && existsSync(join(root, name))) {
    cpSync(join(root, name), join(stage, name), { recursive: true })
  }
}
const prebuildify = join(
  dirname(createRequire(import.meta.url).resolve('prebuildify/package.json')),
  'bin.js',
)
const bridge = join(root, 'scripts/gyp-bridge.mjs')
run(process.execPath, [prebuildify, '--napi', '--strip', '--tag-libc', '--cwd', stage, '--node-gyp', bridge])
rmSync(join(stage, 'build'), { recursive: true, force: true })
// The CUDA plugin, where it was built, is not part of this package but of one of its own.
rmSync(join(stage, 'prebuilds/linux-x64/libfuselm_cuda.so'), { force: true })
mkdirSync(out, { recursive: true })
const [{ filename }] = JSON.parse(run('npm', ['pack', '--json', '--pack-destination', out]))
console.log(join(out, filename))
