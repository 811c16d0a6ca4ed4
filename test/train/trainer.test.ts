// Trainer: what it reports, when it stops, and what it refuses. Going on with a run: resume.test.ts.

import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Decoder, type EvalEvent, Trainer, type TrainerEvent, type TrainerOptions } from 'fuselm'
import { describe, expect, test } from 'vitest'
import { expectNoLeaks } from '../unit/leaks.ts'
import { decoder, events, metrics, options, SHAPE, tokenizer, validation, weights } from './small-run.ts'

expectNoLeaks()

describe('a run', () => {
  test('trains, evaluates, saves, and its folder loads', async () => {
    using model = decoder()
    const given = options({ samplePrompts: ['line '] })
    const seen = await events(new Trainer(model, given))
    const lowest = seen.flatMap((event) => (event.type === 'eval' && event.best ? [event] : [])).at(-1)
    expect(seen.at(-1)).toEqual({
      type: 'done',
      step: 12,
      reason: 'steps',
      best: { loss: lowest?.loss, step: lowest?.step },
      finalStep: 12,
    })
    expect(seen.filter(({ type }) => type === 'eval').map(({ step }) => step)).toEqual([6, 12])
    expect(seen.filter(({ type }) => type === 'checkpoint').map(({ step }) => step)).toEqual([5, 10, 12])
    expect(seen.filter(({ type }) => type === 'sample')).toHaveLength(2)
    const evals = seen.flatMap((event) => (event.type === 'eval' ? [event] : []))
    expect(evals[1]?.loss).toBeLessThan(evals[0]?.loss as number)
    expect(evals[0]?.perplexity).toBeCloseTo(Math.exp(evals[0]?.loss as number))
    // the last two are kept
    expect(readdirSync(given.out).filter((name) => name.startsWith('checkpoint'))).toEqual([
      'checkpoint-10',
      'checkpoint-12',
    ])
    const steps = metrics(given.out).filter((line) => (line as TrainerEvent).type === 'step')
    expect(steps.map((line) => (line as TrainerEvent).step)).toEqual(
      Array.from({ length: 12 }, (_, i) => i + 1),
    )
    using loaded = await Decoder.load(given.out)
    expect(await loaded.evaluate(validation)).toEqual(await model.evaluate(validation))
  })

  test('goes on whether or not its events are read; steps give way, others do not', async () => {
    using model = decoder()
    const given = options({ steps: 10 })
    const run = new Trainer(model, given).run()
    const first = await run.next()
    expect(first.done).toBe(false)
    while (!readdirSync(given.out).includes('model.safetensors'))
      await new Promise((done) => setTimeout(done, 20))
    const rest: TrainerEvent[] = []
    for await (const event of run) rest.push(event)
    expect(rest.filter(({ type }) => type === 'step').length).toBeLessThan(9)
    expect(rest.filter(({ type }) => type !== 'step').map(({ type, step }) => [type, step])).toEqual([
      ['checkpoint', 5],
      ['eval', 6],
      ['eval', 10],
      ['checkpoint', 10],
      ['done', 10],
    ])
  })

  test('evaluates before the first step, and at shares of the run', async () => {
    using model = decoder()
    const before = await model.evaluate(validation, { batchSize: 2 })
    const given = options({ steps: 11, evalOnStart: true, evalEvery: 1 / 3, saveEvery: 0.5, dropout: 0 })
    await new Trainer(model, given).finish()
    const evals = metrics(given.out).filter((line) => (line as TrainerEvent).type === 'eval')
    expect(evals.map((line) => (line as TrainerEvent).step)).toEqual([0, 4, 8, 11])
    expect(evals[0]).toEqual({ type: 'eval', step: 0, ...before, best: false })
    expect(evals[1]).toMatchObject({ best: true })
    const saved = metrics(given.out).filter((line) => (line as TrainerEvent).type === 'checkpoint')
    expect(saved.map((line) => (line as TrainerEvent).step)).toEqual([6, 11])
  })

  test('minutes fix the number of steps once, by the speed of the first ones, and it is saved', async () => {
    // a clock that goes 50 ms with every micro-batch, of training or evaluation, and else stands still
    let clock = 0
    const timed = (of: Decoder, given: TrainerOptions): Trainer => {
      const loss = of.model.loss.bind(of.model)
      of.model.loss = (...args) => {
        clock += 50
        return loss(...args)
      }
      return new Trainer(of, given, { now: () => clock })
    }
    const { steps: _, ...given } = options({ evalOnStart: true, evalEvery: 0.5, saveEvery: 0, minutes: 0.15 })
    // three evaluations, two micro-batches of 50 ms a step
    const evaluationMs = 50 * Math.ceil(validation.rows / 2)
    const steps = Math.floor((0.15 * 60_000 - 3 * evaluationMs) / 100)
    expect(steps).toBeGreaterThan(22)
    {
      using model = decoder()
      const seen = await events(timed(model, given), ({ type, step }) => type === 'step' && step >= 21)
      expect(seen.at(-1)).toMatchObject({ type: 'step', steps })
      expect(JSON.parse(readFileSync(join(given.out, 'plan.json'), 'utf8'))).toMatchObject({ steps })
    }
    using model = decoder()
    // as slow as it may be now
    const now = (): number => 1000 * clock
    const summary = await new Trainer(model, { ...given, resume: true }, { now }).finish()
    expect(summary.steps).toBe(steps)
    const evals = metrics(given.out).filter((line) => (line as TrainerEvent).type === 'eval')
    expect(evals.map((line) => (line as TrainerEvent).step)).toEqual([0, Math.ceil(steps / 2), steps])
  })

  test('accumulation does not change the step', async () => {
    const first = async (more: Partial<TrainerOptions>): Promise<unknown> => {
      using model = Decoder.create(SHAPE, { tokenizer, dtype: 'f32', seed: 3 })
      const given = options({ steps: 1, dropout: 0, validation: null, ...more })
      await new Trainer(model, given).finish()
      return metrics(given.out)[0]
    }
    const whole = (await first({ batchSize: 4, accumulate: 1 })) as { loss: number; gradientNorm: number }
    const split = (await first({ batchSize: 1, accumulate: 4 })) as typeof whole
    expect(Math.abs(split.loss - whole.loss) / whole.loss).toBeLessThan(1e-6)
    expect(Math.abs(split.gradientNorm - whole.gradientNorm) / whole.gradientNorm).toBeLessThan(1e-5)
  })

  test('stops early when nothing gets better, and keeps the best', async () => {
    using model = decoder()
    const given = options({
      steps: 40,
      evalEvery: 1,
      saveEvery: 0,
      keepBest: true,
      keepLast: 1,
      earlyStopping: { patience: 2 },
      // a rate that soon spoils what it learnt
      optimizer: { learningRate: 2 },
      schedule: { warmup: 0, decay: 'constant' },
    })
    const summary = await new Trainer(model, given).finish()
    expect(summary.reason).toBe('earlyStopping')
    const evals = metrics(given.out).filter((line) => (line as TrainerEvent).type === 'eval') as {
      step: number
      loss: number
    }[]
    const best = evals.reduce((a, b) => (b.loss < a.loss ? b : a))
    expect(evals.at(-1)?.step).toBe(best.step + 2)
    const kept = readdirSync(given.out).filter((name) => name.startsWith('checkpoint'))
    expect(kept.sort()).toEqual([`checkpoint-${best.step}`, `checkpoint-${summary.steps}`].sort())
  })

  describe('the model at the end', () => {
    // a rate that soon spoils what it learnt
    const spoiling: Partial<TrainerOptions> = {
      steps: 9,
      evalEvery: 1,
      saveEvery: 0,
      keepLast: 1,
      optimizer: { learningRate: 2 },
      schedule: { warmup: 0, decay: 'constant' },
    }
    const lowestOf = (out: string): EvalEvent => {
      const evals = (metrics(out) as TrainerEvent[]).flatMap((event) =>
        event.type === 'eval' ? [event] : [],
      )
      return evals.reduce((a, b) => (b.loss < a.loss ? b : a))
    }

    test('is the last one, or the best by finalModel, in out and in memory', async () => {
      for (const finalModel of ['last', 'best'] as const) {
        const given = options({ ...spoiling, finalModel })
        using model = decoder()
        const summary = await new Trainer(model, given).finish()
        const lowest = lowestOf(given.out)
        expect(lowest.step).toBeLessThan(9)
        expect(summary).toMatchObject({ steps: 9, finalStep: finalModel === 'best' ? lowest.step : 9 })
        expect(summary.best).toEqual({ step: lowest.step, loss: lowest.loss })
        using loaded = await Decoder.load(given.out)
        for (const held of [model, loaded]) {
          const { loss } = await held.evaluate(validation, { batchSize: 2 })
          if (finalModel === 'best') expect(loss).toBe(lowest.loss)
          else expect(loss).toBeGreaterThan(lowest.loss)
        }
      }
    })

    test('to go on from where it ended: the last, whatever out holds', async () => {
      const [short, whole] = [
        options({ ...spoiling, finalModel: 'best' }),
        options({ ...spoiling, steps: 11 }),
      ]
      using model = decoder()
      await new Trainer(model, short).finish()
      // again, when there is nothing left to do: the best once more
      const weightsOfBest = weights(short.out)
      using another = decoder()
      await new Trainer(another, { ...short, resume: true }).finish()
      expect(weights(short.out)).toBe(weightsOfBest)
      using third = decoder()
      await new Trainer(third, { ...short, finalModel: 'last', steps: 11, resume: true }).finish()
      using reference = decoder()
      await new Trainer(reference, whole).finish()
      expect(weights(short.out)).toBe(weights(whole.out))
    })

    test('cannot be the best when that was not kept, which is said before anything is done', async () => {
      const given = options(spoiling)
      using model = decoder()
      await new Trainer(model, given).finish()
      const before = readdirSync(given.out)
      await expect(
        new Trainer(model, { ...given, finalModel: 'best', steps: 12, resume: true }).finish(),
      ).rejects.toThrow(/finalModel 'best' needs the checkpoint of step \d, .* go on with 'last'/)
      expect(readdirSync(given.out)).toEqual(before)
    })
  })

  test('gives up after steps without numbers; the weights stay those before', async () => {
    using model = Decoder.create(SHAPE, { tokenizer, dtype: 'f32', seed: 3 })
    const parameter = [...model.model.namedParameters().values()].at(-1)
    if (parameter === undefined) throw new Error('no parameters')
    const { writeBytes } = await import('../../lib/io/tensors.ts')
    const values = new Float32Array(parameter.size).fill(Number.NaN)
    const others = [...model.model.namedParameters().values()].slice(0, -1)
    const before = await Promise.all(others.map((tensor) => tensor.toArray()))
    writeBytes(parameter, new Uint8Array(values.buffer))
    const given = options({ maxSkipped: 3, saveEvery: 0 })
    await expect(new Trainer(model, given).finish()).rejects.toMatchObject({ code: 'ERR_DIVERGED' })
    expect(await Promise.all(others.map((tensor) => tensor.toArray()))).toEqual(before)
    const steps = metrics(given.out).filter((line) => (line as TrainerEvent).type === 'step')
    expect(steps.map((line) => (line as { skipped: boolean }).skipped)).toEqual([true, true, true])
  })
})

