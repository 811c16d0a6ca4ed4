#!/usr/bin/env node
// Compiles a user's program against the published types (dist/*.d.ts): TypeScript 6 and 7, module
// node16, nodenext and bundler, with the declarations themselves checked (skipLibCheck: false).
//
//   node scripts/check-types.mjs [package root [compiler]]     compiler: typescript (6) or typescript-7

import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'

const root = resolve(process.argv[2] ?? '.')
const compilers = process.argv[3] === undefined ? ['typescript', 'typescript-7'] : [process.argv[3]]
const require = createRequire(import.meta.url)
const packageFolder = (name) => dirname(require.resolve(`${name}/package.json`))

const PROGRAM = `
import * as fuselm from 'fuselm'
import { Device, Trainer, cudaStatus, ops, type CudaStatus, type Decoder, type Tensor, type TextDataset } from 'fuselm'

export function twice(x: Tensor): Tensor {
  return ops.mul(ops.add(x, x), 0.5).add(x).sum([0], true)
}
export async function first(x: Tensor): Promise<number> {
  return await x.item()
}
export const status: CudaStatus = cudaStatus()
export const open: typeof Device.open = Device.open
export const everything: object = fuselm
export function trainer(decoder: Decoder, train: TextDataset): Trainer {
  return new Trainer(decoder, { train, out: 'run', steps: 1 })
}
// @ts-expect-error: the declarations must not fall back to any
export const wrong: number = cudaStatus().reason
`
const MODES = {
  node16: { module: 'node16' },
  nodenext: { module: 'nodenext' },
  bundler: { module: 'esnext', moduleResolution: 'bundler' },
}

const folder = mkdtempSync(join(tmpdir(), 'fuselm-types-'))
let failures = 0
let compilations = 0
try {
  const installed = join(folder, 'node_modules/fuselm')
  mkdirSync(join(folder, 'node_modules/@types'), { recursive: true })
  mkdirSync(installed)
  cpSync(join(root, 'package.json'), join(installed, 'package.json'))
  cpSync(join(root, 'dist'), join(installed, 'dist'), { recursive: true })
  symlinkSync(packageFolder('@types/node'), join(folder, 'node_modules/@types/node'))
  symlinkSync(packageFolder('undici-types'), join(folder, 'node_modules/undici-types'))
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  writeFileSync(join(folder, 'program.ts'), PROGRAM)
  for (const compiler of compilers) {
    for (const [mode, options] of Object.entries(MODES)) {
      const compilerOptions = {
        ...options,
        target: 'es2023',
        lib: ['es2023', 'esnext.disposable'],
        types: ['node'],
        strict: true,
        exactOptionalPropertyTypes: true,
        skipLibCheck: false,
        noEmit: true,
      }
      writeFileSync(
        join(folder, 'tsconfig.json'),
        JSON.stringify({ compilerOptions, include: ['program.ts'] }),
      )
      const tsc = join(packageFolder(compiler), 'bin/tsc')
      const { status, stdout } = spawnSync(process.execPath, [tsc, '-p', folder, '--pretty', 'false'], {
        encoding: 'utf8',
        cwd: folder,
      })
      compilations += 1
      if (status !== 0) {
        failures += 1
        console.error(`${compiler}, ${mode}:\n${stdout}`)
      }
    }
  }
} finally {
  rmSync(folder, { recursive: true })
}
console.log(`check-types: ${compilations} compilations, ${failures} failed`)
process.exitCode = failures > 0 ? 1 : 0
