// Without a test framework, for GPU hosts:
//   node test/cuda/main.js parity [steps]    training beside the CPU's losses
//   node test/cuda/main.js shapes [kernel]   attention and products at the sizes of real models, or only
//                                            one of forward, backward (of attention), product, int8

import { Device } from '../../lib/index.ts'
import { cudaPlugin } from '../ops/runner/library.ts'
import { LIMITS, parity } from './parity.ts'
import { shapes } from './shapes.ts'

let passed = 0
let failed = 0
function say(ok: boolean, what: string): void {
  if (ok) passed++
  else failed++
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${what}`)
}

async function runParity(plugin: string, level: string, steps: number): Promise<void> {
  for (const dtype of ['f32', 'bf16'] as const) {
    const { cpu, cuda, worst, served } = await parity(plugin, dtype, steps)
    say(
      worst <= LIMITS[dtype] && served.length === 0,
      `${dtype}: ${steps} steps, loss ${cpu[0]?.toFixed(4)} to ${cpu.at(-1)?.toFixed(6)} on the CPU, ` +
        `${cuda.at(-1)?.toFixed(6)} on ${level}; largest relative difference ${worst.toExponential(2)} ` +
        `(limit ${LIMITS[dtype]})${served.length > 0 ? `; by reference: ${served.join(', ')}` : ''}`,
    )
  }
}

async function runShapes(plugin: string, kernel?: string): Promise<void> {
  using cuda = Device.open({ device: 'cuda', cudaPlugin: plugin, guard: true })
  using cpu = Device.open({ device: 'cpu' })
  for await (const { name, worst } of shapes({ cpu, cuda }, kernel))
    say(worst < 1, `${name}: ${worst.toFixed(3)}`)
}

const [part = 'parity', argument] = process.argv.slice(2)
const found = cudaPlugin()
if ('reason' in found) {
  console.log(found.reason)
  process.exit(77)
}
if (part === 'parity') await runParity(found.plugin, found.level, Number(argument ?? 100))
else if (part === 'shapes') await runShapes(found.plugin, argument)
else throw new Error(`parity or shapes, not ${part}`)
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