describe('refused', () => {
  test('a folder in use', async () => {
    const given = options({ steps: 2 })
    using model = decoder()
    await new Trainer(model, given).finish()
    await expect(new Trainer(model, given).finish()).rejects.toThrow(/holds an earlier run .* pass resume/)
    writeFileSync(join(given.out, 'notes.txt'), 'mine')
    await new Trainer(model, { ...given, overwrite: true }).finish()
    expect(readFileSync(join(given.out, 'notes.txt'), 'utf8')).toBe('mine')
  })

  test('what is wrong, before an earlier run is touched', async () => {
    const given = options({ steps: 2 })
    using model = decoder()
    await new Trainer(model, given).finish()
    const before = readdirSync(given.out)
    const wrong = { ...given, overwrite: true, schedule: { decay: 'step' } }
    expect(() => new Trainer(model, wrong as never)).toThrow(/decay must be one of constant/)
    expect(readdirSync(given.out)).toEqual(before)
  })

  test('two runs at once, of one trainer and of one folder', async () => {
    using model = decoder()
    const given = options()
    const trainer = new Trainer(model, given)
    const run = trainer.run()
    await run.next()
    await expect(trainer.finish()).rejects.toThrow(/runs already/)
    using other = decoder()
    await expect(new Trainer(other, { ...given, resume: true }).finish()).rejects.toThrow(/another trainer/)
    await run.return()
  })

  test.each([
    [{ steps: undefined }, /give one of steps, epochs and minutes, received 0/],
    [{ epochs: 1 }, /received 2 of them/],
    [{ steps: 1.5 }, /steps must be an integer/],
    [{ steps: undefined, epochs: -1 }, /epochs must be a number above 0/],
    [{ steps: undefined, minutes: Number.NaN }, /minutes must be a number above 0/],
    [{ batchSize: 0 }, /batchSize must be an integer/],
    [{ dropout: 1 }, /dropout must be a number from 0 below 1/],
    [{ out: '' }, /out must name a folder/],
    [{ resume: true, overwrite: true }, /exclude each other/],
    [{ validation: null, keepBest: true }, /keepBest needs a validation set/],
    [{ validation: null, finalModel: 'best' }, /finalModel 'best' needs a validation set/],
    [{ finalModel: 'lowest' as 'last' }, /finalModel must be one of last, best, received "lowest"/],
    [{ validation: null, evalOnStart: true }, /evalOnStart needs a validation set/],
    [{ evalEvery: 1.5 }, /evalEvery must be an integer/],
    [{ learningRate: 3 }, /unknown option 'learningRate'/],
    [{ train: null }, /train must be a TextDataset, received null/],
    [{ validation: [1] }, /validation must be a TextDataset/],
    [{ dropout: '0.1' }, /dropout must be a number from 0 below 1/],
    [{ clipNorm: Number.NaN }, /clipNorm must be a number from 0, received NaN/],
    [{ recompute: 0 }, /recompute must be an integer/],
    [{ samplePrompts: 'line' }, /samplePrompts must be a list of texts/],
    [{ optimizer: { lr: 3 } }, /unknown option 'lr'/],
  ])('%j', (more, message) => {
    using model = decoder()
    const given = { ...options(), ...more }
    const clean = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
    expect(() => new Trainer(model, clean as never)).toThrow(message)
  })

  test('what the model cannot do: samples without a tokenizer, rows longer than it is', () => {
    using model = decoder()
    expect(() => new Trainer(model.model, options({ samplePrompts: ['line'] }))).toThrow(
      /needs a model with a tokenizer/,
    )
    using short = Decoder.create({ ...SHAPE, maxPositionEmbeddings: 8 }, { tokenizer, seed: 3 })
    expect(() => new Trainer(short, options())).toThrow(/rows of 16 tokens do not fit .* is 8/)
  })

  test('a model with nothing to train', async () => {
    using model = decoder()
    expect(model.freeze('*')).toBeGreaterThan(0)
    await expect(new Trainer(model, options()).finish()).rejects.toThrow(/nothing in the model is trainable/)
    expect(() => model.freeze('nothing')).toThrow(/no parameter is named "nothing"/)
  })

  test('what is frozen stays as it was', async () => {
    using model = decoder()
    model.freeze('model.embed_tokens')
    const embedding = model.model.inputEmbedding
    const before = await embedding.toArray()
    await new Trainer(model, options({ steps: 2 })).finish()
    expect(await embedding.toArray()).toEqual(before)
  })
})
