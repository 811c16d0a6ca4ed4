// Several programs that take the same training steps, timed in turns.

import type { Tensor } from 'fuselm'
import { percentile } from './percentile.ts'

/** Of some steps in a row. */
export interface PeerRun {
  /** One per step. */
  readonly seconds: readonly number[]
  /** Processor time of all threads; what a step costs, whoever else is on the machine. */
  readonly cpuSeconds: readonly number[]
  readonly losses: readonly number[]
  readonly peakRssBytes: number
}

export interface Contestant {
  readonly name: string
  /** Those of one group must come to the same losses. Default one group. */
  readonly group?: string
  run(steps: number): Promise<PeerRun>
  close(): void
}

const WARM_UP = 5

/** Our own steps as a contestant; `step` enqueues one and returns its loss, the caller's to dispose. */
export function contestant(
  name: string,
  trained: { step(): Tensor; dispose(): void },
  group?: string,
): Contestant {
  return {
    name,
    ...(group !== undefined && { group }),
    async run(steps) {
      const seconds: number[] = []
      const cpuSeconds: number[] = []
      const losses: number[] = []
      for (let i = 0; i < steps; i++) {
        const start = performance.now()
        const cpuStart = process.cpuUsage()
        const loss = trained.step()
        losses.push(await loss.item())
        loss.dispose()
        seconds.push((performance.now() - start) / 1e3)
        const { user, system } = process.cpuUsage(cpuStart)
        cpuSeconds.push((user + system) / 1e6)
      }
      return { seconds, cpuSeconds, losses, peakRssBytes: process.resourceUsage().maxRSS * 1024 }
    },
    close: () => trained.dispose(),
  }
}

export interface ContestOptions {
  /** Timed steps of each. */
  readonly samples: number
  /** Steps in a row. */
  readonly turn: number
  /** Relative, of the first steps. */
  readonly tolerance: number
  /** Of a step. */
  readonly tokens: number
}

/** Equal losses first, then the times; ends the contestants. */
export async function contest(
  contestants: readonly Contestant[],
  { samples, turn, tolerance, tokens }: ContestOptions,
): Promise<{ rows: ContestRow[]; firstLosses: Record<string, readonly number[]> }> {
  try {
    const times = new Map<string, number[]>(contestants.map((c) => [c.name, []]))
    const cpuTimes = new Map<string, number[]>(contestants.map((c) => [c.name, []]))
    const losses = new Map<string, readonly number[]>()
    const rss = new Map<string, number>()
    for (const c of contestants) losses.set(c.name, (await c.run(WARM_UP)).losses)
    for (const group of new Set(contestants.map((c) => c.group))) {
      const names = contestants.filter((c) => c.group === group).map((c) => c.name)
      checkLosses(new Map([...losses].filter(([name]) => names.includes(name))), tolerance)
    }
    // interleaved: a slow minute of the machine falls on all alike
    for (let done = 0; done < samples; done += turn) {
      for (const c of contestants) {
        const { seconds, cpuSeconds, peakRssBytes } = await c.run(Math.min(turn, samples - done))
        times.get(c.name)?.push(...seconds)
        cpuTimes.get(c.name)?.push(...cpuSeconds)
        rss.set(c.name, peakRssBytes)
      }
    }
    const rows = contestants.map(({ name }) => {
      const seconds = times.get(name) ?? []
      return {
        name,
        tokensPerSecond: Math.round(tokens / percentile(seconds, 0.5)),
        stepMs: percentile(seconds, 0.5) * 1e3,
        interquartileMs: (percentile(seconds, 0.75) - percentile(seconds, 0.25)) * 1e3,
        fastestMs: percentile(seconds, 0) * 1e3,
        cpuMs: percentile(cpuTimes.get(name) ?? [], 0.5) * 1e3,
        peakRssMB: Math.round((rss.get(name) ?? 0) / 2 ** 20),
      }
    })
    return { rows, firstLosses: Object.fromEntries(losses) }
  } finally {
    for (const c of contestants) c.close()
  }
}

export interface ContestRow {
  readonly name: string
  readonly tokensPerSecond: number
  readonly stepMs: number
  readonly interquartileMs: number
  readonly fastestMs: number
  readonly cpuMs: number
  readonly peakRssMB: number
}

/** Speed of different work cannot be compared: the losses must be the same first. */
function checkLosses(losses: ReadonlyMap<string, readonly number[]>, tolerance: number): void {
  const [[, first] = ['', []], ...others] = losses
  for (const [name, values] of others) {
    values.forEach((value, i) => {
      const own = first[i] ?? Number.NaN
      if (!(Math.abs(value - own) <= tolerance * Math.abs(own))) {
        throw new Error(
          `step ${i}: loss ${own} differs from ${value} of ${name}; the times cannot be compared`,
        )
      }
    })
  }
}
