// What does gradient checkpointing save, and what does it cost?
//
//   npm run bench -- checkpoint [--model 10M] [--dtype bf16|f32] [--steps 10] [--json]
//
// activationMB is what the device holds at its fullest in a step, above what it holds between steps.

import { parseArgs } from 'node:util'
import { Device } from 'fuselm'
import { modelName, trainer } from './workload.ts'

// from the least memory to the most: the device only knows the highest peak so far
const MODES = [
  { name: 'every layer', checkpoint: true },
  { name: 'one layer of 2', checkpoint: 2 },
  { name: 'one layer of 4', checkpoint: 4 },
  { name: 'none', checkpoint: false },
] as const
const WARM_UP = 2

export async function run(argv: readonly string[]): Promise<unknown> {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      model: { type: 'string', default: '10M' },
      dtype: { type: 'string', default: 'bf16' },
      steps: { type: 'string', default: '10' },
    },
  })
  const { dtype } = values
  if (dtype !== 'bf16' && dtype !== 'f32') throw new Error('--dtype must be bf16 or f32')
  const device = Device.default()
  const trained = trainer(modelName(values.model), dtype)
  const step = async (checkpoint: boolean | number): Promise<number> => {
    const start = performance.now()
    const loss = trained.step({ checkpoint })
    await loss.item()
    loss.dispose()
    return performance.now() - start
  }
  await device.sync()
  const between = device.memory().liveBytes
  const peaks: number[] = []
  for (const { checkpoint } of MODES) {
    for (let i = 0; i < WARM_UP; i++) await step(checkpoint)
    await device.sync()
    peaks.push(device.memory().peakBytes - between)
  }
  const times = MODES.map((): number[] => [])
  for (let i = 0; i < Number(values.steps); i++) {
    for (const [mode, { checkpoint }] of MODES.entries()) times[mode]?.push(await step(checkpoint))
  }
  trained.dispose()
  const medians = times.map((all) => all.sort((a, b) => a - b)[Math.floor(all.length / 2)] ?? Number.NaN)
  const [allBytes = 0, allMs = 0] = [peaks.at(-1), medians.at(-1)]
  const rows = MODES.map(({ name }, i) => ({
    checkpointed: name,
    activationMB: Math.round((peaks[i] ?? 0) / 2 ** 20),
    ofAllBytes: (peaks[i] ?? 0) / allBytes,
    stepMs: medians[i] ?? Number.NaN,
    fastestMs: times[i]?.[0] ?? Number.NaN,
    ofAllTime: (medians[i] ?? 0) / allMs,
  }))
  return { model: values.model, dtype, threads: device.threads, rows }
}
