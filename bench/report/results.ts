// Reads bench/results back: files that people copy about, so every field is checked.

import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Limits, parseLimits } from '../limits.ts'

/** A row that a kernel bench made. */
export interface KernelRow {
  readonly kernel: string
  readonly shape: string
  readonly dtype: string
  readonly ms: number
  readonly iqrMs: number
  readonly gflops: number
  readonly gigabytesPerSecond: number
  readonly shareOfLimit: number
  readonly limit: 'arithmetic' | 'memory'
  readonly peer: { readonly mode: string; readonly ms: number; readonly ratio: number } | null
}

export interface TrainRow {
  readonly name: string
  readonly tokensPerSecond: number
  readonly stepMs: number
  readonly interquartileMs: number
  readonly peakRssMB: number
}

export interface Head {
  readonly bench: string
  readonly date: string
  readonly commit: string
  readonly cpu: string
  readonly isa: string
  readonly threads: number
}

export type Result = Head &
  (
    | {
        readonly kind: 'kernels'
        readonly limits: Limits
        readonly peer: string | null
        readonly rows: readonly KernelRow[]
      }
    | {
        readonly kind: 'train'
        readonly model: string
        readonly dtype: string
        readonly rows: readonly TrainRow[]
      }
  )

class Fields {
  readonly #values: ReadonlyMap<string, unknown>
  readonly #where: string

  constructor(value: unknown, where: string) {
    if (typeof value !== 'object' || value === null) throw new Error(`${where}: not an object`)
    this.#values = new Map(Object.entries(value))
    this.#where = where
  }

  has(name: string): boolean {
    return this.#values.get(name) !== undefined
  }

  raw(name: string): unknown {
    return this.#values.get(name)
  }

  text(name: string): string {
    const value = this.#values.get(name)
    if (typeof value === 'string' && value.length <= 200) return value
    throw new Error(`${this.#where}: ${name} must be a short text`)
  }

  number(name: string): number {
    const value = this.#values.get(name)
    if (typeof value === 'number' && Number.isFinite(value) && value >= 0) return value
    throw new Error(`${this.#where}: ${name} must be a number >= 0, received ${String(value)}`)
  }

  list(name: string): Fields[] {
    const value = this.#values.get(name)
    if (!Array.isArray(value)) throw new Error(`${this.#where}: ${name} must be a list`)
    return value.map((entry: unknown, i) => new Fields(entry, `${this.#where}: ${name}[${i}]`))
  }
}

function kernelRow(row: Fields): KernelRow {
  const limit = row.text('limit')
  if (limit !== 'arithmetic' && limit !== 'memory')
    throw new Error(`limit must be arithmetic or memory: ${limit}`)
  return {
    kernel: row.text('kernel'),
    shape: row.text('shape'),
    dtype: row.text('dtype'),
    ms: row.number('ms'),
    iqrMs: row.number('iqrMs'),
    gflops: row.number('gflops'),
    gigabytesPerSecond: row.number('gigabytesPerSecond'),
    shareOfLimit: row.number('shareOfLimit'),
    limit,
    peer: row.has('peer')
      ? { mode: row.text('peer'), ms: row.number('peerMs'), ratio: row.number('ratio') }
      : null,
  }
}

function trainRow(row: Fields): TrainRow {
  return {
    name: row.text('name'),
    tokensPerSecond: row.number('tokensPerSecond'),
    stepMs: row.number('stepMs'),
    interquartileMs: row.number('interquartileMs'),
    peakRssMB: row.number('peakRssMB'),
  }
}

/** @throws Error naming the field; null for a bench that the report does not draw */
export function parseResult(value: unknown, where: string): Result | null {
  const fields = new Fields(value, where)
  const head: Head = {
    bench: fields.text('bench'),
    date: fields.text('date'),
    commit: fields.text('commit'),
    cpu: fields.text('cpu'),
    isa: fields.text('isa'),
    threads: fields.number('threads'),
  }
  if (Number.isNaN(Date.parse(head.date))) throw new Error(`${where}: date ${head.date} is none`)
  if (head.bench === 'train') {
    const rows = fields.list('rows').map(trainRow)
    return { ...head, kind: 'train', model: fields.text('model'), dtype: fields.text('dtype'), rows }
  }
  if (!fields.has('limits')) return null
  return {
    ...head,
    kind: 'kernels',
    limits: parseLimits(fields.raw('limits')),
    peer: fields.has('peer') ? fields.text('peer') : null,
    rows: fields.list('rows').map(kernelRow),
  }
}

/** What a later result of the same kind replaces. */
function subject(result: Result): string {
  return [result.bench, result.isa, ...(result.kind === 'train' ? [result.model, result.dtype] : [])].join(
    ' ',
  )
}

/** Of two runs of one kernel bench the rows of the later one count, the others stay. */
function merged(earlier: Result | undefined, later: Result): Result {
  if (earlier?.kind !== 'kernels' || later.kind !== 'kernels' || earlier.cpu !== later.cpu) return later
  if (earlier.commit !== later.commit) return later
  const key = (row: KernelRow): string => `${row.kernel} ${row.shape} ${row.dtype}`
  const rows = new Map([...earlier.rows, ...later.rows].map((row) => [key(row), row]))
  return { ...later, rows: [...rows.values()] }
}

/**
 * The latest result of each bench (of each level; of each model for training). A file that cannot be
 * read as one is named in `problems`, not drawn.
 */
export async function readResults(folder: string): Promise<{ results: Result[]; problems: string[] }> {
  const names = (await readdir(folder).catch(() => [])).filter((name) => name.endsWith('.json'))
  const problems: string[] = []
  const all: Result[] = []
  for (const name of names) {
    try {
      const result = parseResult(JSON.parse(await readFile(join(folder, name), 'utf8')), name)
      if (result !== null) all.push(result)
    } catch (error) {
      problems.push(error instanceof Error ? error.message : String(error))
    }
  }
  all.sort((a, b) => Date.parse(a.date) - Date.parse(b.date))
  const latest = new Map<string, Result>()
  for (const result of all) latest.set(subject(result), merged(latest.get(subject(result)), result))
  return { results: [...latest.values()], problems }
}
