// What one op costs the JavaScript thread: checks, shape inference, output tensor, record, and freeing
// the output when its scope ends (every training step is one); outside a scope a finalizer comes on top.
// The work itself is a few elements, and is waited for outside the timed part.
//
//   npm run bench -- enqueue [--json]           target: 1 us per op

import { Device, ops, scope, tensor } from 'fuselm'
import { percentile } from './percentile.ts'

interface Row {
  readonly name: string
  readonly minUs: number
  readonly medianUs: number
  readonly p90Us: number
}

const OPS = 2000
const SAMPLES = 60
const WARM_UP = 30

async function measure(name: string, body: () => void): Promise<Row> {
  const queue = Device.default().queue
  const samples: number[] = []
  for (let i = 0; i < SAMPLES + WARM_UP; i++) {
    const start = performance.now()
    body()
    const microseconds = ((performance.now() - start) * 1000) / OPS
    if (i >= WARM_UP) samples.push(microseconds)
    await queue.fence()
  }
  return {
    name,
    minUs: Math.min(...samples),
    medianUs: percentile(samples, 0.5),
    p90Us: percentile(samples, 0.9),
  }
}

function inScope(op: () => void): () => void {
  return () =>
    scope(() => {
      for (let i = 0; i < OPS; i++) op()
    })
}

export async function run(): Promise<unknown> {
  const device = Device.default()
  const queue = device.queue
  const x = tensor([1, 2, 3, 4, 5, 6, 7, 8], { shape: [2, 4], dtype: 'f32' })
  const w = tensor([1, 1, 1, 1], { shape: [4], dtype: 'f32' })
  const parameter = tensor([1, 1, 1, 1], { shape: [4], dtype: 'f32' })
  parameter.requiresGrad = true
  const copy = device.kernel('copy_into(target!, source)')
  if (copy === undefined) throw new Error('copy_into is not registered')
  const other = tensor([1, 1, 1, 1], { shape: [4], dtype: 'f32' })
  const rows = [
    await measure('record only (Queue.enqueue)', () => {
      for (let i = 0; i < OPS; i++) queue.enqueue(copy, [other, w], [])
    }),
    await measure(
      'add',
      inScope(() => void ops.add(x, x)),
    ),
    await measure(
      'add, broadcasting',
      inScope(() => void ops.add(x, w)),
    ),
    await measure(
      'rmsNorm',
      inScope(() => void ops.rmsNorm(x, w)),
    ),
    await measure(
      'rmsNorm with a gradient node',
      inScope(() => void ops.rmsNorm(x, parameter)),
    ),
    await measure(
      'transpose (a view)',
      inScope(() => void x.transpose(0, 1)),
    ),
    await measure('rmsNorm outside a scope, disposed', () => {
      for (let i = 0; i < OPS; i++) ops.rmsNorm(x, w).dispose()
    }),
  ]
  for (const t of [x, w, other, parameter]) t.dispose()
  await device.sync()
  const worst = Math.max(...rows.map((row) => row.medianUs))
  return { microsecondsPerOp: worst, targetUs: 1, rows }
}
