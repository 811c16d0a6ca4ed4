#!/usr/bin/env node
// `npm run build`: the addon through cmake-js, the types through tsc, the code through esbuild.
// Does only what is out of date. Also called by the test, quickstart and bench scripts.
//   --cuda    also the CUDA plugin, wherever nvcc is (otherwise only where a driver is, too)
//   --cuda-emulated   also its kernels compiled for the CPU, for tests without a GPU (x86-64)
//   --cuda-checked    those again, with a sanitizer for races and bounds
//   --addon   the addon only

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const require = createRequire(import.meta.url)

let output = 1

/** For callers whose own standard output is read by a program. */
export function buildToStderr() {
  output = 2
}

function run(command, args, env = process.env) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: ['inherit', output, 2], env })
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed${error ? `: ${error.message}` : ''}`)
}

export function findTool(name) {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/local/cuda/bin']
  return folders.map((folder) => join(folder, name)).find((file) => existsSync(file))
}

/** Compilers through ccache where it is installed; a caller's own choice stands. */
function buildEnvironment() {
  const env = { ...process.env }
  if (env.CMAKE_CXX_COMPILER_LAUNCHER === undefined && findTool('ccache')) {
    env.CMAKE_CXX_COMPILER_LAUNCHER = 'ccache'
  }
  return env
}

export function buildAddon() {
  if (!findTool('cmake')) throw new Error('cmake is needed to build the addon (apt-get install cmake)')
  const cmakeJs = require.resolve('cmake-js/bin/cmake-js')
  const generator = findTool('ninja') ? 'Ninja' : 'Unix Makefiles'
  const parallel = String(availableParallelism())
  const common = ['--log-level', 'error', '--config', 'Release', '--generator', generator]
  run(process.execPath, [cmakeJs, 'build', ...common, '--parallel', parallel], buildEnvironment())
}

export function buildCuda() {
  const nvcc = findTool('nvcc')
  if (!nvcc) throw new Error('nvcc is not on the PATH nor in /usr/local/cuda/bin')
  if (!existsSync(join(root, 'native/cuda/CMakeLists.txt'))) throw new Error('native/cuda is missing')
  const env = buildEnvironment()
  const generator = findTool('ninja') ? 'Ninja' : 'Unix Makefiles'
  const out = join(root, 'build', 'cuda')
  run(
    'cmake',
    [
      '-S',
      'native/cuda',
      '-B',
      out,
      '-G',
      generator,
      '-DCMAKE_BUILD_TYPE=Release',
      // Beside the addon, where it is looked for.
      `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${join(root, 'build', 'Release')}`,
      `-DCMAKE_CUDA_COMPILER=${nvcc}`,
    ],
    env,
  )
  run('cmake', ['--build', out, '--parallel', String(availableParallelism())], env)
}

/**
 * For the tests of kernels on machines without a GPU; needs no CUDA toolkit.
 * @param targets of native/cuda/emulate/CMakeLists.txt
 */
export function buildCudaEmulated(targets = ['all', 'fuselm_cuda_hazards']) {
  if (process.arch !== 'x64') return
  const generator = findTool('ninja') ? 'Ninja' : 'Unix Makefiles'
  const out = join(root, 'build', 'cuda-emulated')
  const quiet = ['--log-level=WARNING', '-Wno-dev']
  const source = 'native/cuda/emulate'
  run(
    'cmake',
    ['-S', source, '-B', out, '-G', generator, '-DCMAKE_BUILD_TYPE=Release', ...quiet],
    buildEnvironment(),
  )
  const parallel = String(availableParallelism())
  run('cmake', ['--build', out, '--parallel', parallel, '--target', ...targets], buildEnvironment())
}

function hasDriver() {
  return existsSync('/dev/nvidiactl') || existsSync('/proc/driver/nvidia/version')
}

/** A file itself, or every file below a folder; nothing for what does not exist. */
function filesOf(path) {
  const full = join(root, path)
  if (!existsSync(full)) return []
  if (!statSync(full).isDirectory()) return [full]
  return readdirSync(full, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
}

/** Runs `make` unless its stamp is newer than every input; the list of inputs counts, too. */
export function unlessFresh(name, paths, make) {
  const stamp = join(root, 'build', 'stamps', name)
  const files = paths.flatMap(filesOf).sort()
  const list = files.join('\n')
  const newest = Math.max(...files.map((file) => statSync(file).mtimeMs))
  if (existsSync(stamp) && statSync(stamp).mtimeMs > newest && readFileSync(stamp, 'utf8') === list) return
  make()
  mkdirSync(dirname(stamp), { recursive: true })
  writeFileSync(stamp, list)
}

const tsc = () => require.resolve('typescript/bin/tsc')

export function buildLibrary() {
  // Names the ops and families that exist; before anything looks at lib/.
  run(process.execPath, ['scripts/generate-barrels.mjs'])
  const sources = ['lib', 'tsconfig.json', 'tsconfig.build.json', 'package.json', 'scripts/build.mjs']
  if (!existsSync(join(root, 'dist/index.js'))) rmSync(join(root, 'build/stamps/library'), { force: true })
  unlessFresh('library', sources, () => {
    const start = Date.now()
    rmSync(join(root, 'build/tsc/lib.tsbuildinfo'), { force: true })
    run(process.execPath, [tsc(), '-p', 'tsconfig.build.json'])
    require('esbuild').buildSync({
      absWorkingDir: root,
      entryPoints: ['lib/index.ts', 'lib/tokenizer/worker.ts', 'lib/data/worker.ts', 'lib/cli/main.ts'],
      outdir: 'dist',
      chunkNames: 'chunks/[name]-[hash]',
      bundle: true,
      splitting: true,
      format: 'esm',
      platform: 'node',
      target: 'node20.19',
      packages: 'external',
      sourcemap: true,
      logLevel: 'warning',
    })
    // Afterwards, not before: programs that run meanwhile keep a whole dist/.
    for (const file of filesOf('dist')) {
      if (statSync(file).mtimeMs < start - 1000) rmSync(file)
    }
  })
}

export function buildExamples() {
  unlessFresh('examples', ['examples', 'lib', 'tsconfig.json', 'tsconfig.examples.json'], () => {
    run(process.execPath, [tsc(), '-p', 'tsconfig.examples.json'])
  })
}

export function buildAll(args = []) {
  buildAddon()
  if (args.includes('--addon')) return
  if (args.includes('--cuda') || (hasDriver() && findTool('nvcc'))) buildCuda()
  if (args.includes('--cuda-emulated')) buildCudaEmulated()
  if (args.includes('--cuda-checked')) buildCudaEmulated(['fuselm_cuda_checked', 'fuselm_cuda_hazards'])
  buildLibrary()
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  try {
    buildAll(process.argv.slice(2))
  } catch (error) {
    console.error(`build: ${error.message}`)
    process.exitCode = 1
  }
}
