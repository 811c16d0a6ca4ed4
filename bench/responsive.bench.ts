// Is the event loop free while everything happens at once? A Trainer trains flat out; meanwhile, again and
// again, a large tokenizer.json loads, 10 MB of text are encoded and the run saves checkpoints. The delay of
// the event loop is that of Node's own histogram, with a timer every millisecond; beside it, that of a
// process that does nothing in the same seconds: what the machine itself takes. And of the thread itself, how
// much processor time it used between two turns of a timer: what it blocks by its own doing, whatever else
// the machine is busy with.
//
//   npm run bench -- responsive [--model 124M] [--steps 24] [--entries 150000] [--json]

import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Llama, randomSource, referenceModels, TextDataset, Tokenizer, Trainer } from 'fuselm'
import { TARGET_P99_MS, TARGET_P999_MS, watchDelays } from './delays.ts'
import { corpus, writeLargeTokenizer } from './large-tokenizer.ts'
import { modelName, shapes } from './workload.ts'

const TEXT_BYTES = 10_000_000

export async function run(argv: readonly string[]): Promise<unknown> {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      model: { type: 'string', default: '124M' },
      steps: { type: 'string', default: '24' },
      entries: { type: 'string', default: '150000' },
    },
  })
  const name = modelName(values.model)
  const { batch, context } = shapes[name]
  const steps = Number(values.steps)
  const folder = mkdtempSync(join(tmpdir(), 'fuselm-responsive-'))
  try {
    const text = corpus('node_modules', TEXT_BYTES)
    const file = join(folder, 'tokenizer.json')
    writeLargeTokenizer(file, text, Number(values.entries))

    const model = new Llama(referenceModels[name], { dtype: 'bf16', seed: 1 })
    const random = randomSource(1)
    const rows = Array.from({ length: 4 * batch }, () =>
      Int32Array.from({ length: context }, () => Math.floor(random() * model.config.vocabSize)),
    )
    const small = join(folder, 'small.json')
    writeLargeTokenizer(small, text, model.config.vocabSize)
    const tokenizer = await Tokenizer.load(small)
    const train = await TextDataset.from(rows, { tokenizer, contextLength: context, layout: 'examples' })
    const trainer = new Trainer(model, {
      train,
      out: join(folder, 'run'),
      batchSize: batch,
      steps,
      saveEvery: Math.ceil(steps / 3),
    })

    let done = false
    const counts = { loads: 0, encodes: 0, saves: 0 }
    const beside = async (): Promise<void> => {
      while (!done) {
        const large = await Tokenizer.load(file)
        counts.loads++
        const ids = await large.encodeAsync(text)
        if (ids.length < TEXT_BYTES / 20) throw new Error('no text was encoded')
        counts.encodes++
      }
    }
    let watched: { delays: ReturnType<typeof watchDelays>; work: Promise<void> } | null = null
    const losses: number[] = []
    for await (const event of trainer.run()) {
      if (event.type === 'checkpoint') counts.saves++
      if (event.type !== 'step') continue
      losses.push(event.loss)
      // past the first touch of fresh pages
      if (watched === null && event.step >= 2) {
        watched = { delays: watchDelays(), work: beside() }
      }
    }
    if (watched === null) throw new Error('too few steps')
    const delays = await watched.delays.end()
    done = true
    await watched.work
    await train.close()
    model.dispose()
    return {
      model: name,
      steps,
      tokenizerMB: statSync(file).size / 1e6,
      ...counts,
      loadAverage: loadavg()[0],
      targetP99Ms: TARGET_P99_MS,
      targetP999Ms: TARGET_P999_MS,
      ...delays,
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
