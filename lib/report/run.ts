// What a run's folder says of it: metrics.jsonl, the newest checkpoint's state, the model's shape.

import { createReadStream } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { readJsonObject } from '../io/small-file.ts'
import { ConfigError, FormatError } from '../runtime/errors.ts'
import type { EvalEvent, SampleEvent, StepEvent } from '../train/events.ts'
import { METRICS_FILE } from '../train/run-folder.ts'
import { loadState } from '../train/state.ts'

export interface RunData {
  readonly steps: readonly StepEvent[]
  readonly evals: readonly EvalEvent[]
  readonly samples: readonly SampleEvent[]
  /** Why it ended; null while it has not. */
  readonly reason: string | null
  /** What decided its numbers, from its newest checkpoint; empty before the first. */
  readonly settings: Readonly<Record<string, unknown>>
  /** The model's configuration; empty before the first checkpoint. */
  readonly config: Readonly<Record<string, unknown>>
}

const NUMBERS = {
  step: ['step', 'steps', 'epoch', 'learningRate', 'tokensPerSecond'],
  eval: ['step', 'tokens'],
} as const

/**
 * Reads a run, one that still goes on too.
 * @throws ConfigError when the folder holds none; FormatError naming file and line
 */
export async function readRun(folder: string): Promise<RunData> {
  const path = join(folder, METRICS_FILE)
  if ((await stat(path).catch(() => null)) === null) {
    throw new ConfigError(`report: ${folder} holds no run: there is no ${METRICS_FILE}`)
  }
  const steps: StepEvent[] = []
  const evals: EvalEvent[] = []
  const samples: SampleEvent[] = []
  let reason: string | null = null
  let number = 0
  let broken: FormatError | null = null
  for await (const text of createInterface({ input: createReadStream(path), crlfDelay: Infinity })) {
    number++
    if (broken !== null) throw broken
    const event = parsed(text)
    if (event === null) {
      // the last line of a run that goes on may be half written: it is no error unless another follows
      broken = new FormatError(`${path}:${number}: expected a JSON object, found ${text.slice(0, 60)}`)
      continue
    }
    switch (event['type']) {
      case 'step':
        steps.push(checked<StepEvent>(event, NUMBERS.step, `${path}:${number}`, ['loss', 'gradientNorm']))
        break
      case 'eval':
        evals.push(checked<EvalEvent>(event, NUMBERS.eval, `${path}:${number}`, ['loss', 'perplexity']))
        break
      case 'sample':
        if (typeof event['prompt'] === 'string' && typeof event['text'] === 'string') {
          samples.push(checked<SampleEvent>(event, ['step'], `${path}:${number}`, []))
        }
        break
      case 'done':
        reason = String(event['reason'])
        break
    }
  }
  return { steps, evals, samples, reason, ...(await state(folder)) }
}

function parsed(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : null
  } catch {
    return null
  }
}

/** @param orNull numbers that JSON writes as null where they are none: they become NaN */
function checked<T>(
  event: Record<string, unknown>,
  names: readonly string[],
  where: string,
  orNull: readonly string[],
): T {
  const result = { ...event }
  for (const name of [...names, ...orNull]) {
    const value = event[name]
    if (value === null && orNull.includes(name)) result[name] = Number.NaN
    else if (typeof value !== 'number') {
      throw new FormatError(
        `${where}: ${name}: expected a number, found ${JSON.stringify(value) ?? 'nothing'}`,
      )
    }
  }
  return result as T
}

/** A checkpoint of an adapter has no configuration of its own. */
function none(error: NodeJS.ErrnoException): Record<string, unknown> {
  if (error.code === 'ENOENT') return {}
  throw error
}

async function state(folder: string): Promise<Pick<RunData, 'settings' | 'config'>> {
  // read beside a trainer that may be writing: no lock is taken, and a folder that vanishes is passed over
  const checkpoints = (await readdir(folder))
    .flatMap((name) => /^checkpoint-(\d+)$/.exec(name)?.[1] ?? [])
    .sort((a, b) => Number(b) - Number(a))
  for (const step of checkpoints) {
    try {
      const path = join(folder, `checkpoint-${step}`)
      const { settings } = await loadState(path)
      return { settings, config: await readJsonObject(join(path, 'config.json')).catch(none) }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    }
  }
  return { settings: {}, config: {} }
}
