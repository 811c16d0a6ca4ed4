// Trap 20: a run of the Trainer beside generation with the same model, and scopes of other async flows.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, test } from 'vitest'
import { decode } from '../../lib/generate/decoding.ts'
import { completeGenerateOptions } from '../../lib/generate/options.ts'
import {
  Device,
  DisposedError,
  Llama,
  scope,
  type Tensor,
  Trainer,
  tensor,
  ValueError,
} from '../../lib/index.ts'
import { mul } from '../../lib/ops/binary.ts'
import { expectBetween, expectBitwise } from './numeric.ts'
import { openCorpus, stepsOf, tensorsOf, VOCABULARY } from './training.ts'

const device = Device.open({ threads: 2 }).makeDefault()
const folder = mkdtempSync(join(tmpdir(), 'fuselm-trap-20-'))
afterAll(() => {
  device.close()
  rmSync(folder, { recursive: true })
})

const SHAPE = {
  vocabSize: VOCABULARY,
  hiddenSize: 32,
  intermediateSize: 48,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  maxPositionEmbeddings: 64,
}

/** Trains; with `beside`, answers prompts with the same model as long as it does. */
async function run(name: string, beside: boolean): Promise<{ out: string; answers: number }> {
  const out = join(folder, name)
  const train = await openCorpus(join(folder, `${name}-tokens`))
  using model = new Llama(SHAPE, { dtype: 'bf16', seed: 20 })
  const options = { train, out, steps: 20, batchSize: 2, accumulate: 2, dropout: 0.1, saveEvery: 0 }
  let training = true
  const trained = new Trainer(model, options)
    .finish()
    .catch(() => undefined) // numbers that are missing tell
    .finally(() => {
      training = false
    })
  const queue = device.createQueue({ priority: 1 })
  let answers = 0
  while (beside && training) {
    using cache = model.makeCache({ capacity: 24 })
    const prompt = Int32Array.of(1, 2, 3, answers % VOCABULARY)
    const settings = completeGenerateOptions('test', { maxNewTokens: 10, temperature: 0.8, seed: answers })
    const steps = decode({
      model,
      prompts: [prompt],
      cache,
      reading: { standing: 0 },
      histories: [prompt],
      settings,
      queue,
    })
    for await (const _ of steps);
    answers++
  }
  await trained
  await train.close()
  return { out, answers }
}

test('trap 20 a run beside generation is bitwise the run alone', async () => {
  const alone = await run('alone', false)
  const beside = await run('beside', true)
  expectBetween('answers meanwhile', beside.answers, 2, 1e6)
  const losses = stepsOf(beside.out, 'loss')
  expectBitwise('losses', losses, stepsOf(alone.out, 'loss'))
  const weights = tensorsOf(join(beside.out, 'model.safetensors'))
  for (const [name, values] of tensorsOf(join(alone.out, 'model.safetensors')))
    expectBitwise(name, weights.get(name) ?? [], values)
}, 60_000)

describe('trap 20: scopes', () => {
  test('trap 20 a scope of one async flow frees nothing of another', async () => {
    let release = (): void => undefined
    const waiting = new Promise<void>((resolve) => {
      release = resolve
    })
    const other = (async () => {
      try {
        // refused: it would stay open while others run
        await scope(async () => {
          await waiting
        })
      } catch (error) {
        if (!(error instanceof ValueError)) throw error
      }
    })()
    const y: Tensor = mul(tensor([1, 2, 3], { dtype: 'f32' }), 2)
    release()
    await other
    await new Promise((resolve) => setImmediate(resolve))
    let values: ArrayLike<number> = [Number.NaN, Number.NaN, Number.NaN]
    try {
      values = await y.toArray()
    } catch (error) {
      // freed by the other flow: seen as numbers that are not there
      if (!(error instanceof DisposedError)) throw error
    }
    expectBitwise('values', values, [2, 4, 6])
    y.dispose()
  })
})
