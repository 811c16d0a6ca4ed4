// One op against PyTorch's and against the machine: the same seeded inputs, results compared first,
// then timed in turns (A B A B), so that a slow moment of the machine falls on all alike.

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Device, type DType, scope, type Tensor, type TensorData, tensor, zeros } from 'fuselm'
import { bestLimits, type Limits, measureLimits, parseLimits } from './limits.ts'
import { findTorch, Peer } from './peers/peer.ts'
import { percentile } from './percentile.ts'

const WARM_UP = 5
const SAMPLES = 20
/** Calls of one sample take about this long together, so that a call's overhead is spread. */
const SAMPLE_MS = 20
/** A call longer than this is sampled less often. */
const LONG_MS = 1000
const LONG_SAMPLES = 3
const NORMALS = 65_521 // a prime: rows do not repeat each other

export type FloatType = 'f32' | 'bf16'

/** Values that any program can make again from the table of normals, or by arithmetic. */
export type Input =
  | {
      readonly shape: readonly number[]
      /** Default: that of the case. */
      readonly dtype?: FloatType
      /** Of the normals. Default 1. */
      readonly scale?: number
      readonly grad?: boolean
    }
  /** i32, (7919 i + 13) mod `below` */
  | { readonly shape: readonly number[]; readonly below: number }
  | { readonly shape: readonly number[]; readonly zeros: DType }

export interface Case {
  readonly kernel: string
  readonly shape: string
  readonly dtype: FloatType
  readonly inputs: Readonly<Record<string, Input>>
  readonly flops: number
  /** That must at least be moved. */
  readonly bytes: number
  /** What limits the arithmetic. Default: that of `dtype`. */
  readonly arithmetic?: 'f32' | 'bf16' | 'int8'
  /** What `run` needs besides the inputs, made once. */
  readonly prepare?: (inputs: Readonly<Record<string, Tensor>>) => Readonly<Record<string, Tensor>>
  /** Enqueues the work once; results in the order in which the peer returns them. */
  readonly run: (inputs: Readonly<Record<string, Tensor>>) => readonly Tensor[]
  /** What is compared, when `run` returns nothing because it works in place. */
  readonly results?: (inputs: Readonly<Record<string, Tensor>>) => readonly Tensor[]
  /** The function of peers/ops_torch.py that does the same, with its arguments; null: none does. */
  readonly peer: { readonly work: string; readonly [argument: string]: string | number } | null
  /** Largest norm of the difference to the peer's results over the norm of those. */
  readonly tolerance: number
}

export interface Row {
  readonly kernel: string
  readonly shape: string
  readonly dtype: FloatType
  readonly ms: number
  readonly iqrMs: number
  readonly gflops: number
  readonly gigabytesPerSecond: number
  /** Time at the machine's limits over time taken. */
  readonly shareOfLimit: number
  readonly limit: 'arithmetic' | 'memory'
  readonly peer?: string
  readonly peerMs?: number
  readonly peerIqrMs?: number
  /** Time of the peer's best mode over ours. */
  readonly ratio?: number
}

export interface Comparison {
  readonly limits: Limits
  readonly peer?: string
  readonly ratioGeomean?: number
  readonly rows: readonly Row[]
}

/** xorshift32 through the Box-Muller transform: the same in every run. */
function normalTable(): Float32Array {
  let state = 0x9e3779b9
  const uniform = (): number => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return ((state >>> 0) + 0.5) / 2 ** 32
  }
  return Float32Array.from({ length: NORMALS }, () => {
    const radius = Math.sqrt(-2 * Math.log(uniform()))
    return radius * Math.cos(2 * Math.PI * uniform())
  })
}

function makeInput(input: Input, dtype: FloatType, offset: number, table: Float32Array): Tensor {
  const { shape } = input
  if ('zeros' in input) return zeros(shape, { dtype: input.zeros })
  const size = shape.reduce((product, n) => product * n, 1)
  if ('below' in input) {
    const ids = Int32Array.from({ length: size }, (_, i) => (7919 * i + 13) % input.below)
    return tensor(ids, { shape, dtype: 'i32' })
  }
  const { scale = 1 } = input
  const values = new Float32Array(size)
  for (let i = 0; i < size; i++) values[i] = (table[(i + offset) % NORMALS] as number) * scale
  const made = tensor(values, { shape, dtype: input.dtype ?? dtype })
  if (input.grad === true) made.requiresGrad = true
  return made
}

/** Where in the table an input begins: the inputs of a case differ. */
const offsetOf = (position: number): number => 4099 * position

