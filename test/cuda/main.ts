// Parity of CPU and GPU without a test framework, for GPU hosts: node test/cuda/main.js [steps]

import { cudaPlugin } from '../ops/runner/library.ts'
import { LIMITS, parity } from './parity.ts'

const steps = Number(process.argv[2] ?? 100)
const cuda = cudaPlugin()
if ('reason' in cuda) {
  console.log(cuda.reason)
  process.exit(77)
}
let failed = 0
for (const dtype of ['f32', 'bf16'] as const) {
  const { cpu, cuda: onCuda, worst, served } = await parity(cuda.plugin, dtype, steps)
  const ok = worst <= LIMITS[dtype] && served.length === 0
  if (!ok) failed++
  console.log(
    `${ok ? 'ok  ' : 'FAIL'} ${dtype}: ${steps} steps, loss ${cpu[0]?.toFixed(4)} to ${cpu.at(-1)?.toFixed(6)} on the CPU, ` +
      `${onCuda.at(-1)?.toFixed(6)} on ${cuda.level}; largest relative difference ${worst.toExponential(2)} ` +
      `(limit ${LIMITS[dtype]})${served.length > 0 ? `; by reference: ${served.join(', ')}` : ''}`,
  )
}
console.log(`${2 - failed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
