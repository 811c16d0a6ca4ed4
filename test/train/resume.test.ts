// Trainer: that going on after any end gives the run that never ended, and what has to be the same for it.

import { join } from 'node:path'
import { Decoder, TextDataset, Trainer, type TrainerEvent, type TrainerOptions } from 'fuselm'
import { beforeAll, describe, expect, test } from 'vitest'
import { completeCheckpoints } from '../../lib/io/checkpoints.ts'
import { expectNoLeaks } from '../unit/leaks.ts'
import { decoder, events, metrics, options, SHAPE, tokenizer, weights } from './small-run.ts'

expectNoLeaks()

describe('going on', () => {
  let reference: { weights: string; metrics: unknown[] }
  beforeAll(async () => {
    using model = decoder()
    const given = options()
    await new Trainer(model, given).finish()
    reference = { weights: weights(given.out), metrics: metrics(given.out) }
  })

  test.each([1, 4, 5, 6, 7, 11])(
    'after leaving the loop at step %i: byte for byte the same',
    async (stop) => {
      const given = options()
      {
        using model = decoder()
        const seen = await events(
          new Trainer(model, given),
          ({ type, step }) => type === 'step' && step >= stop,
        )
        expect(seen.at(-1)?.type).toBe('step')
      }
      // a model that has nothing of the first one
      using model = Decoder.create(SHAPE, { tokenizer, dtype: 'bf16', seed: 99 })
      await new Trainer(model, { ...given, resume: true }).finish()
      expect(weights(given.out)).toBe(reference.weights)
      const lines = metrics(given.out) as TrainerEvent[]
      const trained = (list: unknown[]): unknown[] =>
        (list as TrainerEvent[]).filter(({ type }) => type === 'step' || type === 'eval')
      expect(trained(lines)).toEqual(trained(reference.metrics))
    },
  )

  test('an abort saves, then throws its reason; again and again', async () => {
    const given = options()
    for (const stop of [3, 8]) {
      using model = decoder()
      const controller = new AbortController()
      const run = new Trainer(model, { ...given, resume: true }).run({ signal: controller.signal })
      const reading = (async () => {
        for await (const event of run) {
          if (event.type === 'step' && event.step >= stop) controller.abort(new Error('enough'))
        }
      })()
      await expect(reading).rejects.toThrow('enough')
    }
    using model = decoder()
    await new Trainer(model, { ...given, resume: true }).finish()
    expect(weights(given.out)).toBe(reference.weights)
  })

  describe('a stop in an evaluation', () => {
    const more = { keepBest: true, samplePrompts: ['line '], evalOnStart: true, evalEvery: 4, keepLast: 9 }
    const judged = (out: string): unknown[] =>
      metrics(out).filter((line) => ['step', 'eval', 'sample'].includes((line as TrainerEvent).type))
    let whole: { out: string; weights: string }
    beforeAll(async () => {
      using model = decoder()
      const given = options(more)
      await new Trainer(model, given).finish()
      whole = { out: given.out, weights: weights(given.out) }
    })

    /** Runs until `aim` says of an evaluation's micro-batch that it is the one to stop in; how many came after. */
    async function stopIn(
      given: TrainerOptions,
      aim: (evaluation: number, batch: number) => boolean,
    ): Promise<number> {
      using model = decoder()
      const controller = new AbortController()
      const loss = model.model.loss.bind(model.model)
      const evaluations = [0, 4, 8, 12]
      const resumed = (await completeCheckpoints(given.out).catch(() => [])).at(-1) ?? 0
      let left = evaluations.filter((step) => step >= resumed).length
      let batch = 0
      let after = 0
      model.model.loss = (ids, labels, sequence) => {
        // only evaluations go without dropout
        if (sequence?.dropout != null) {
          if (batch > 0) left--
          batch = 0
        } else {
          if (controller.signal.aborted) after++
          if (aim(evaluations.length - left, batch++)) controller.abort(new Error('enough'))
        }
        return loss(ids, labels, sequence)
      }
      await expect(new Trainer(model, { ...given, resume: true }).finish(controller)).rejects.toThrow(
        'enough',
      )
      return after
    }

    test.each([
      ['before the first step', 0, null],
      ['in the middle', 1, 4],
      ['at the end', 3, 12],
    ])('%s acts within a batch; whoever goes on does it first', async (_, which, step) => {
      const given = options(more)
      expect(await stopIn(given, (evaluation, batch) => evaluation === which && batch === 3)).toBeLessThan(2)
      expect((await completeCheckpoints(given.out)).at(-1) ?? null).toBe(step)
      expect(metrics(given.out)).not.toContainEqual(
        expect.objectContaining({ type: 'eval', step: step ?? 0 }),
      )
      // and a second time in the same one
      if (step !== null) {
        expect(await stopIn(given, (_evaluation, batch) => batch === 5)).toBeLessThan(2)
        expect((await completeCheckpoints(given.out)).at(-1)).toBe(step)
      }
      using model = decoder()
      await new Trainer(model, { ...given, resume: true }).finish()
      expect(weights(given.out)).toBe(whole.weights)
      expect(judged(given.out)).toEqual(judged(whole.out))
    })

    test('between two samples: they are shown by whoever goes on, once', async () => {
      const given = options({ ...more, samplePrompts: ['line ', 'abc'] })
      {
        using model = decoder()
        const controller = new AbortController()
        const sample = model.sample.bind(model)
        let samples = 0
        model.sample = (...args) => {
          // the first of step 4
          if (++samples === 3) controller.abort(new Error('enough'))
          return sample(...args)
        }
        await expect(new Trainer(model, given).finish(controller)).rejects.toThrow('enough')
        expect(samples).toBe(3)
        expect(metrics(given.out).slice(-2)).toMatchObject([
          { type: 'checkpoint', step: 4 },
          { type: 'done', reason: 'stopped' },
        ])
      }
      using model = decoder()
      await new Trainer(model, { ...given, resume: true }).finish()
      expect(weights(given.out)).toBe(whole.weights)
      const kinds = metrics(given.out).map(
        (line) => `${(line as TrainerEvent).type} ${(line as TrainerEvent).step}`,
      )
      for (const step of [0, 4, 8, 12]) {
        expect(kinds.filter((kind) => kind === `eval ${step}`)).toHaveLength(1)
        expect(kinds.filter((kind) => kind === `sample ${step}`)).toHaveLength(2)
      }
    })
  })

  test('without a checkpoint starts fresh; when finished there is nothing to do', async () => {
    const given = options({ resume: true })
    for (let time = 0; time < 2; time++) {
      using model = decoder()
      const summary = await new Trainer(model, given).finish()
      expect(summary).toMatchObject({ steps: 12, reason: 'steps', ...(time === 1 && { loss: null }) })
      expect(weights(given.out)).toBe(reference.weights)
      expect(metrics(given.out)).toEqual(reference.metrics)
    }
  })

  test('when it is looked at may change: byte for byte the same', async () => {
    const given = options()
    {
      using model = decoder()
      await events(new Trainer(model, given), ({ type, step }) => type === 'step' && step >= 4)
    }
    const looking = { saveEvery: 3, evalEvery: 5, evalOnStart: true, keepBest: true, keepLast: 9 }
    using model = decoder()
    await new Trainer(model, {
      ...given,
      ...looking,
      samplePrompts: ['line '],
      recompute: true,
      maxSkipped: 3,
      resume: true,
    }).finish()
    expect(weights(given.out)).toBe(reference.weights)
    const of = (type: string, lines: unknown[]): TrainerEvent[] =>
      (lines as TrainerEvent[]).filter((line) => line.type === type)
    const lines = metrics(given.out)
    expect(of('step', lines)).toEqual(of('step', reference.metrics))
    expect(of('eval', lines).map(({ step }) => step)).toEqual([10, 12])
    expect(await completeCheckpoints(given.out)).toEqual(expect.arrayContaining([6, 9, 12]))
    // with early stopping they decide when it ends
    const stopping = options({ earlyStopping: { patience: 9 } })
    await new Trainer(model, stopping).finish()
    await expect(new Trainer(model, { ...stopping, evalEvery: 5, resume: true }).finish()).rejects.toThrow(
      /options: evalEvery was 6 and is 5\. Only/,
    )
  })

  test('steps may grow; other options may not, and are named', async () => {
    const given = options()
    {
      using model = decoder()
      await new Trainer(model, given).finish()
    }
    using model = decoder()
    const again = (more: Partial<TrainerOptions>): Promise<unknown> =>
      new Trainer(model, { ...given, resume: true, ...more }).finish()
    await expect(again({ batchSize: 4, dropout: 0 })).rejects.toMatchObject({
      code: 'ERR_CONFIG',
      message: expect.stringMatching(/batchSize was 2 and is 4; .*dropout was 0.1 and is 0/),
    })
    await expect(again({ steps: 10 })).rejects.toThrow(/was to take 12 steps and is to take 10/)
    expect(await again({ steps: 14 })).toMatchObject({ steps: 14 })
  })
})

