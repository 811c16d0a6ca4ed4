#!/usr/bin/env node
// `npm run package [-- folder]`: the tarball as it would be published, with the addon prebuilt for
// this platform. Works in a copy below build/package, so that prebuildify, which moves the addon it
// finds, leaves the checkout's own build alone. Prints the tarball's path last.
//   --cuda [--plugin file]   fuselm-cuda instead: the CUDA plugin, which users add on purpose; built where
//                            no file is named

import { spawnSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { buildAll } from './build.mjs'

const PLUGIN = 'libfuselm_cuda.so'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
process.chdir(root)
const { values, positionals } = parseArgs({
  options: { cuda: { type: 'boolean', default: false }, plugin: { type: 'string' } },
  allowPositionals: true,
})
const stage = join(root, 'build', values.cuda ? 'package-cuda' : 'package')
const out = resolve(positionals[0] ?? join(root, 'build'))
const about = JSON.parse(readFileSync('package.json', 'utf8'))

function run(command, args) {
  const { status, stdout } = spawnSync(command, args, {
    cwd: stage,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed\n${stdout}`)
  return stdout
}

function layPackage() {
  buildAll()
  emptyStage()
  for (const name of ['package.json', ...about.files]) {
    if (name !== 'prebuilds' && existsSync(name)) cpSync(name, join(stage, name), { recursive: true })
  }
  const prebuildify = join(
    dirname(createRequire(import.meta.url).resolve('prebuildify/package.json')),
    'bin.js',
  )
  const bridge = join(root, 'scripts/gyp-bridge.mjs')
  run(process.execPath, [
    prebuildify,
    '--napi',
    '--strip',
    '--tag-libc',
    '--cwd',
    stage,
    '--node-gyp',
    bridge,
  ])
  rmSync(join(stage, 'build'), { recursive: true, force: true })
  // Where it was built, it is part of the other package.
  rmSync(join(stage, 'prebuilds/linux-x64', PLUGIN), { force: true })
}

function layCuda() {
  if (values.plugin === undefined) buildAll(['--cuda'])
  emptyStage()
  const { version, license, engines, os, cpu } = about
  const description =
    'The CUDA kernels of fuselm (sm_80 and newer): install it beside fuselm, of the same version'
  // The main file is what require.resolve finds; nobody loads it as a module.
  const manifest = { name: 'fuselm-cuda', version, description, license, engines, os, cpu, libc: ['glibc'] }
  const files = { main: PLUGIN, files: [PLUGIN] }
  writeFileSync(join(stage, 'package.json'), `${JSON.stringify({ ...manifest, ...files }, null, 2)}\n`)
  writeFileSync(
    join(stage, 'README.md'),
    `# fuselm-cuda\n\n${description}. \`npx fuselm doctor\` tries it.\n`,
  )
  copyFileSync('LICENSE', join(stage, 'LICENSE'))
  const plugin = resolve(values.plugin ?? join('build/Release', PLUGIN))
  run('strip', ['-o', join(stage, PLUGIN), plugin])
}

function emptyStage() {
  rmSync(stage, { recursive: true, force: true })
  mkdirSync(stage, { recursive: true })
}

if (values.cuda) layCuda()
else layPackage()
mkdirSync(out, { recursive: true })
const [{ filename }] = JSON.parse(run('npm', ['pack', '--json', '--pack-destination', out]))
console.log(join(out, filename))
