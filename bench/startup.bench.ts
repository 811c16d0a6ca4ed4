// How long until a program can enqueue: `import 'fuselm'` plus Device.open, in fresh processes.
//
//   npm run bench -- startup [--json]           target: 80 ms

import { execFileSync } from 'node:child_process'
import { percentile } from './percentile.ts'

const SAMPLES = 20

const program = `
  const start = performance.now()
  const { Device } = await import('fuselm')
  const imported = performance.now()
  const device = Device.open()
  const opened = performance.now()
  device.close()
  console.log(JSON.stringify([imported - start, opened - imported]))
`

export function run(): unknown {
  const samples = Array.from({ length: SAMPLES + 3 }, () => {
    const text = execFileSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' })
    return JSON.parse(text) as [number, number]
  }).slice(3)
  const row = (name: string, values: number[]): object => ({
    name,
    minMs: Math.min(...values),
    medianMs: percentile(values, 0.5),
    p90Ms: percentile(values, 0.9),
  })
  const totals = samples.map(([a, b]) => a + b)
  return {
    importPlusOpenMs: percentile(totals, 0.5),
    targetMs: 80,
    rows: [
      row(
        'import',
        samples.map(([a]) => a),
      ),
      row(
        'open',
        samples.map(([, b]) => b),
      ),
      row('import + open', totals),
    ],
  }
}