test("what else a run is made of is part of it, nested or not; the Trainer's own names are taken", async () => {
  const given = options({ steps: 2, identity: { data: { version: 3 }, code: 'a1' } })
  using model = decoder()
  await new Trainer(model, given).finish()
  const again = (more: Partial<TrainerOptions>): Promise<unknown> =>
    new Trainer(model, { ...given, resume: true, ...more }).finish()
  await expect(again({ identity: { data: { version: 4 }, code: 'a1', by: null } })).rejects.toThrow(
    /options: data\.version was 3 and is 4; by was not given and is null\. Only/,
  )
  expect(await again({ identity: { code: 'a1', data: { version: 3 } } })).toMatchObject({ reason: 'steps' })
  await expect(again({ identity: { seed: 3 } })).rejects.toThrow(/seed is the Trainer's own name/)
})

test('other data of the same size, another order, another shape are named', async () => {
  const given = options({ steps: 2 })
  using model = decoder()
  await new Trainer(model, given).finish()
  const again = async (text: string, seed: number): Promise<unknown> => {
    const split = await TextDataset.from([text], { tokenizer, contextLength: 16, holdOut: 0.2, seed })
    try {
      return await new Trainer(model, { ...given, ...split, resume: true }).finish()
    } finally {
      await split.train.close()
      await split.validation.close()
    }
  }
  const text = Array.from({ length: 400 }, (_, i) => `line ${i % 7}: abc abd ${i % 3}`).join('\n')
  expect(await again(text, 1)).toMatchObject({ reason: 'steps' })
  await expect(again(text, 2)).rejects.toThrow(/options: train\.seed was 1 and is 2; validation\.seed/)
  await expect(again(text.replaceAll('abd', 'bad'), 1)).rejects.toThrow(/train\.digest was/)
  using other = Decoder.create({ ...SHAPE, ropeTheta: 77 }, { tokenizer, dtype: 'bf16', seed: 3 })
  await expect(new Trainer(other, { ...given, resume: true }).finish()).rejects.toThrow(
    /options: model\.ropeTheta was 10000 and is 77\. Only/,
  )
})

test('when the event of a checkpoint comes, the checkpoint is there', async () => {
  using model = decoder()
  const given = options({ keepLast: 9 })
  let seen = 0
  for await (const event of new Trainer(model, given).run()) {
    if (event.type !== 'checkpoint') continue
    expect(await completeCheckpoints(given.out)).toContain(event.step)
    expect(event.path).toBe(join(given.out, `checkpoint-${event.step}`))
    seen++
  }
  expect(seen).toBe(3)
})
