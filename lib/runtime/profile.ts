// FUSELM_PROFILE=trace.json: every command executed goes into a Chrome trace (chrome://tracing,
// Perfetto) when the process exits, and a table by op onto standard error. Processes and worker threads that
// have it from another one, or run beside it, write files of their own: trace.<pid>.json. (What threads of one
// process share is a device; its commands go to the thread that ends first.)

import { statSync, writeFileSync } from 'node:fs'
import { parse } from 'node:path'
import { threadId } from 'node:worker_threads'
import type { NativeTraceEvent } from './native.ts'

/** Control records by code (native/core/runtime.h); kernels follow from 16. */
const CONTROLS = ['', 'alloc', 'free', 'write', 'upload', 'read', 'fence', 'signal', 'wait', 'mark']
const FIRST_KERNEL_CODE = 16
/** Set by the first process, for those that it starts. */
const FIRST_PROCESS = 'FUSELM_PROFILE_FIRST'
/** Queues of one device are numbered below this. */
const DEVICE_ROWS = 1000
/** Commands written to the trace; the table counts all. */
const MAX_TRACED = 1_000_000

interface Source {
  takeTrace(): NativeTraceEvent[]
  setTracing(on: boolean): void
  kernels(): { readonly signature: string }[]
}

interface ProfiledEvent extends NativeTraceEvent {
  readonly name: string
  /** Number of its device in this process, from 0. */
  readonly device: number
}

export interface OpProfile {
  readonly op: string
  readonly calls: number
  readonly milliseconds: number
  /** Of the time in all commands. */
  readonly share: number
  /** Bytes of the tensor arguments over time: what must at least be moved. */
  readonly gigabytesPerSecond: number
  /** undefined where the op states no flops. */
  readonly gigaflopsPerSecond: number | undefined
}

const events: ProfiledEvent[] = []
/** Devices that are open, and their numbers. */
const sources = new Map<Source, number>()
let opened = 0
let flopsByOp: () => ReadonlyMap<string, number> = () => new Map()
let registered = false

/** Where the trace goes; undefined when nothing is profiled. */
export function profilePath(): string | undefined {
  const path = process.env['FUSELM_PROFILE']
  return path === undefined || path === '' ? undefined : path
}

/** @internal lib/ops knows how many floating-point operations its calls were. */
export function provideFlops(read: () => ReadonlyMap<string, number>): void {
  flopsByOp = read
}

/** @internal A device was opened: traces it when FUSELM_PROFILE is set. */
export function profileDevice(source: Source): void {
  const path = profilePath()
  if (path === undefined) return
  source.setTracing(true)
  sources.set(source, opened++)
  if (registered) return
  registered = true
  process.env[FIRST_PROCESS] ??= String(process.pid)
  process.once('exit', () => {
    for (const open of sources.keys()) collect(open)
    if (events.length === 0) return
    const file = traceFile(path)
    // A string of all commands of a long run would be longer than V8 allows.
    writeFileSync(file, chromeTrace(events.slice(0, MAX_TRACED)))
    process.stderr.write(
      `${formatProfile(summarise(events, flopsByOp()))}${file}: ${events.length} commands\n`,
    )
  })
}

/** `path` for the main thread of the first process; another name for all others. */
function traceFile(path: string): string {
  const { dir, name, ext } = parse(path)
  const written = statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0
  // one that was written since this process began is of a process beside it
  const first = process.env[FIRST_PROCESS] === String(process.pid) && written < performance.timeOrigin
  if (first && threadId === 0) return path
  const suffix = `${first ? '' : `.${process.pid}`}${threadId === 0 ? '' : `.thread-${threadId}`}`
  return `${dir === '' ? '' : `${dir}/`}${name}${suffix}${ext}`
}

/** @internal A device is about to close. */
export function endProfile(source: Source): void {
  collect(source)
  sources.delete(source)
}

function collect(source: Source): void {
  const device = sources.get(source)
  if (device === undefined) return
  const names = source.kernels().map(({ signature }) => signature.slice(0, signature.indexOf('(')))
  for (const event of source.takeTrace()) {
    const name = event.code < FIRST_KERNEL_CODE ? CONTROLS[event.code] : names[event.code - FIRST_KERNEL_CODE]
    events.push({ ...event, device, name: name ?? `code ${event.code}` })
  }
}

/** Trace Event Format, complete events: one row per device and queue, times in microseconds. */
export function chromeTrace(trace: readonly ProfiledEvent[]): string {
  const start = trace.reduce((least, { startNs }) => Math.min(least, startNs), Number.POSITIVE_INFINITY)
  const { pid } = process
  const names = new Map<number, string>()
  const rows = trace.map(({ name, device, queue, step, startNs, endNs, bytes, shapes }) => {
    const tid = device * DEVICE_ROWS + queue
    names.set(tid, `device ${device} queue ${queue}`)
    return JSON.stringify({
      name,
      ph: 'X',
      pid,
      tid,
      ts: (startNs - start) / 1000,
      dur: (endNs - startNs) / 1000,
      args: { step, shapes, bytes },
    })
  })
  for (const [tid, name] of names) {
    rows.push(JSON.stringify({ name: 'thread_name', ph: 'M', pid, tid, args: { name } }))
  }
  return `{"traceEvents":[\n${rows.join(',\n')}\n]}\n`
}

export function summarise(trace: readonly ProfiledEvent[], flops: ReadonlyMap<string, number>): OpProfile[] {
  const byName = new Map<string, { calls: number; ns: number; bytes: number }>()
  let total = 0
  for (const { name, startNs, endNs, bytes } of trace) {
    let sum = byName.get(name)
    if (sum === undefined) {
      sum = { calls: 0, ns: 0, bytes: 0 }
      byName.set(name, sum)
    }
    sum.calls++
    sum.ns += endNs - startNs
    sum.bytes += bytes
    total += endNs - startNs
  }
  return [...byName]
    .map(([op, { calls, ns, bytes }]) => {
      const work = flops.get(op) ?? 0
      return {
        op,
        calls,
        milliseconds: ns / 1e6,
        share: total === 0 ? 0 : ns / total,
        gigabytesPerSecond: ns === 0 ? 0 : bytes / ns,
        gigaflopsPerSecond: work > 0 && ns > 0 ? work / ns : undefined,
      }
    })
    .sort((a, b) => b.milliseconds - a.milliseconds)
}

export function formatProfile(rows: readonly OpProfile[]): string {
  const line = (...cells: string[]): string =>
    `${cells.map((cell, i) => (i === 0 ? cell.padEnd(28) : cell.padStart(10))).join(' ')}\n`
  return (
    line('op', 'calls', 'ms', 'share', 'GB/s', 'GFLOP/s') +
    rows
      .map((row) =>
        line(
          row.op,
          String(row.calls),
          row.milliseconds.toFixed(2),
          `${(row.share * 100).toFixed(1)}%`,
          row.gigabytesPerSecond.toFixed(2),
          row.gigaflopsPerSecond?.toFixed(1) ?? '',
        ),
      )
      .join('')
  )
}
