// Does a long run hold its memory? Live tensors after 1,000 steps as after the first ones, and RSS at
// the end within 16 MB of step 200.
//
//   npm run bench -- soak [--model 1M] [--steps 1000] [--json]

import { parseArgs } from 'node:util'
import { Device } from 'fuselm'
import { modelName, trainer } from './workload.ts'

const SETTLED = 200
const LIMIT_MB = 16

export async function run(argv: readonly string[]): Promise<unknown> {
  const { values } = parseArgs({
    args: [...argv],
    options: { model: { type: 'string', default: '1M' }, steps: { type: 'string', default: '1000' } },
  })
  const steps = Number(values.steps)
  const trained = trainer(modelName(values.model))
  const device = Device.default()
  const rows: { step: number; liveTensors: number; liveMB: number; rssMB: number; heapMB: number }[] = []
  for (let step = 1; step <= steps; step++) {
    const loss = trained.step()
    await loss.item()
    loss.dispose()
    if (step % 100 === 0 || step === 10) {
      const { liveStorages, liveBytes } = device.memory()
      const { rss, heapUsed } = process.memoryUsage()
      rows.push({
        step,
        liveTensors: liveStorages,
        liveMB: liveBytes / 2 ** 20,
        rssMB: rss / 2 ** 20,
        heapMB: heapUsed / 2 ** 20,
      })
    }
  }
  trained.dispose()
  await device.sync()
  const leftover = device.memory().liveStorages
  const settled = rows.find((row) => row.step === SETTLED) ?? rows[0]
  const last = rows.at(-1)
  const growthMB = (last?.rssMB ?? 0) - (settled?.rssMB ?? 0)
  const liveGrowth = (last?.liveTensors ?? 0) - (rows[0]?.liveTensors ?? 0)
  return {
    model: values.model,
    steps,
    liveTensorGrowth: liveGrowth,
    leftAfterDispose: leftover,
    rssGrowthMB: growthMB,
    limitMB: LIMIT_MB,
    held: liveGrowth === 0 && leftover === 0 && growthMB <= LIMIT_MB,
    rows,
  }
}
