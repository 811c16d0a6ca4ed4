// The example that people copy: it learns, reports each step once and in order, and leaves nothing.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type StepReport, train } from '../../examples/custom-loop.ts'
import { Device, Llama } from '../../lib/index.ts'

let device: Device
beforeAll(() => {
  device = Device.open().makeDefault()
})
afterAll(() => device.close())

const config = {
  vocabSize: 256,
  hiddenSize: 32,
  intermediateSize: 64,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
}
const text = new TextEncoder().encode('the quick brown fox jumps over the lazy dog. '.repeat(40))
const options = { batchSize: 4, contextLength: 32, learningRate: 1e-2, warmup: 5 }

async function run(seed: number): Promise<{ reports: StepReport[]; weight: string }> {
  using model = new Llama(config, { dtype: 'bf16', seed })
  const reports: StepReport[] = []
  await train(model, text, { ...options, steps: 60, onStep: (report) => reports.push(report) })
  const weight = String(await model.model.norm.weight.toArray())
  return { reports, weight }
}

test('the loss falls, steps are reported in order, tensors are all freed', async () => {
  const before = device.liveTensors
  const { reports } = await run(1)
  expect(device.liveTensors).toBe(before)
  expect(reports.map(({ step }) => step)).toEqual(Array.from({ length: 60 }, (_, i) => i))
  const losses = reports.map(({ loss }) => loss)
  // ln 256 at the start; a repeated sentence of 45 bytes is soon known by heart
  expect(losses[0]).toBeGreaterThan(5)
  expect(losses.at(-1)).toBeLessThan(1.5)
  expect(reports.at(-1)?.secondsLeft).toBe(0)
  expect(reports[4]?.learningRate).toBe(1e-2)
  expect(reports.at(-1)?.learningRate).toBeLessThan(1.1e-3)
})

test('the same seed trains to the same bits', async () => {
  const [a, b, c] = [await run(2), await run(2), await run(3)]
  expect(b.weight).toBe(a.weight)
  expect(b.reports.map(({ loss }) => loss)).toEqual(a.reports.map(({ loss }) => loss))
  expect(c.weight).not.toBe(a.weight)
})
