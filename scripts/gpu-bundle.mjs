#!/usr/bin/env node
// `npm run gpu-bundle`: one archive that proves the build on a bare GPU host, where nothing is
// installed: Node itself, the addon, the CUDA plugin, the compiled op matrix with its goldens, the
// CUDA test program, the benches, and run.sh, which runs them and prints a table. At most 50 MB.
// Benches have their PyTorch peers where the host's python3 has torch.
//
//   npm run gpu-bundle -- [--sources] [--check [op ...]]
//
// --sources brings native/ instead of the compiled plugin, and run.sh builds it there, for that card
// alone: minutes less here where the host has nvcc and many cores.
// --check unpacks it into an empty folder and runs it there with an empty environment; the CUDA
// parts say why they did not run where there is no GPU.

import { execFileSync, spawnSync } from 'node:child_process'
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildAll } from './build.mjs'

const BENCHES = ['attention', 'gemm', 'norms', 'adamw', 'loss', 'int8', 'train']
const LIMIT_BYTES = 50e6
const root = dirname(dirname(fileURLToPath(import.meta.url)))
const stage = join(root, 'build/gpu-bundle/fuselm-gpu')
const archive = join(root, 'build/gpu-bundle/fuselm-gpu.tar.xz')

const RUN = `#!/bin/sh
# Runs every part and prints a table; exits 1 when one failed.
#   run.sh [part ...] [-- op ...]    parts: cuda cpu parity memcheck racecheck bench
# Without arguments: all but the sanitizers and benches, which take minutes. bench writes bench/results.
cd "$(dirname "$0")" || exit 1
unset FUSELM_ADDON FUSELM_ISA FUSELM_THREADS FUSELM_CUDA_PLUGIN FUSELM_LEVELS
parts=''
while [ $# -gt 0 ] && [ "$1" != -- ]; do parts="$parts $1"; shift; done
[ "$1" = -- ] && shift
[ -n "$parts" ] || parts='cuda cpu parity'
chmod +x node
mkdir -p logs
worst=0
table=''
part() { # NAME COMMAND...
  name=$1; shift
  from=$(date +%s)
  "$@" >"logs/$name.log" 2>&1
  code=$?
  counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "logs/$name.log" | tail -n 1)
  case $code in
    0) result=ok ;;
    77) result=absent; counts=$(tail -n 1 "logs/$name.log") ;;
    *) result=FAILED; worst=1; tail -n 20 "logs/$name.log" ;;
  esac
  table="$table$(printf '%-10s %-7s %4ss  %s' "$name" "$result" "$(($(date +%s) - from))" "$counts")
"
}
if [ ! -f build/Release/libfuselm_cuda.so ]; then
  arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
  [ "$arch" = 90 ] && arch=90a
  generator='Unix Makefiles'; command -v ninja >/dev/null && generator=Ninja
  build() {
    cmake -S native/cuda -B build/cuda -G "$generator" -DCMAKE_BUILD_TYPE=Release \
      "-DCMAKE_CUDA_ARCHITECTURES=$arch-real" "-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$PWD/build/Release" &&
      cmake --build build/cuda --parallel "$(nproc)"
  }
  part build build
fi
part node ./node --version
part status ./node status.mjs
chosen() { case " $parts " in *" $1 "*) return 0 ;; esac; return 1; }
sanitizer() { # TOOL, then ops
  tool=$1; shift
  FUSELM_LEVELS=cuda part "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 ./node test/ops/main.js "$@"
}
if chosen cuda; then
  part cuda build/Release/fuselm_cuda_test build/Release/libfuselm_cuda.so
  FUSELM_LEVELS=cuda part matrix ./node test/ops/main.js "$@"
fi
if chosen cpu; then FUSELM_LEVELS=generic,avx2,avx512,avx512bf16,amx part ops ./node test/ops/main.js "$@"; fi
if chosen parity; then part parity ./node test/cuda/main.js 100; fi
if chosen memcheck; then sanitizer memcheck "$@"; fi
if chosen racecheck; then sanitizer racecheck "$@"; fi
if chosen bench; then
  export FUSELM_DEVICE=cuda
  for name in attention gemm norms adamw loss int8; do part "$name" ./node bench/run.mjs "$name" --built --peers; done
  part train ./node bench/run.mjs train --built --peers --model 124M --batch 16
fi
cat logs/status.log
printf '\\n%s' "$table"
exit $worst
`
const STATUS = `import { cudaStatus, Device } from './lib/index.js'
const { available, reason, build, devices } = cudaStatus()
console.log('node ' + process.version + ', cpu ' + Device.default().isa)
console.log('plugin ' + build + ': ' + (available ? JSON.stringify(devices) : reason))
`

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
      include: [join(root, 'lib'), join(root, 'test/ops'), join(root, 'test/cuda')],
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
  // Benches import the package by its name.
  const about = { name: 'fuselm', type: 'module', exports: { '.': './dist/index.js' } }
  writeFileSync(join(stage, 'package.json'), `${JSON.stringify(about)}\n`)
  cpSync(join(root, 'dist'), join(stage, 'dist'), {
    recursive: true,
    filter: (file) => !/\.(map|d\.ts)$/.test(file),
  })
  for (const name of BENCHES) run(process.execPath, ['bench/run.mjs', name, '--compile'])
  for (const part of ['bench/run.mjs', 'bench/peers', 'scripts/build.mjs']) {
    cpSync(join(root, part), join(stage, part), { recursive: true })
  }
  for (const name of BENCHES) {
    const file = `build/bench/${name}.bench.js`
    cpSync(join(root, file), join(stage, file))
  }
  writeFileSync(join(stage, 'status.mjs'), STATUS)
  writeFileSync(join(stage, 'run.sh'), RUN, { mode: 0o755 })
  copyFileSync(process.execPath, join(stage, 'node'))
  run('strip', [join(stage, 'node')])
  run('tar', ['-C', dirname(stage), '-I', `xz -3 -T${availableParallelism()}`, '-cf', archive, 'fuselm-gpu'])
  const { size } = statSync(archive)
  console.log(`${archive}: ${(size / 1e6).toFixed(1)} MB`)
  if (size > LIMIT_BYTES) throw new Error(`the archive is over ${LIMIT_BYTES / 1e6} MB`)
}

function check(ops) {
  const folder = mkdtempSync(join(tmpdir(), 'fuselm-gpu-'))
  try {
    execFileSync('tar', ['-C', folder, '-xf', archive])
    run('sh', ['fuselm-gpu/run.sh', 'cuda', 'cpu', 'parity', '--', ...ops], {
      cwd: folder,
      env: { PATH: '/usr/bin:/bin' },
    })
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
