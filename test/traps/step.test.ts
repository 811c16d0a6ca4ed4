// Traps of a training step: 16 (dropout), 20 (a second queue, scopes), 21 (out of memory anywhere).

import { afterAll, describe, expect, test } from 'vitest'
import {
  AdamW,
  Device,
  Llama,
  noGrad,
  randomKey,
  scope,
  type Tensor,
  tensor,
  ValueError,
  withDevice,
  withQueue,
} from '../../lib/index.ts'
import { mul } from '../../lib/ops/binary.ts'
import { dropout } from '../../lib/ops/dropout.ts'
import { random } from '../ops/random.ts'
import { expectBetween, expectBitwise, expectClose } from './numeric.ts'

const device = Device.open({ threads: 2 }).makeDefault()
afterAll(() => device.close())

describe('trap 16: dropout', () => {
  const COUNT = 1 << 14
  const P = 0.25
  const draw = async (step: number, call: number, p = P): Promise<Float64Array> => {
    const y = scope(() =>
      dropout(tensor(new Float64Array(COUNT).fill(1), { dtype: 'f32' }), randomKey(16, { step, call }), p),
    )
    const values = Float64Array.from(await y.toArray())
    y.dispose()
    return values
  }
  const agreement = (a: Float64Array, b: Float64Array): number =>
    a.reduce((n, v, i) => n + (v === b[i] ? 1 : 0), 0) / COUNT

  test('trap 16 another mask in every layer and step, the same one for the same key', async () => {
    const base = await draw(3, 0)
    expectBitwise('the same key', await draw(3, 0), base)
    // independent masks agree where both keep or both drop: p^2 + (1 - p)^2
    const expected = P * P + (1 - P) ** 2
    expectBetween(
      'agreement with another layer',
      agreement(await draw(3, 1), base),
      expected - 0.02,
      expected + 0.02,
    )
    expectBetween(
      'agreement with another step',
      agreement(await draw(4, 0), base),
      expected - 0.02,
      expected + 0.02,
    )
    expectBetween('mean', base.reduce((s, v) => s + v, 0) / COUNT, 0.98, 1.02)
  })

  test('trap 16 off with p = 0, as in evaluation', async () => {
    expectBitwise('values', await draw(0, 0, 0), new Float64Array(COUNT).fill(1))
  })

  test('trap 16 backward drops what forward dropped', async () => {
    const x = tensor(new Float64Array(COUNT).fill(1), { dtype: 'f32', requiresGrad: true })
    const y = scope(() => {
      const out = dropout(x, randomKey(16, { step: 1, call: 2 }), P)
      out.backward(tensor(new Float64Array(COUNT).fill(1), { dtype: 'f32' }))
      return out
    })
    expectBitwise('gradient', (await x.grad?.toArray()) ?? [], await y.toArray())
    x.dispose()
    y.dispose()
  })
})

const CONFIG = {
  vocabSize: 61,
  hiddenSize: 32,
  intermediateSize: 64,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  initializerRange: 0.1,
} as const
const [BATCH, LENGTH] = [2, 16]

function batchOf(seed: string): number[] {
  const { integer } = random(seed)
  return Array.from({ length: BATCH * LENGTH }, () => integer(0, CONFIG.vocabSize))
}

const ids = (values: readonly number[]): Tensor => tensor(values, { shape: [BATCH, LENGTH], dtype: 'i32' })

function makeTrainer(on: Device, dtype: 'f32' | 'bf16') {
  const model = new Llama(CONFIG, { seed: 20, dtype, device: on })
  const optimizer = new AdamW({ parameters: model.namedParameters(), learningRate: 1e-2 })
  return {
    model,
    optimizer,
    dispose(): void {
      optimizer.dispose()
      model.dispose()
    },
  }
}

/** One step of two micro-batches; the loss is normalised over both. Everything is enqueued in one turn. */
function step({ model, optimizer }: ReturnType<typeof makeTrainer>, number: number): Tensor[] {
  return scope(() => {
    const losses = [0, 1].map((micro) => {
      const input = ids(batchOf(`step ${number} ${micro}`))
      const loss = model.loss(input, input, { scale: tensor(1 / (2 * BATCH * (LENGTH - 1))) })
      loss.backward()
      return loss
    })
    return [...losses, optimizer.step()]
  })
}

/** NaN for a tensor that cannot be read: a lost parameter is a wrong number, not a throw. */
async function readOrNaN(t: Tensor): Promise<Float64Array> {
  try {
    return Float64Array.from(await t.toArray())
  } catch {
    return new Float64Array(t.size).fill(Number.NaN)
  }
}

async function stateOf({
  model,
  optimizer,
}: ReturnType<typeof makeTrainer>): Promise<Map<string, Float64Array>> {
  const all = [
    ...model.namedParameters(),
    ...[...optimizer.stateDict()].map(([k, t]): [string, Tensor] => [`optimizer.${k}`, t]),
  ]
  return new Map(
    await Promise.all(
      all.map(async ([name, t]): Promise<[string, Float64Array]> => [name, await readOrNaN(t)]),
    ),
  )
}