function makeInputs(given: Case, table: Float32Array): Readonly<Record<string, Tensor>> {
  return Object.fromEntries(
    Object.entries(given.inputs).map(([name, input], i) => [
      name,
      makeInput(input, given.dtype, offsetOf(i), table),
    ]),
  )
}

/** Milliseconds per call. */
type Timer = (calls: number) => Promise<number>

function ours({ run }: Case, inputs: Readonly<Record<string, Tensor>>): Timer {
  const device = Device.default()
  return async (calls) => {
    const start = performance.now()
    for (let i = 0; i < calls; i++) scope(() => void run(inputs))
    await device.sync()
    return (performance.now() - start) / calls
  }
}

async function results(
  { run, results: compared = run }: Case,
  inputs: Readonly<Record<string, Tensor>>,
): Promise<TensorData[]> {
  const outputs = scope(() => compared(inputs))
  const values = await Promise.all(outputs.map((t) => t.toArray()))
  for (const t of outputs) t.dispose()
  return values
}

/** @throws Error when the results differ: the times of different work cannot be compared */
async function checkResults(given: Case, own: readonly TensorData[], file: string): Promise<void> {
  const bytes = await readFile(file)
  const theirs = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
  let at = 0
  for (const [i, values] of own.entries()) {
    let difference = 0
    let norm = 0
    for (const element of values) {
      const value = Number(element)
      const other = theirs[at++] ?? Number.NaN
      difference += (value - other) ** 2
      norm += other ** 2
    }
    const error = Math.sqrt(difference / norm)
    if (!(error <= given.tolerance)) {
      throw new Error(
        `${given.kernel} ${given.shape} ${given.dtype}: result ${i} differs from PyTorch's by ${error} of its norm; the times cannot be compared`,
      )
    }
  }
  if (at !== theirs.length)
    throw new Error(`${given.kernel}: PyTorch returned ${theirs.length} values, we ${at}`)
}

/** The peer's timers by mode, once its results are the same. */
async function peerTimers(
  peer: Peer,
  given: Case,
  own: readonly TensorData[],
  folder: string,
): Promise<Map<string, Timer>> {
  if (given.peer === null) return new Map()
  const file = join(folder, 'outputs.f32')
  const { modes } = await peer.ask({
    prepare: given.peer,
    dtype: given.dtype,
    inputs: Object.fromEntries(
      Object.entries(given.inputs).map(([name, input], i) => [name, { ...input, offset: offsetOf(i) }]),
    ),
    outputs: file,
  })
  await checkResults(given, own, file)
  return new Map(
    (modes as string[]).map((mode): [string, Timer] => [
      mode,
      async (calls) => {
        const { seconds } = await peer.ask({ time: mode, calls })
        return (Number(seconds) * 1e3) / calls
      },
    ]),
  )
}

/** How many calls make a sample of about SAMPLE_MS, after warming up. */
async function warmUp(time: Timer): Promise<number> {
  const first = await time(1)
  if (first > LONG_MS) return 1
  let fastest = first
  for (let i = 1; i < WARM_UP; i++) fastest = Math.min(fastest, await time(1))
  return Math.max(1, Math.min(1000, Math.round(SAMPLE_MS / fastest)))
}

async function measure(timers: ReadonlyMap<string, Timer>): Promise<Map<string, number[]>> {
  const calls = new Map<string, number>()
  for (const [name, time] of timers) calls.set(name, await warmUp(time))
  const times = new Map<string, number[]>([...timers.keys()].map((name) => [name, []]))
  for (let i = 0; i < SAMPLES; i++) {
    for (const [name, time] of timers) times.get(name)?.push(await time(calls.get(name) ?? 1))
    const slowest = Math.max(...[...times.values()].map((list) => list[0] ?? 0))
    if (slowest > LONG_MS && i + 1 >= LONG_SAMPLES) break
  }
  return times
}

const median = (times: readonly number[]): number => percentile(times, 0.5)
const iqr = (times: readonly number[]): number => percentile(times, 0.75) - percentile(times, 0.25)

interface Timed {
  readonly given: Case
  readonly times: readonly number[]
  readonly best: { readonly mode: string; readonly times: readonly number[] } | null
}

