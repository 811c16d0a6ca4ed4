#!/usr/bin/env node
// Stands in for node-gyp's compile step: builds the addon with CMake in this checkout's own build
// folder and copies it, with the CUDA plugin when that was built, to where the caller looks.
//
//   gyp-bridge.mjs <folder>       from binding.gyp
//   gyp-bridge.mjs rebuild ...    as `prebuildify --node-gyp`; the caller looks in build/Release of
//                                 its working folder, and node-gyp's flags do not matter here

import { copyFileSync, existsSync, mkdirSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildAddon } from './build.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const argument = process.argv[2] ?? 'rebuild'
const out = resolve(argument === 'rebuild' ? 'build/Release' : argument)
const built = join(root, 'build/Release')

buildAddon()
if (out !== built) {
  mkdirSync(out, { recursive: true })
  for (const name of ['fuselm.node', 'libfuselm_cuda.so']) {
    if (existsSync(join(built, name))) copyFileSync(join(built, name), join(out, name))
  }
}
