// scripts/check-types (with the faster of the two compilers) on a package whose declarations do not stand alone.

import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'

const DECLARATIONS = `
export interface Tensor { item(): Promise<number>; add(b: Tensor): Tensor; sum(axes: number[], keepDims: boolean): Tensor }
export declare const ops: { add(a: Tensor, b: Tensor): Tensor; mul(a: Tensor, b: number): Tensor }
export interface CudaStatus { readonly reason: string }
export declare function cudaStatus(): CudaStatus
export declare class Device { static open(): Device }
export declare class Decoder { close(): void }
export declare class TextDataset { readonly rows: number }
export declare class Trainer {
  constructor(decoder: Decoder, options: { train: TextDataset; out: string; steps: number })
}
`

function check(declarations: string): { status: number | null; output: string } {
  const root = mkdtempSync(join(tmpdir(), 'fuselm-check-types-'))
  try {
    mkdirSync(join(root, 'dist'))
    const types = { types: './dist/index.d.ts', default: './dist/index.js' }
    writeFileSync(
      join(root, 'package.json'),
      JSON.stringify({ name: 'fuselm', type: 'module', exports: { '.': types } }),
    )
    writeFileSync(join(root, 'dist/index.js'), '')
    writeFileSync(join(root, 'dist/index.d.ts'), declarations)
    const run = spawnSync(process.execPath, ['scripts/check-types.mjs', root, 'typescript-7'], {
      encoding: 'utf8',
    })
    return { status: run.status, output: run.stdout + run.stderr }
  } finally {
    rmSync(root, { recursive: true })
  }
}

test('declarations that stand alone pass', () => {
  const { status, output } = check(DECLARATIONS)
  expect(output).toBe('check-types: 3 compilations, 0 failed\n')
  expect(status).toBe(0)
}, 60_000)

test('a declaration that names a file which is not published fails everywhere', () => {
  const { status, output } = check(`${DECLARATIONS}export type { Hidden } from './internal.js'\n`)
  expect(output).toContain('3 compilations, 3 failed')
  expect(output).toContain('TS2307')
  expect(status).toBe(1)
}, 60_000)

test('types that fell back to any fail', () => {
  const { status, output } = check(DECLARATIONS.replace('readonly reason: string', 'readonly reason: any'))
  expect(output).toContain('3 compilations, 3 failed')
  expect(status).toBe(1)
}, 60_000)