function row({ given, times, best }: Timed, limits: Limits): Row {
  const { kernel, shape, dtype, flops, bytes, arithmetic = dtype } = given
  const peak = { f32: limits.f32Gflops, bf16: limits.bf16Gflops, int8: limits.int8Gops }[arithmetic]
  const ms = median(times)
  const arithmeticMs = flops / peak / 1e6
  const memoryMs = bytes / Math.max(limits.copyGBs, limits.readGBs) / 1e6
  return {
    kernel,
    shape,
    dtype,
    ms,
    iqrMs: iqr(times),
    gflops: flops / ms / 1e6,
    gigabytesPerSecond: bytes / ms / 1e6,
    shareOfLimit: Math.max(arithmeticMs, memoryMs) / ms,
    limit: arithmeticMs > memoryMs ? 'arithmetic' : 'memory',
    ...(best !== null && {
      peer: best.mode,
      peerMs: median(best.times),
      peerIqrMs: iqr(best.times),
      ratio: median(best.times) / ms,
    }),
  }
}

/** For whoever waits, and for what is left of a bench that is cut off. */
function progress({ kernel, shape, dtype, ms, shareOfLimit, peer, ratio }: Row): string {
  const beside = peer === undefined ? '' : `, ${ratio?.toFixed(2)} of PyTorch's ${peer}`
  return `${kernel} ${shape} ${dtype}: ${ms.toPrecision(4)} ms, ${(100 * shareOfLimit).toFixed(0)}% of the limit${beside}`
}

async function compare(given: Case, peer: Peer | null, table: Float32Array, folder: string): Promise<Timed> {
  const made = makeInputs(given, table)
  const inputs = { ...made, ...given.prepare?.(made) }
  try {
    const theirs =
      peer === null
        ? new Map<string, Timer>()
        : await peerTimers(peer, given, given.peer === null ? [] : await results(given, inputs), folder)
    const times = await measure(new Map([['fuselm', ours(given, inputs)], ...theirs]))
    const [best = null] = [...theirs.keys()]
      .map((mode) => ({ mode, times: times.get(mode) ?? [] }))
      .sort((a, b) => median(a.times) - median(b.times))
    return { given, times: times.get('fuselm') ?? [], best }
  } finally {
    for (const t of Object.values(inputs)) t.dispose()
    await peer?.ask({ forget: true })
  }
}

async function startPeer(folder: string, table: Float32Array): Promise<Peer | null> {
  const torch = findTorch()
  if ('reason' in torch) {
    process.stderr.write(`no PyTorch peer: ${torch.reason}\n`)
    return null
  }
  const normals = join(folder, 'normals.f32')
  await writeFile(normals, new Uint8Array(table.buffer))
  const { isa, threads, kind } = Device.default()
  return Peer.start(torch.python, {
    program: fileURLToPath(new URL('../../bench/peers/ops_torch.py', import.meta.url)),
    arguments: { normals, threads, device: kind },
    isa,
  })
}

async function limitsOf(peer: Peer | null): Promise<Limits> {
  const { isa, threads, kind } = Device.default()
  if (kind === 'cpu') return measureLimits(isa, threads)
  if (peer === null) throw new Error('on a GPU it is PyTorch that measures the limits: --peers')
  return parseLimits(await peer.ask({ limits: true }))
}

/**
 * Measures every case; with `--peers` beside PyTorch. `--only text` keeps the cases whose kernel,
 * shape or dtype contains the text. The machine's limits are measured before and after.
 */
export async function compareAll(argv: readonly string[], cases: readonly Case[]): Promise<Comparison> {
  const { values } = parseArgs({
    args: [...argv],
    options: { peers: { type: 'boolean', default: false }, only: { type: 'string', default: '' } },
  })
  const chosen = cases.filter(({ kernel, shape, dtype }) =>
    `${kernel} ${shape} ${dtype}`.includes(values.only),
  )
  if (chosen.length === 0) throw new Error(`--only ${values.only}: no such case`)
  const table = normalTable()
  const folder = await mkdtemp(join(tmpdir(), 'fuselm-bench-'))
  let peer: Peer | null = null
  try {
    if (values.peers) peer = await startPeer(folder, table)
    const before = await limitsOf(peer)
    const timed: Timed[] = []
    for (const given of chosen) {
      const measured = await compare(given, peer, table, folder)
      timed.push(measured)
      process.stderr.write(`${progress(row(measured, before))}\n`)
    }
    const limits = bestLimits([before, await limitsOf(peer)])
    const rows = timed.map((each) => row(each, limits))
    const ratios = rows.flatMap(({ ratio }) => (ratio === undefined ? [] : [ratio]))
    return {
      limits,
      ...(peer !== null && { peer: `torch ${peer.version}` }),
      ...(ratios.length > 0 && {
        ratioGeomean: Math.exp(ratios.reduce((sum, r) => sum + Math.log(r), 0) / ratios.length),
      }),
      rows,
    }
  } finally {
    peer?.close()
    await rm(folder, { recursive: true, force: true })
  }
}
