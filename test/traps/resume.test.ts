// Trap 8: a run that was killed and resumed, once and twice, is the run that was not.

import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, test } from 'vitest'
import { Device, Llama, Trainer } from '../../lib/index.ts'
import { expectBitwise } from './numeric.ts'
import { linesOf, openCorpus, stepsOf, tensorsOf, VOCABULARY } from './training.ts'

const device = Device.open({ threads: 2 }).makeDefault()
const folder = mkdtempSync(join(tmpdir(), 'fuselm-trap-08-'))
afterAll(() => {
  device.close()
  rmSync(folder, { recursive: true })
})

const STEPS = 16
let runs = 0

/** A process's part of a run: its own model, dataset and optimizer. */
async function run(out: string): Promise<void> {
  const train = await openCorpus(join(folder, `tokens-${runs++}`))
  // only a fresh run may start from these weights
  const shape = {
    vocabSize: VOCABULARY,
    hiddenSize: 16,
    intermediateSize: 24,
    numHiddenLayers: 2,
    numAttentionHeads: 2,
    initializerRange: 0.2,
  }
  using model = new Llama(shape, { dtype: 'bf16', seed: linesIn(out) === 0 ? 8 : 99 })
  await new Trainer(model, {
    train,
    out,
    steps: STEPS,
    batchSize: 2,
    accumulate: 2, // 64 rows of a corpus of about 11: several epochs
    dropout: 0.2,
    optimizer: { learningRate: 5e-3 },
    schedule: { warmup: 6, decay: 'cosine' },
    saveEvery: 4,
    keepLast: 100,
    resume: true,
  }).finish()
  await train.close()
}

function linesIn(out: string): number {
  try {
    return linesOf(out).length
  } catch {
    return 0
  }
}

/**
 * What `from` had on disk when it was killed in step `step + 2`: its checkpoint of `step`, half of another
 * one, and a log that had gone on, its last line cut.
 */
function killed(from: string, step: number): string {
  const out = join(folder, `killed-${runs++}`)
  mkdirSync(out)
  for (let saved = 4; saved <= step; saved += 4) {
    cpSync(join(from, `checkpoint-${saved}`), join(out, `checkpoint-${saved}`), { recursive: true })
  }
  cpSync(join(from, `checkpoint-${step}`), join(out, `.checkpoint-${step + 4}.0123456789ab.tmp`), {
    recursive: true,
  })
  rmSync(join(out, `.checkpoint-${step + 4}.0123456789ab.tmp/optimizer.safetensors`))
  const lines = readFileSync(join(from, 'metrics.jsonl'), 'utf8').split('\n')
  const at = lines.findIndex((line) => line.startsWith(`{"type":"step","step":${step + 2},`))
  writeFileSync(
    join(out, 'metrics.jsonl'),
    lines
      .slice(0, at + 1)
      .join('\n')
      .slice(0, -9),
  )
  return out
}

let reference: string
const resumed: Record<string, string> = {}
beforeAll(async () => {
  reference = join(folder, 'reference')
  await run(reference)
  const once = killed(reference, 4)
  await run(once)
  const twice = killed(once, 8)
  await run(twice)
  Object.assign(resumed, { once, twice })
}, 60_000)

describe.each(['once', 'twice'])('killed and resumed %s', (times) => {
  const out = (): string => resumed[times] as string
  const last = `checkpoint-${STEPS}`

  test(`trap 08 ${times}: parameters`, () => {
    const values = tensorsOf(join(out(), 'model.safetensors'))
    for (const [name, expected] of tensorsOf(join(reference, 'model.safetensors')))
      expectBitwise(name, values.get(name) ?? [], expected)
  })

  test(`trap 08 ${times}: moments, step count and low halves of masters`, () => {
    const values = tensorsOf(join(out(), last, 'optimizer.safetensors'))
    for (const [name, expected] of tensorsOf(join(reference, last, 'optimizer.safetensors')))
      expectBitwise(name, values.get(name) ?? [], expected)
  })

  test(`trap 08 ${times}: the schedule`, () => {
    expectBitwise('learning rates', stepsOf(out(), 'learningRate'), stepsOf(reference, 'learningRate'))
  })

  test(`trap 08 ${times}: rows and dropout of every step, over epochs`, () => {
    expectBitwise('losses', stepsOf(out(), 'loss'), stepsOf(reference, 'loss'))
    expectBitwise('gradient norms', stepsOf(out(), 'gradientNorm'), stepsOf(reference, 'gradientNorm'))
  })

  test(`trap 08 ${times}: a log without gap or repeat`, () => {
    const steps = Array.from({ length: STEPS }, (_, i) => i + 1)
    expectBitwise('steps of the log', stepsOf(out(), 'step'), steps)
    expectBitwise('lines of the log', [linesOf(out()).length], [linesOf(reference).length])
  })
})
