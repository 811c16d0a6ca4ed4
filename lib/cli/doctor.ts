import { availableParallelism, cpus, totalmem } from 'node:os'
import { add } from '../ops/binary.ts'
import { tensor } from '../ops/create.ts'
import { cudaStatus } from '../runtime/cuda.ts'
import { Device } from '../runtime/device.ts'
import { noGrad, withDevice } from '../tensor/mode.ts'
import type { Command } from './command.ts'

interface Finding {
  readonly name: string
  readonly value: string
}

function attempt<T>(what: () => T): T | Error {
  try {
    return what()
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error))
  }
}

/** Opens the GPU, adds there and reads the sum; null when it is right. */
async function cudaFailure(): Promise<string | null> {
  try {
    using device = Device.open({ device: 'cuda' })
    using x = tensor([1, 2, 3], { device })
    using y = withDevice(device, () => noGrad(() => add(x, x)))
    const sum = [...(await y.toArray())]
    return sum.join() === '2,4,6' ? null : `1,2,3 twice gave ${sum.join()}`
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

/** Everything a report of a problem should hold; absence is a finding, with its reason. */
export async function diagnose(): Promise<{ ok: boolean; findings: Finding[] }> {
  const findings: Finding[] = []
  const say = (name: string, value: string): void => {
    findings.push({ name, value })
  }
  say('node', `${process.version} ${process.platform}-${process.arch}`)
  say('cpu', `${cpus()[0]?.model.trim() ?? 'unknown'}, ${availableParallelism()} available`)
  say('memory', `${(totalmem() / 2 ** 30).toFixed(1)} GiB`)
  const device = attempt(() => Device.open({ device: 'cpu' }))
  if (device instanceof Error) say('addon', device.message)
  else {
    say('addon', 'loaded')
    say(
      'isa',
      device.isa === device.machineLevel
        ? device.isa
        : `${device.isa} (this machine has ${device.machineLevel})`,
    )
    say('threads', String(device.threads))
    device.close()
    const cuda = cudaStatus()
    say('cuda plugin', cuda.build ?? `not loaded (${cuda.pluginPath})`)
    if (cuda.available) {
      for (const [i, gpu] of cuda.devices.entries()) {
        say(
          `cuda:${i}`,
          `${gpu.name}, compute ${gpu.computeCapability}, ${(gpu.memoryBytes / 2 ** 30).toFixed(1)} GiB`,
        )
      }
      say('matrices', cuda.matrixLibrary ?? '')
      // What a listing does not show: memory that others have taken, a device that does not start.
      const failure = await cudaFailure()
      say('cuda works', failure === null ? 'yes' : `no: ${failure}`)
    } else {
      say('cuda', `not used: ${cuda.reason}`)
    }
  }
  return { ok: !(device instanceof Error), findings }
}

export const doctor: Command = {
  summary: 'what this machine has, and why something is missing',
  options: { json: { type: 'boolean', help: 'prints one JSON object' } },
  async run(args) {
    const { ok, findings } = await diagnose()
    if (args.flag('json')) {
      process.stdout.write(
        `${JSON.stringify({ ok, ...Object.fromEntries(findings.map(({ name, value }) => [name, value])) })}\n`,
      )
    } else {
      for (const { name, value } of findings) process.stdout.write(`${name.padEnd(12)} ${value}\n`)
    }
    return ok ? 0 : 1
  },
}
