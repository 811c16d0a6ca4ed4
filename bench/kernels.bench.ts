// How fast is each hot kernel at each instruction level? Shapes come from the `bench` entries of the
// case tables (test/ops/<op>.cases.ts); a backward is measured through its forward.
//
//   npm run bench -- kernels [--ops attention,linear] [--levels avx2,avx512] [--json]
//
// GB/s counts the bytes of all tensor arguments once: what must at least be moved.

import { readdirSync } from 'node:fs'
import { parseArgs } from 'node:util'
import type { Device } from 'fuselm'
import { profiling, registeredOps } from '../lib/ops/registry.ts'
import { type BenchCase, type CaseInputs, inputSpec, type OpCases } from '../test/ops/cases.ts'
import { random } from '../test/ops/random.ts'
import {
  type AnyOp,
  backwardAll,
  closeDevice,
  type Dev,
  isFloating,
  machineLevels,
  makeTensor,
  openDevice,
  type Ten,
} from '../test/ops/runner/library.ts'
import { type MatrixDType, prepare } from '../test/ops/runner/prepare.ts'
import { percentile } from './percentile.ts'

const WARM_UP = 3
const SAMPLES = 15
const BUDGET_MS = 300 // of the warm-up and of the samples of one case at one level
const FIRST_KERNEL_CODE = 16

type Table = OpCases<AnyOp>

async function tables(only: readonly string[]): Promise<Table[]> {
  const names = readdirSync('test/ops')
    .filter((file) => file.endsWith('.cases.ts'))
    .map((file) => file.slice(0, -'.cases.ts'.length))
  const found = await Promise.all(
    names.map(async (name) => {
      const { default: exported } = (await import(`../test/ops/${name}.cases.ts`)) as {
        default: Table | Table[]
      }
      return Array.isArray(exported) ? exported : [exported]
    }),
  )
  return found
    .flat()
    .filter(
      ({ op, bench = [] }) => bench.length > 0 && (only.length === 0 || only.includes(op.definition.name)),
    )
}

interface Row {
  readonly kernel: string
  readonly shapes: string
  readonly dtype: MatrixDType
  readonly level: Device['isa']
  readonly ms: number
  readonly gigabytesPerSecond: number
  readonly gigaflopsPerSecond: number | undefined
}

const normals = (() => {
  const { normal } = random('kernels')
  return Float64Array.from({ length: 65_521 }, normal) // a prime: rows do not repeat each other
})()

/** Normal values from a table: a draw for each of 40 million elements would outlast the bench. */
function quickFills(inputs: CaseInputs): CaseInputs {
  return Object.fromEntries(
    Object.entries(inputs).map(([name, given]) => {
      if (given === null) return [name, null]
      const spec = inputSpec(given)
      if (spec.fill !== undefined) return [name, given]
      return [name, { ...spec, fill: { from: (i: number) => normals[i % normals.length] ?? 0 } }]
    }),
  )
}

/** Runs forward (and backward) until enough samples are there; one row per kernel of the op. */
async function measure(device: Dev, { op }: Table, given: BenchCase, dtype: MatrixDType): Promise<Row[]> {
  const { definition } = op
  const groupsGiven = given.groups?.map(quickFills)
  const prepared = prepare(
    definition,
    {
      name: 'bench',
      ...given,
      inputs: quickFills(given.inputs),
      ...(groupsGiven && { groups: groupsGiven }),
    },
    dtype,
  )
  const differentiable = definition.differentiable !== false
  const alive: Ten[] = []
  const make = (input: (typeof prepared.inputs)[number]): Ten | null => {
    if (input === null) return null
    const requiresGrad = differentiable && !input.inPlace && isFloating(input.dtype)
    const { values, shape, strides } = input
    const tensor = makeTensor(device, values, { shape, dtype: input.dtype, strides, requiresGrad })
    alive.push(tensor)
    return tensor
  }
  const inputs = prepared.inputs.map(make)
  const groups = prepared.groups.map((group) => group.map(make))
  const once = async (): Promise<void> => {
    const outputs = op(inputs, prepared.attributes, groups)
    const sources = outputs.filter((t): t is Ten => t?.requiresGrad === true)
    if (sources.length > 0) {
      const dys = sources.map((t) =>
        makeTensor(device, new Float64Array(t.size).fill(0.5), { shape: t.shape, dtype: t.dtype }),
      )
      backwardAll(sources, dys)
      for (const dy of dys) dy.dispose()
    }
    for (const output of outputs) output?.dispose()
    await device.sync()
  }
  try {
    const began = performance.now()
    for (let i = 0; i < WARM_UP && performance.now() - began < BUDGET_MS; i++) await once()
    device.takeTrace()
    const records = [...registeredOps().values()]
    const before = new Map(records.map((r) => [r.definition.name, { ...r.stats }]))
    const start = performance.now()
    for (let i = 0; i < SAMPLES && (i === 0 || performance.now() - start < BUDGET_MS); i++) await once()
    const kernels = device.kernels()
    const times = new Map<string, { ms: number[]; bytes: number; shapes: string }>()
    for (const { code, startNs, endNs, bytes, shapes } of device.takeTrace()) {
      const kernel = kernels[code - FIRST_KERNEL_CODE]
      if (code < FIRST_KERNEL_CODE || kernel === undefined) continue
      const name = kernel.signature.slice(0, kernel.signature.indexOf('('))
      if (name !== definition.name && !name.startsWith(`${definition.name}.`)) continue
      const known = times.get(name) ?? { ms: [], bytes, shapes }
      known.ms.push((endNs - startNs) / 1e6)
      times.set(name, known)
    }
    return [...times].map(([kernel, { ms, bytes, shapes }]) => {
      const median = percentile(ms, 0.5)
      const stats = registeredOps().get(kernel)?.stats
      const calls = (stats?.kernel ?? 0) - (before.get(kernel)?.kernel ?? 0)
      const flops = ((stats?.flops ?? 0) - (before.get(kernel)?.flops ?? 0)) / Math.max(1, calls)
      return {
        kernel,
        shapes,
        dtype,
        level: device.isa,
        ms: median,
        gigabytesPerSecond: bytes / median / 1e6,
        gigaflopsPerSecond: flops > 0 ? flops / median / 1e6 : undefined,
      }
    })
  } finally {
    for (const tensor of alive) tensor.dispose()
  }
}

export async function run(argv: readonly string[]): Promise<unknown> {
  const { values } = parseArgs({
    args: [...argv],
    options: { ops: { type: 'string', default: '' }, levels: { type: 'string', default: '' } },
  })
  const list = (text: string): string[] => text.split(',').filter((name) => name !== '')
  const levels = list(values.levels)
  profiling.on = true
  const rows: Row[] = []
  const chosen = await tables(list(values.ops))
  for (const level of machineLevels()) {
    if (levels.length > 0 && !levels.includes(level)) continue
    const device = openDevice({ isa: level, threads: 2, guard: false })
    device.setTracing(true)
    for (const table of chosen) {
      for (const given of table.bench ?? []) {
        for (const dtype of given.dtypes ?? (['f32', 'bf16'] as const)) {
          rows.push(...(await measure(device, table, given, dtype)))
        }
      }
    }
    closeDevice(device)
  }
  rows.sort((a, b) => (a.kernel === b.kernel ? 0 : a.kernel < b.kernel ? -1 : 1))
  return { rows }
}
