// Training an adapter: the base stays as it is and is never saved, a run goes on to the same bytes, and
// generation beside it reads copies.

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Decoder, type LoraOptions, Trainer, type TrainerEvent, type TrainerOptions } from 'fuselm'
import { describe, expect, test } from 'vitest'
import { expectNoLeaks } from '../unit/leaks.ts'
import { smallCorpus } from './corpus.ts'

const { tokenizer, train, validation, nextOut } = await smallCorpus('adapter')
expectNoLeaks()

const SHAPE = {
  hiddenSize: 16,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  intermediateSize: 32,
  maxPositionEmbeddings: 64,
}
const LORA: LoraOptions = { rank: 4, alpha: 8, dropout: 0.1, targets: ['q_proj', 'v_proj'] }
const decoder = (): Decoder => Decoder.create(SHAPE, { tokenizer, dtype: 'bf16', seed: 3 })

function options(more: Partial<TrainerOptions> = {}): TrainerOptions {
  return {
    train,
    validation,
    out: nextOut(),
    batchSize: 2,
    accumulate: 2,
    steps: 12,
    optimizer: { learningRate: 3e-2 },
    saveEvery: 5,
    evalEvery: 6,
    ...more,
  }
}

const bytes = (path: string): string => readFileSync(path).toString('base64')
const adapterBytes = (out: string): string => bytes(join(out, 'adapter_model.safetensors'))

async function baseValues(model: Decoder): Promise<unknown> {
  const values: unknown[] = []
  for (const parameter of model.model.parameters()) values.push(await parameter.toArray())
  return values
}

describe('a run', () => {
  test('trains the adapter alone; checkpoints hold it and the optimizer, never the base', async () => {
    using model = decoder()
    const before = await baseValues(model)
    const adapter = model.addAdapter('support', LORA)
    const given = options({ adapter })
    const untrained = await model.evaluate(validation, { adapter: 'support' })
    expect(untrained.loss).toBeCloseTo((await model.evaluate(validation)).loss, 4)
    await new Trainer(model, given).finish()
    expect(await baseValues(model)).toEqual(before)
    expect(model.model.parameters().every(({ requiresGrad }) => requiresGrad)).toBe(true)
    const trained = await model.evaluate(validation, { adapter })
    expect(trained.loss).toBeLessThan(untrained.loss - 0.05)
    for (const path of ['', 'checkpoint-10', 'checkpoint-12']) {
      const names = readdirSync(join(given.out, path))
      expect(names).toContain('adapter_model.safetensors')
      expect(names).toContain('adapter_config.json')
      expect(names).not.toContain('model.safetensors')
      expect(names).not.toContain('config.json')
    }
    const moments = readFileSync(join(given.out, 'checkpoint-12/optimizer.safetensors'))
    expect(moments.length).toBeLessThan(3 * 4 * adapter.parameterCount() + 8192)
    const again = await model.loadAdapter(given.out, { name: 'again' })
    expect(await model.evaluate(validation, { adapter: again })).toEqual(trained)
  })

  test('stopped and resumed: byte for byte the run that was not', async () => {
    const whole = options()
    {
      using model = decoder()
      await new Trainer(model, { ...whole, adapter: model.addAdapter('a', LORA) }).finish()
    }
    const parts = options({ resume: true })
    for (const last of [4, 9, Number.POSITIVE_INFINITY]) {
      using model = decoder()
      const trainer = new Trainer(model, { ...parts, adapter: model.addAdapter('a', LORA) })
      for await (const event of trainer.run()) if (event.type === 'step' && event.step >= last) break
    }
    expect(adapterBytes(parts.out)).toBe(adapterBytes(whole.out))
  })

  test('another adapter, or another base, does not go on with it', async () => {
    using model = decoder()
    const given = options({ steps: 2 })
    await new Trainer(model, { ...given, adapter: model.addAdapter('a', LORA) }).finish()
    const more = { ...given, resume: true, steps: 4 }
    const other = model.addAdapter('b', { ...LORA, alpha: 9 })
    await expect(new Trainer(model, { ...more, adapter: other }).finish()).rejects.toThrow(/adapter.alpha/)
    await expect(new Trainer(model, more).finish()).rejects.toThrow(/had other options/)
    using larger = Decoder.create({ ...SHAPE, intermediateSize: 48 }, { tokenizer, seed: 3 })
    const same = larger.addAdapter('a', LORA)
    await expect(new Trainer(larger, { ...more, adapter: same }).finish()).rejects.toThrow(/intermediateSize/)
  })

  test('recomputed layers and accumulation give the same adapter', async () => {
    const found: string[] = []
    for (const more of [{}, { recompute: true }]) {
      using model = decoder()
      const given = options({ steps: 4, ...more })
      await new Trainer(model, { ...given, adapter: model.addAdapter('a', LORA) }).finish()
      found.push(adapterBytes(given.out))
    }
    expect(found[1]).toBe(found[0])
  })

  test('dropout of the adapter: in training, by the seed, not in evaluations', async () => {
    const lossOf = async (dropout: number, seed: number): Promise<readonly number[]> => {
      using model = decoder()
      const adapter = model.addAdapter('a', { ...LORA, dropout })
      const losses: number[] = []
      const trainer = new Trainer(model, options({ steps: 4, evalEvery: 0, seed, adapter }))
      for await (const event of trainer.run()) {
        if (event.type === 'eval') losses.push(event.loss)
      }
      expect(losses).toEqual([(await model.evaluate(validation, { adapter, batchSize: 2 })).loss])
      return losses
    }
    const [some, again, other, none] = [
      await lossOf(0.5, 0),
      await lossOf(0.5, 0),
      await lossOf(0.5, 1),
      await lossOf(0, 0),
    ]
    expect(again).toEqual(some)
    expect(other).not.toEqual(some)
    expect(none).not.toEqual(some)
  })

  test('embeddings and an output layer that is trained whole', async () => {
    const untied = { ...SHAPE, tieWordEmbeddings: false }
    using model = Decoder.create(untied, { tokenizer, dtype: 'bf16', seed: 3 })
    const before = await baseValues(model)
    const adapter = model.addAdapter('a', {
      rank: 2,
      targets: ['embed_tokens', 'o_proj'],
      modulesToSave: ['lm_head'],
    })
    const given = options({ adapter })
    const untrained = await model.evaluate(validation)
    await new Trainer(model, given).finish()
    expect(await baseValues(model)).toEqual(before)
    const trained = await model.evaluate(validation, { adapter })
    expect(trained.loss).toBeLessThan(untrained.loss - 0.2)
    const again = await model.loadAdapter(given.out)
    expect(await model.evaluate(validation, { adapter: again })).toEqual(trained)
  })
})

