import { availableParallelism, cpus, totalmem } from 'node:os'
import { cudaStatus } from '../runtime/cuda.ts'
import { Device } from '../runtime/device.ts'
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

/** Everything a report of a problem should hold; absence is a finding, with its reason. */
export function diagnose(): { ok: boolean; findings: Finding[] } {
  const findings: Finding[] = []
  const add = (name: string, value: string): void => {
    findings.push({ name, value })
  }
  add('node', `${process.version} ${process.platform}-${process.arch}`)
  add('cpu', `${cpus()[0]?.model.trim() ?? 'unknown'}, ${availableParallelism()} available`)
  add('memory', `${(totalmem() / 2 ** 30).toFixed(1)} GiB`)
  const device = attempt(() => Device.open())
  if (device instanceof Error) add('addon', device.message)
  else {
    add('addon', 'loaded')
    add(
      'isa',
      device.isa === device.machineLevel
        ? device.isa
        : `${device.isa} (this machine has ${device.machineLevel})`,
    )
    add('threads', String(device.threads))
    device.close()
    const cuda = cudaStatus()
    add('cuda', cuda.available ? cuda.devices.map(({ name }) => name).join(', ') : `not used: ${cuda.reason}`)
    add('cuda plugin', cuda.build ?? `not loaded (${cuda.pluginPath})`)
  }
  return { ok: !(device instanceof Error), findings }
}

export const doctor: Command = {
  summary: 'what this machine has, and why something is missing',
  options: { json: { type: 'boolean', help: 'prints one JSON object' } },
  async run(args) {
    const { ok, findings } = diagnose()
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
