// Trap 19 in a run of the Trainer: losses that are no numbers are skipped, counted and logged; they end the
// run after so many in a row; a state that is no numbers is never saved over one that is.

import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, test } from 'vitest'
import type { TextDataset } from '../../lib/data/dataset.ts'
import { Device, DivergedError, Llama, type Tensor, Trainer, type TrainerOptions } from '../../lib/index.ts'
import { writeBytes } from '../../lib/io/tensors.ts'
import { mul } from '../../lib/ops/binary.ts'
import { expectBetween, expectBitwise } from './numeric.ts'
import { openCorpus, stepsOf, tensorsOf, VOCABULARY } from './training.ts'

const device = Device.open({ threads: 2 }).makeDefault()
const folder = mkdtempSync(join(tmpdir(), 'fuselm-trap-19-'))
let train: TextDataset
beforeAll(async () => {
  train = await openCorpus(join(folder, 'tokens'))
})
afterAll(async () => {
  await train.close()
  device.close()
  rmSync(folder, { recursive: true })
})

/** A model with something wrong in some steps, counted from 1. */
class Flaky extends Llama {
  step = 0
  readonly #spoil: (step: number, model: Flaky) => number

  constructor(spoil: (step: number, model: Flaky) => number) {
    const shape = {
      vocabSize: VOCABULARY,
      hiddenSize: 16,
      intermediateSize: 24,
      numHiddenLayers: 1,
      numAttentionHeads: 2,
    }
    super(shape, { dtype: 'bf16', seed: 19 })
    this.#spoil = spoil
  }

  override loss(...inputs: Parameters<Llama['loss']>): Tensor {
    const factor = this.#spoil(++this.step, this)
    const loss = super.loss(...inputs)
    return factor === 1 ? loss : mul(loss, factor)
  }
}

let runs = 0

async function run(
  spoil: (step: number, model: Flaky) => number,
  more: Partial<TrainerOptions> = {},
): Promise<{ out: string; error: unknown; events: number[] }> {
  using model = new Flaky(spoil)
  const out = join(folder, `run-${runs++}`)
  const events: number[] = []
  const options = { train, out, steps: 12, batchSize: 2, saveEvery: 1, keepLast: 2, maxSkipped: 3, ...more }
  try {
    for await (const event of new Trainer(model, options).run()) {
      if (event.type === 'step') events.push(event.step)
    }
    return { out, error: undefined, events }
  } catch (error) {
    return { out, error, events }
  }
}

const isIn =
  (...steps: number[]) =>
  (step: number): number =>
    steps.includes(step) ? Number.NaN : 1

const checkpointsOf = (out: string): number[] =>
  readdirSync(out)
    .flatMap((name) => /^checkpoint-(\d+)$/.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b)

test('trap 19 a bad step changes nothing, is counted and logged', async () => {
  const { out } = await run(isIn(3, 4), { steps: 6, keepLast: 10 })
  expectBitwise('skipped steps of the log', stepsOf(out, 'skipped'), [0, 0, 1, 1, 0, 0])
  const counts = tensorsOf(join(out, 'checkpoint-6/optimizer.safetensors')).get('counts') ?? []
  expectBitwise('steps taken and skipped', counts, [4, 2])
  const before = tensorsOf(join(out, 'checkpoint-2/model.safetensors'))
  for (const [name, values] of tensorsOf(join(out, 'checkpoint-4/model.safetensors')))
    expectBitwise(`${name} after the bad steps`, values, before.get(name) ?? [])
  const moved = tensorsOf(join(out, 'checkpoint-5/model.safetensors'))
  const changed = [...moved].filter(([name, values]) =>
    Array.from(values).some((value, i) => value !== before.get(name)?.[i]),
  )
  expectBetween('tensors that the next step moved', changed.length, 5, moved.size)
})

test('trap 19 the run ends after three in a row, not after three in all', async () => {
  const { out, error, events } = await run(isIn(1, 2, 4, 5, 8, 9, 10, 11))
  expectBetween('steps done', stepsOf(out, 'step').at(-1) ?? Number.NaN, 10, 10)
  expectBitwise('steps heard of', events, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
  expectBetween('an error of divergence', error instanceof DivergedError ? 1 : 0, 1, 1)
  const said = /step (\d+): (\d+) steps in a row/.exec((error as Error).message)
  expectBitwise('what it says', [Number(said?.[1]), Number(said?.[2])], [10, 3])
})

test('trap 19 a bad state is never saved over a good one', async () => {
  const { out, error } = await run((step, model) => {
    // as an update that overflows would leave it
    if (step === 5) {
      const weight = [...model.namedParameters().values()].at(-1) as Tensor
      const bits = new Float32Array(weight.size).fill(Number.POSITIVE_INFINITY)
      writeBytes(weight, new Uint8Array(bits.buffer))
    }
    return 1
  })
  expectBitwise('checkpoints', checkpointsOf(out), [3, 4])
  const weights = [...tensorsOf(join(out, 'checkpoint-4/model.safetensors')).values()].flatMap((values) =>
    // a bf16 that is no number, or no finite one, has all bits of its exponent set
    Array.from(values).map((value) =>
      values instanceof Uint16Array ? Number((value & 0x7f80) !== 0x7f80) : Number(Number.isFinite(value)),
    ),
  )
  expectBetween(
    'finite weights',
    weights.reduce((sum, value) => sum + value, 0),
    weights.length,
    weights.length,
  )
  const named = /step (\d+): .*checkpoint-(\d+)/.exec((error as Error | undefined)?.message ?? '')
  expectBitwise('what the error says', [Number(named?.[1]), Number(named?.[2])], [5, 4])
  expectBetween('models beside the checkpoints', Number(readdirSync(out).includes('model.safetensors')), 0, 0)
})
