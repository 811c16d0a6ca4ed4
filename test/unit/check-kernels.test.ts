// scripts/check-kernels on objects compiled here, one with a planted weak function.

import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'

const folders: string[] = []
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true })
})

function check(source: string, level = 'avx2'): { status: number | null; output: string } {
  const root = mkdtempSync(join(tmpdir(), 'fuselm-kernels-'))
  folders.push(root)
  const folder = join(root, 'CMakeFiles', `fuselm_cpu_${level}.dir`)
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(root, 'a.cc'), source)
  const flags = level === 'generic' ? [] : ['-mavx2', '-mfma']
  const compiler = process.env.CXX ?? 'c++'
  const compiled = spawnSync(
    compiler,
    ['-std=c++20', '-O3', ...flags, '-c', join(root, 'a.cc'), '-o', join(folder, 'a.cc.o')],
    { encoding: 'utf8' },
  )
  expect(compiled.stderr).toBe('')
  const run = spawnSync(process.execPath, ['scripts/check-kernels.mjs', root], { encoding: 'utf8' })
  return { status: run.status, output: run.stdout + run.stderr }
}

// A body that the compiler vectorises, as std::sort's was.
const LOOP = '{ for (int i = 0; i < 64; ++i) x[i] += 1.0f; }'

test('a weak function with instructions of the level fails', () => {
  const { status, output } = check(
    `[[gnu::noinline]] inline void Shared(float* x) ${LOOP}\nvoid Kernel(float* x) { Shared(x); }`,
  )
  expect(output).toMatch(/weak Shared\(float\*\) \(v\w+\)/)
  expect(status).toBe(1)
})

test('a template instance of the standard library fails', () => {
  const { status, output } = check(
    '#include <map>\nvoid Kernel(std::map<double, double>& m, double x) { m[x] = 1; }',
  )
  expect(output).toContain('weak std::_Rb_tree')
  expect(status).toBe(1)
})

test("a weak function of the level's own namespace passes", () => {
  const { status, output } = check(
    `namespace fuselm::avx2 { [[gnu::noinline]] inline void Own(float* x) ${LOOP}\nvoid Kernel(float* x) { Own(x); } }`,
  )
  expect(output).toContain('1 objects, 0 weak functions')
  expect(status).toBe(0)
})

test("another level's namespace does not count as its own", () => {
  const { status } = check(
    `namespace fuselm::avx2x { [[gnu::noinline]] inline void Own(float* x) ${LOOP}\nvoid Kernel(float* x) { Own(x); } }`,
  )
  expect(status).toBe(1)
})

test('a weak function of baseline instructions passes and is counted', () => {
  const { status, output } = check(
    '[[gnu::noinline]] inline int Plain(int x) { return x + 1; }\nint Kernel(int x) { return Plain(x); }',
  )
  expect(output).toContain('1 weak functions without')
  expect(status).toBe(0)
})

test('the generic level may define weak functions; no level at all fails', () => {
  const { status, output } = check('int Kernel(int x) { return x; }', 'generic')
  expect(output).toContain('no objects of a level')
  expect(status).toBe(1)
})
