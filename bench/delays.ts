// How long the event loop was kept waiting: by Node's own histogram, a timer every millisecond; by a process
// that does nothing in the same seconds, which is what the machine itself takes; and by the processor time that
// the thread used between two turns of a timer, which is what it blocks by its own doing.

import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks'
import { percentile } from './percentile.ts'

export const TARGET_P99_MS = 10
export const TARGET_P999_MS = 25

/** Prints its own histogram when its input ends. */
const idle = `
  import { monitorEventLoopDelay } from 'node:perf_hooks'
  const histogram = monitorEventLoopDelay({ resolution: 1 })
  histogram.enable()
  process.stdin.on('data', () => {}).on('end', () => {
    const at = (p) => histogram.percentile(p) / 1e6
    console.log(JSON.stringify({ count: histogram.count, p50: at(50), p99: at(99), p999: at(99.9), max: histogram.max / 1e6 }))
  })`

interface Delays {
  readonly count: number
  readonly p50: number
  readonly p99: number
  readonly p999: number
  readonly max: number
}

function delays(histogram: IntervalHistogram): Delays {
  const at = (percentile: number): number => histogram.percentile(percentile) / 1e6
  return { count: histogram.count, p50: at(50), p99: at(99), p999: at(99.9), max: histogram.max / 1e6 }
}

/** Processor time of this thread so far, in milliseconds; it is the process's first. */
function threadMs(): number {
  return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6
}

/** Processor time between turns of a timer of a millisecond. */
function watchOwn(): { end(): Delays } {
  const values: number[] = []
  let last = threadMs()
  const timer = setInterval(() => {
    const now = threadMs()
    values.push(now - last)
    last = now
  }, 1)
  return {
    end() {
      clearInterval(timer)
      const at = (q: number): number => percentile(values, q)
      const max = values.reduce((most, value) => Math.max(most, value), 0)
      return { count: values.length, p50: at(0.5), p99: at(0.99), p999: at(0.999), max }
    },
  }
}

function watchIdle(): { end(): Promise<Delays> } {
  const child = spawn(process.execPath, ['--input-type=module', '-e', idle], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  return {
    async end() {
      child.stdin.end()
      let text = ''
      for await (const part of child.stdout) text += part
      return JSON.parse(text) as Delays
    },
  }
}

/** Watches until `end`. */
export function watchDelays(): { end(): Promise<{ held: boolean; rows: object[] }> } {
  const histogram = monitorEventLoopDelay({ resolution: 1 })
  histogram.enable()
  const [own, idle] = [watchOwn(), watchIdle()]
  return {
    async end() {
      histogram.disable()
      const found = { ours: delays(histogram), own: own.end(), idle: await idle.end() }
      const row = (name: string, { count, p50, p99, p999, max }: Delays): object => ({
        process: name,
        count,
        p50Ms: p50,
        p99Ms: p99,
        p999Ms: p999,
        maxMs: max,
      })
      return {
        held: found.ours.p99 <= TARGET_P99_MS && found.ours.p999 <= TARGET_P999_MS,
        rows: [row('working', found.ours), row('idle', found.idle), row('own processor time', found.own)],
      }
    },
  }
}
