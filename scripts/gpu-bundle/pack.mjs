#!/usr/bin/env node
// `npm run gpu-bundle`: one archive that proves the build on a bare GPU host, where nothing is
// installed: Node itself, the addon, the CUDA plugin, the compiled op matrix with its goldens, the
// CUDA test program, the quickstart with its text, the benches, and run.sh, which runs them all and
// writes report.md. At most 50 MB. Benches have their PyTorch peers where the host's python3 has torch.
//
//   npm run gpu-bundle -- [--sources] [--check [op ...]]
//
// --sources brings native/ instead of the compiled plugin, and run.sh builds it there, for that card
// alone: minutes less here where the host has nvcc and many cores.
// --check unpacks it into an empty folder and runs it there with an empty environment. Where there is no
// GPU its parts have to say so; then it runs them again on the emulated plugin, as on an sm_90.

import { execFileSync, spawnSync } from 'node:child_process'
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildAll, buildCudaEmulated, buildExamples } from '../build.mjs'

const BENCHES = ['attention', 'gemm', 'norms', 'adamw', 'loss', 'int8', 'train', 'lora']
const LIMIT_BYTES = 50e6
/** Little of what takes long where the threads of a GPU run one by one. */
const EMULATED = {
  FUSELM_EMULATED_COMPUTE: '90',
  FUSELM_PARITY_STEPS: '2',
}
const here = dirname(fileURLToPath(import.meta.url))
const root = dirname(dirname(here))
const stage = join(root, 'build/gpu-bundle/fuselm-gpu')
const archive = join(root, 'build/gpu-bundle/fuselm-gpu.tar.xz')

function run(command, args, options = {}) {
  const { status } = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options })
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed`)
}

function pack(sources) {
  buildAll(sources ? [] : ['--cuda'])
  rmSync(stage, { recursive: true, force: true })
  mkdirSync(join(stage, 'build/Release'), { recursive: true })
  const compiled = sources ? [] : ['libfuselm_cuda.so', 'fuselm_cuda_test']
  if (sources) {
    for (const part of ['native/core', 'native/cuda']) {
      cpSync(join(root, part), join(stage, part), { recursive: true })
    }
  }
  for (const name of ['fuselm.node', ...compiled]) {
    run('strip', ['-o', join(stage, 'build/Release', name), join(root, 'build/Release', name)])
  }
  // Compiled file by file: the op matrix finds ops and case tables by folder.
  const config = join(root, 'build/gpu-bundle/tsconfig.json')
  writeFileSync(
    config,
    JSON.stringify({
      extends: '../../tsconfig.json',
      compilerOptions: {
        noEmit: false,
        incremental: false,
        rootDir: root,
        outDir: stage,
        types: ['node'],
        typeRoots: [join(root, 'node_modules/@types')],
      },
      include: [join(root, 'lib'), join(root, 'test/ops'), join(root, 'test/cuda/main.ts')],
      exclude: [join(root, 'test/**/*.test.ts')],
    }),
  )
  const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')
  run(process.execPath, [tsc, '-p', config])
  if (existsSync(join(root, 'test/golden'))) {
    cpSync(join(root, 'test/golden'), join(stage, 'test/golden'), {
      recursive: true,
      filter: (file) => statSync(file).isDirectory() || /test\/golden\/[^/]*\.safetensors$/.test(file),
    })
  }
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  for (const name of Object.keys(dependencies)) {
    const place = join('node_modules', name)
    cpSync(join(root, place), join(stage, place), { recursive: true })
  }
  // Benches and the quickstart import the package by its name.
  const about = { name: 'fuselm', type: 'module', gitHead: commit(), exports: { '.': './dist/index.js' } }
  writeFileSync(join(stage, 'package.json'), `${JSON.stringify(about)}\n`)
  cpSync(join(root, 'dist'), join(stage, 'dist'), {
    recursive: true,
    filter: (file) => !/\.(map|d\.ts)$/.test(file),
  })
  for (const name of BENCHES) run(process.execPath, ['bench/run.mjs', name, '--compile'])
  for (const part of ['bench/run.mjs', 'bench/peers', 'scripts/build.mjs', 'test/cuda/order.mjs']) {
    cpSync(join(root, part), join(stage, part), { recursive: true })
  }
  for (const name of BENCHES) {
    const file = `build/bench/${name}.bench.js`
    cpSync(join(root, file), join(stage, file))
  }
  packQuickstart()
  for (const file of ['run.sh', 'report.mjs']) copyFileSync(join(here, file), join(stage, file))
  copyFileSync(process.execPath, join(stage, 'node'))
  run('strip', [join(stage, 'node')])
  run('tar', ['-C', dirname(stage), '-I', `xz -3 -T${availableParallelism()}`, '-cf', archive, 'fuselm-gpu'])
  const { size } = statSync(archive)
  console.log(`${archive}: ${(size / 1e6).toFixed(1)} MB`)
  if (size > LIMIT_BYTES) throw new Error(`the archive is over ${LIMIT_BYTES / 1e6} MB`)
}

/** The example, its text (the declarations of our node_modules), and the compiler that judges its completions. */
function packQuickstart() {
  buildExamples()
  cpSync(join(root, 'build/examples'), join(stage, 'build/examples'), { recursive: true })
  for (const file of ['package.json', 'lib/typescript.js']) {
    copyInto(join('node_modules/typescript', file), join('node_modules/typescript', file))
  }
  for (const file of readdirSync(join(root, 'node_modules'), { recursive: true })) {
    if (file.endsWith('.d.ts')) copyInto(join('node_modules', file), join('text/node_modules', file))
  }
}

function copyInto(from, to) {
  mkdirSync(dirname(join(stage, to)), { recursive: true })
  copyFileSync(join(root, from), join(stage, to))
}

function commit() {
  const git = (...args) => execFileSync('git', args, { cwd: root, encoding: 'utf8' }).trim()
  return git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain') === '' ? '' : '+')
}

function check(ops) {
  const folder = mkdtempSync(join(tmpdir(), 'fuselm-gpu-'))
  const unpacked = join(folder, 'fuselm-gpu')
  const runParts = (parts, env = {}) => {
    run('sh', ['run.sh', ...parts, '--', ...ops], { cwd: unpacked, env: { PATH: '/usr/bin:/bin', ...env } })
    const absent = readFileSync(join(unpacked, 'logs/parts.tsv'), 'utf8').match(/^\w+(?=\tabsent)/gm)
    return absent ?? []
  }
  try {
    execFileSync('tar', ['-C', folder, '-xf', archive])
    if (!runParts(['cuda', 'matrix', 'parity', 'cpu']).includes('matrix')) return
    buildCudaEmulated()
    const plugin = join(root, 'build/cuda-emulated/libfuselm_cuda_emulated.so')
    copyFileSync(plugin, join(unpacked, 'build/Release/libfuselm_cuda.so'))
    const absent = runParts(['matrix', 'order', 'parity', 'builtin', 'hopper'], EMULATED)
    if (absent.length > 0) throw new Error(`emulated, and yet absent: ${absent.join(', ')}`)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

const argv = process.argv.slice(2)
const sources = argv[0] === '--sources'
const [option, ...ops] = sources ? argv.slice(1) : argv
if (option !== undefined && option !== '--check') throw new Error(`unknown option ${option}`)
mkdirSync(dirname(stage), { recursive: true })
pack(sources)
if (option === '--check') check(ops)
