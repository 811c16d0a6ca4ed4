// Does JavaScript stay responsive while a model trains flat out in the same process?
//   - GET /health on the main thread, asked by another process: target p99 10 ms
//   - a one-element op on a high-priority queue, awaited: target p99 5 ms
//
//   npm run bench -- event-loop [--model 10M] [--seconds 20] [--json]

import { spawn } from 'node:child_process'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Device, full, type Queue, type Tensor, withQueue } from 'fuselm'
import { percentile } from './percentile.ts'
import { modelName, trainer } from './workload.ts'

const WARM_UP_STEPS = 2

/** Asks every 4 ms over one kept connection; prints the latencies as JSON. */
const client = `
  import { Agent, get } from 'node:http'
  const [port, seconds] = process.argv.slice(1).map(Number)
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const ask = () => new Promise((resolve, reject) => {
    const start = performance.now()
    get({ port, agent, path: '/health' }, (response) => {
      response.resume()
      response.on('end', () => resolve(performance.now() - start))
    }).on('error', reject)
  })
  const latencies = []
  for (let i = 0; i < 20; i++) await ask()
  const end = performance.now() + seconds * 1000
  while (performance.now() < end) {
    latencies.push(await ask())
    await new Promise((resolve) => setTimeout(resolve, 4))
  }
  agent.destroy()
  console.log(JSON.stringify(latencies))
`

async function askHealth(server: Server, seconds: number): Promise<number[]> {
  const { port } = server.address() as AddressInfo
  const child = spawn(
    process.execPath,
    ['--input-type=module', '-e', client, String(port), String(seconds)],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  let text = ''
  for await (const part of child.stdout) text += part
  return JSON.parse(text) as number[]
}

/** A one-element op, awaited, every 10 ms until `done`. */
async function askQueue(queue: Queue, done: () => boolean): Promise<number[]> {
  const latencies: number[] = []
  while (!done()) {
    const start = performance.now()
    const y = withQueue(queue, () => full([1], 1))
    await y.item()
    latencies.push(performance.now() - start)
    y.dispose()
    await sleep(10)
  }
  return latencies
}

export async function run(argv: readonly string[]): Promise<unknown> {
  const { values } = parseArgs({
    args: [...argv],
    options: { model: { type: 'string', default: '10M' }, seconds: { type: 'string', default: '20' } },
  })
  const seconds = Number(values.seconds)
  const trained = trainer(modelName(values.model))
  const device = Device.default()
  const queue = device.createQueue({ priority: 10 })
  const server = createServer((_, response) => response.end('ok')).listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))

  let stopped = false
  let steps = 0
  let enqueueMs = 0
  const training = (async () => {
    // Step N runs while the loss of step N-1 is awaited, as a training loop does.
    let previous: Tensor | null = null
    while (!stopped) {
      const start = performance.now()
      const loss = trained.step()
      enqueueMs = Math.max(enqueueMs, performance.now() - start)
      await device.queue.ready()
      if (previous !== null) {
        await previous.item()
        previous.dispose()
      }
      previous = loss
      steps++
    }
    await previous?.item()
    previous?.dispose()
  })()
  // past the first touch of fresh pages: a fault on a 2 MiB page holds its tile for milliseconds
  while (steps < WARM_UP_STEPS) await sleep(50)
  const before = steps
  const started = performance.now()
  const [health, ops] = await Promise.all([
    askHealth(server, seconds).finally(() => {
      stopped = true
    }),
    askQueue(queue, () => stopped),
  ])
  const stepMs = (performance.now() - started) / Math.max(1, steps - before)
  await training
  server.close()
  trained.dispose()
  const row = (name: string, values: number[], targetP99Ms: number): object => ({
    name,
    count: values.length,
    p50Ms: percentile(values, 0.5),
    p99Ms: percentile(values, 0.99),
    maxMs: Math.max(...values),
    targetP99Ms,
  })
  return {
    model: values.model,
    stepMs,
    longestEnqueueMs: enqueueMs,
    healthP99Ms: percentile(health, 0.99),
    opP99Ms: percentile(ops, 0.99),
    rows: [row('GET /health', health, 10), row('one-element op', ops, 5)],
  }
}