function expectSameState(
  when: string,
  actual: Map<string, Float64Array>,
  expected: Map<string, Float64Array>,
): void {
  for (const [name, values] of expected) expectBitwise(`${when}: ${name}`, actual.get(name) ?? [], values)
}

describe('trap 20: training beside other work', () => {
  test('trap 20 training interleaved with forwards on a second queue is bitwise training alone', async () => {
    const run = async (interleaved: boolean) => {
      const trainer = makeTrainer(device, 'bf16')
      const other = device.createQueue({ priority: 1 })
      const logits: Tensor[] = []
      for (let n = 0; n < 6; n++) {
        for (const t of step(trainer, n)) t.dispose()
        const forward = (): Tensor => noGrad(() => scope(() => trainer.model.forward(ids(batchOf('prompt')))))
        logits.push(interleaved ? withQueue(other, forward) : forward())
      }
      const seen = await Promise.all(logits.map(async (t) => Float64Array.from(await t.toArray())))
      const state = await stateOf(trainer)
      for (const t of logits) t.dispose()
      trainer.dispose()
      return { seen, state }
    }
    const alone = await run(false)
    const beside = await run(true)
    expectSameState('after 6 steps', beside.state, alone.state)
    // each forward sees the parameters of the step it was enqueued after, neither older nor newer
    for (const [n, values] of beside.seen.entries())
      expectBitwise(`logits after step ${n}`, values, alone.seen[n] ?? [])
  })

  test('trap 20 noGrad of one async flow never touches another', async () => {
    const x = tensor([1, 2, 3], { dtype: 'f32', requiresGrad: true })
    const flow = async (): Promise<void> => {
      await Promise.resolve()
    }
    const other = (async () => {
      try {
        await noGrad(flow) // refused: it would stay on while others run
      } catch (error) {
        if (!(error instanceof ValueError)) throw error
      }
    })()
    const y = scope(() => mul(x, 2))
    if (y.requiresGrad) y.backward(tensor([1, 10, 100], { dtype: 'f32' }))
    await other
    expectClose('gradient', (await x.grad?.toArray()) ?? [Number.NaN, Number.NaN, Number.NaN], [2, 20, 200], {
      rtol: 0,
      atol: 0,
    })
    x.dispose()
    y.dispose()
  })
})

describe('trap 21: out of memory anywhere in a step', () => {
  for (const dtype of ['f32', 'bf16'] as const) {
    test(`trap 21 parameters and optimizer in ${dtype} stay as they were, and the step can be repeated`, {
      timeout: 120_000,
    }, async () => {
      const failing = Device.open({ threads: 2 })
      await withDeviceAsync(failing, async (run) => {
        const undisturbed = run(() => makeTrainer(failing, dtype))
        run(() => step(undisturbed, 0))
        const before = await stateOf(undisturbed)
        run(() => step(undisturbed, 1))
        const after = await stateOf(undisturbed)
        undisturbed.dispose()
        let failures = 0
        for (let nth = 1; ; nth++) {
          const trainer = run(() => makeTrainer(failing, dtype))
          for (const t of run(() => step(trainer, 0))) t.dispose()
          await failing.sync()
          failing.failAllocation(nth)
          const results = run(() => step(trainer, 1))
          const outcomes = await Promise.allSettled(results.map((t) => t.item()))
          failing.failAllocation(0)
          // the update itself has no reader: its failure comes up here
          outcomes.push(...(await Promise.allSettled([failing.sync().then(() => 0)])))
          const errors = outcomes.flatMap((o) => (o.status === 'rejected' ? [o.reason as unknown] : []))
          for (const t of results) t.dispose()
          if (errors.length === 0) {
            expectSameState(`allocation ${nth} did not fail`, await stateOf(trainer), after)
            trainer.dispose()
            break
          }
          failures++
          for (const error of errors) expect(error).toMatchObject({ code: 'ERR_OUT_OF_MEMORY' })
          expectSameState(`allocation ${nth} failed`, await stateOf(trainer), before)
          for (const t of run(() => step(trainer, 1))) t.dispose()
          expectSameState(`repeated after allocation ${nth} failed`, await stateOf(trainer), after)
          trainer.dispose()
        }
        console.log(`trap 21 ${dtype}: each of the ${failures} allocations of a step failed once`)
        expectBetween('allocations that failed', failures, 50, 5000)
      })
      failing.close()
    })
  }
})

/** The device for synchronous parts of an async body: `withDevice` may not stay on across an await. */
async function withDeviceAsync(
  on: Device,
  body: (run: <T>(part: () => T) => T) => Promise<void>,
): Promise<void> {
  await body((part) => withDevice(on, part))
}
