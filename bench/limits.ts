// What the machine can do, measured by native/bench/limits.cc in the run whose figures it limits.

import { type ExecFileSyncOptions, execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'

/** Both cores at once: arithmetic in registers, memory far beyond the caches. */
export interface Limits {
  readonly f32Gflops: number
  readonly bf16Gflops: number
  readonly int8Gops: number
  readonly readGBs: number
  /** Bytes read and bytes written together. */
  readonly copyGBs: number
  readonly writeGBs: number
}

const NAMES = ['f32Gflops', 'bf16Gflops', 'int8Gops', 'readGBs', 'copyGBs', 'writeGBs'] as const

/** @throws Error naming what is no number above 0 */
export function parseLimits(value: unknown): Limits {
  const fields = new Map(typeof value === 'object' && value !== null ? Object.entries(value) : [])
  const number = (name: string): number => {
    const found: unknown = fields.get(name)
    if (typeof found === 'number' && found > 0 && Number.isFinite(found)) return found
    throw new Error(`limits: ${name} must be a number above 0, received ${String(found)}`)
  }
  const [f32Gflops, bf16Gflops, int8Gops, readGBs, copyGBs, writeGBs] = NAMES.map(number) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ]
  return { f32Gflops, bf16Gflops, int8Gops, readGBs, copyGBs, writeGBs }
}

/** Of several measurements the best: what others take away from one is not the machine's limit. */
export function bestLimits(all: readonly Limits[]): Limits {
  const best = (name: (typeof NAMES)[number]): number => Math.max(...all.map((limits) => limits[name]))
  return parseLimits(Object.fromEntries(NAMES.map((name) => [name, best(name)])))
}

function program(): string {
  const folder = join('build', 'native-bench')
  const quiet: ExecFileSyncOptions = { stdio: ['ignore', 'ignore', 'inherit'] }
  if (!existsSync(join(folder, 'CMakeCache.txt'))) {
    const options = ['-DFUSELM_NODE_MODULES=none', '-DFUSELM_BUILD_NATIVE_BENCH=ON']
    execFileSync('cmake', ['-S', '.', '-B', folder, ...options], quiet)
  }
  execFileSync('cmake', ['--build', folder, '--target', 'fuselm_limits'], quiet)
  return join(folder, 'fuselm_limits')
}

let built: string | null = null

/** Takes some seconds (and a build, the first time); from the repository's root. */
export function measureLimits(isa: string, threads: number): Limits {
  built ??= program()
  return parseLimits(JSON.parse(execFileSync(built, [isa, String(threads)], { encoding: 'utf8' })))
}
