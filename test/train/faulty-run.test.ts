// A whole run on a disk that fails, and one that is killed at any call that changes the disk.

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Decoder, randomSource, Trainer, type TrainerOptions } from 'fuselm'
import { expect, test } from 'vitest'
import { completeCheckpoints } from '../../lib/io/checkpoints.ts'
import { smallCorpus } from './corpus.ts'
import { faultyDisk } from './faults.ts'

const { tokenizer, train, validation, nextOut } = await smallCorpus('faulty', { vocabSize: 270 })
/** Models of runs that were killed: they never end, so nobody may free what they use. */
const abandoned: Decoder[] = []

function decoder(): Decoder {
  const shape = { hiddenSize: 16, numHiddenLayers: 1, numAttentionHeads: 2, intermediateSize: 32 }
  return Decoder.create({ ...shape, maxPositionEmbeddings: 64 }, { tokenizer, dtype: 'bf16', seed: 3 })
}

function options(more: Partial<TrainerOptions> = {}): TrainerOptions {
  const out = nextOut()
  const often = { steps: 12, saveEvery: 5, evalEvery: 6, evalRows: 4 }
  return { train, validation, out, batchSize: 2, dropout: 0.1, ...often, ...more }
}

const weights = (out: string): string => readFileSync(join(out, 'model.safetensors')).toString('base64')

/** metrics.jsonl without what the clock decides. */
function metrics(out: string): unknown[] {
  const lines = readFileSync(join(out, 'metrics.jsonl'), 'utf8').trimEnd().split('\n')
  return lines.map((line) => {
    const { tokensPerSecond, secondsLeft, path, ...rest } = JSON.parse(line)
    return rest
  })
}

test('a disk that is full: the run ends with its error, also for who has left it; the next one goes on', async () => {
  const reference = options()
  {
    using model = decoder()
    await new Trainer(model, reference).finish()
  }
  const full = (out: string) =>
    faultyDisk(out, ({ kind, path }) =>
      kind === 'write' && path.includes('.checkpoint-10') ? { code: 'ENOSPC', half: true } : null,
    )
  for (const leave of [false, true]) {
    const given = options()
    const disk = full(given.out)
    using model = decoder()
    const running = (async () => {
      for await (const event of new Trainer(model, given).run()) {
        if (leave && event.type === 'step' && event.step >= 9) break
      }
    })()
    // who leaves after step 9 is at step 9 or 10
    const ended = await running.then(
      () => null,
      (error: unknown) => error,
    )
    await disk.restore()
    if (!leave || ended !== null) expect(ended).toMatchObject({ code: 'ENOSPC' })
    expect((await completeCheckpoints(given.out)).at(0)).toBe(5)
    expect(readdirSync(given.out).filter((name) => name.startsWith('.'))).toEqual([])
    using next = decoder()
    await new Trainer(next, { ...given, resume: true }).finish()
    expect(weights(given.out)).toBe(weights(reference.out))
    expect(metrics(given.out)).toEqual(metrics(reference.out))
  }
})

test('killed at calls of a whole run, and of the one that takes it up: byte for byte the same', async () => {
  const small = { steps: 4, saveEvery: 2, evalEvery: 2, keepLast: 1 }
  const reference = options(small)
  let calls = 0
  {
    using model = decoder()
    const disk = faultyDisk(reference.out, () => null)
    await new Trainer(model, reference).finish()
    calls = disk.calls.length
    await disk.restore()
  }
  expect(calls).toBeGreaterThan(150)
  const random = randomSource(11)
  for (let round = 0; round < 8; round++) {
    const given = options({ ...small, resume: true })
    for (let life = 0; life < 2; life++) {
      const at = Math.floor(random() * calls)
      const kill = random() < 0.5 ? 'before' : 'after'
      const disk = faultyDisk(given.out, (_, index) => (index === at ? { kill } : null))
      const model = decoder()
      abandoned.push(model)
      const run = new Trainer(model, given).finish().catch(() => undefined)
      await Promise.race([run, disk.killed])
      await disk.restore()
    }
    using model = decoder()
    await new Trainer(model, given).finish()
    expect(weights(given.out)).toBe(weights(reference.out))
    expect(metrics(given.out)).toEqual(metrics(reference.out))
  }
}, 120_000)