describe('beside a run', () => {
  /** The events of a run, with something done after each step. */
  async function trained(
    model: Decoder,
    given: TrainerOptions,
    after: (event: TrainerEvent) => Promise<void> = async () => undefined,
  ): Promise<void> {
    for await (const event of new Trainer(model, given).run()) await after(event)
  }

  test('generation reads copies, and changes no bit of the training', async () => {
    const alone = options({ steps: 20 })
    {
      using model = decoder()
      await trained(model, { ...alone, adapter: model.addAdapter('a', LORA) })
    }
    using model = decoder()
    const adapter = model.addAdapter('a', LORA)
    const beside = options({ steps: 20, adapter })
    const ask = { temperature: 0, maxNewTokens: 6 }
    const answer = async (): Promise<string> =>
      (await model.generate('line ', { ...ask, adapter: 'a' }).completion()).tokenIds.join()
    let going = true
    const answers: string[] = []
    const asking = (async () => {
      while (going) {
        answers.push(await answer())
        await model.generateBatch(['line ', 'abc'], { ...ask, adapters: ['a', null] })
      }
    })()
    await trained(model, beside)
    going = false
    await asking
    expect(answers.length).toBeGreaterThan(1)
    expect(adapterBytes(beside.out)).toBe(adapterBytes(alone.out))
    // what came after the run is the trained adapter
    const again = await model.loadAdapter(beside.out, { name: 'again' })
    const expected = await model.generate('line ', { ...ask, adapter: again }).completion()
    expect(await answer()).toBe(expected.tokenIds.join())
  })

  test('a copy stays until a checkpoint publishes another', async () => {
    using model = decoder()
    const adapter = model.addAdapter('a', LORA)
    const versions = new Map<string, object>()
    const note = (key: string): void => {
      const lease = adapter.lease()
      versions.set(key, lease.version)
      lease.release()
    }
    note('before')
    const given = options({ steps: 10, saveEvery: 5, evalEvery: 0, validation: null, adapter })
    const trainer = new Trainer(model, given)
    const seen: [number, object][] = []
    for await (const event of trainer.run()) {
      if (event.type !== 'step') continue
      const lease = adapter.lease()
      seen.push([event.step, lease.version])
      lease.release()
    }
    note('after')
    // events may come late, but none of the copies is of a step between two checkpoints
    expect(new Set([versions.get('before'), ...seen.map(([, version]) => version)]).size).toBeLessThan(4)
    expect(versions.get('after')).not.toBe(versions.get('before'))
  })

  test('two adapters of one base train at once, each as it would alone', async () => {
    const alone: string[] = []
    for (const name of ['a', 'b']) {
      using model = decoder()
      const given = options({ steps: 6, seed: name === 'a' ? 0 : 1 })
      await trained(model, { ...given, adapter: model.addAdapter(name, LORA) })
      alone.push(adapterBytes(given.out))
    }
    using model = decoder()
    const both = ['a', 'b'].map((name, seed) =>
      options({ steps: 6, seed, adapter: model.addAdapter(name, LORA) }),
    )
    await Promise.all(both.map((given) => trained(model, given)))
    expect(both.map(({ out }) => adapterBytes(out))).toEqual(alone)
    expect(model.model.parameters().every(({ requiresGrad }) => requiresGrad)).toBe(true)
  })

  test('what does not go together is refused, and the run goes on', async () => {
    using model = decoder()
    const adapter = model.addAdapter('a', LORA)
    const given = options({ steps: 6, adapter })
    let refused = 0
    await trained(model, given, async ({ type }) => {
      if (type !== 'step' || refused > 0) return
      refused++
      await expect(new Trainer(model, options()).finish()).rejects.toThrow(
        /an adapter of this model is in training/,
      )
      expect(() => adapter.merge()).toThrow(/the model is in training/)
    })
    expect(refused).toBe(1)
    using other = decoder()
    const theirs = other.addAdapter('a', LORA)
    expect(() => new Trainer(model, options({ adapter: theirs }))).toThrow(/belongs to another model/)
    expect(() => new Trainer(model, options({ adapter: 'a' as never }))).toThrow(
      /adapter must be what addAdapter/,
    )
    for (const parameter of adapter.namedParameters().values()) parameter.requiresGrad = false
    await expect(new Trainer(model, options({ adapter })).finish()).rejects.toThrow(
      /nothing in the adapter is trainable/,
    )
    theirs.dispose()
    await expect(new Trainer(other, options({ adapter: theirs })).finish()).rejects.toThrow(/was disposed/)
    adapter.merge()
    await expect(new Trainer(model, options({ adapter })).finish()).rejects.toThrow(/merged/)
  })
})
