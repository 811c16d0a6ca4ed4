// Is the event loop free while everything happens at once? A Trainer trains flat out; meanwhile, again and
// again, a large tokenizer.json loads, 10 MB of text are encoded and the run saves checkpoints. The delay of
// the event loop is that of Node's own histogram, with a timer every millisecond; beside it, that of a
// process that does nothing in the same seconds: what the machine itself takes. And of the thread itself, how
// much processor time it used between two turns of a timer: what it blocks by its own doing, whatever else
// the machine is busy with.
//
//   npm run bench -- responsive [--model 124M] [--steps 24] [--entries 150000] [--json]

import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks'
import { parseArgs } from 'node:util'
import { Llama, randomSource, referenceModels, TextDataset, Tokenizer, Trainer } from 'fuselm'
import { corpus, writeLargeTokenizer } from './large-tokenizer.ts'
import { percentile } from './percentile.ts'
import { modelName, shapes } from './workload.ts'

const TARGET_P99_MS = 10
const TARGET_P999_MS = 25
const TEXT_BYTES = 10_000_000

/** Prints its own histogram when its input ends. */
const idle = `
  import { monitorEventLoopDelay } from 'node:perf_hooks'
  const histogram = monitorEventLoopDelay({ resolution: 1 })
  histogram.enable()
  process.stdin.on('data', () => {}).on('end', () => {
    const at = (p) => histogram.percentile(p) / 1e6
    console.log(JSON.stringify({ count: histogram.count, p50: at(50), p99: at(99), p999: at(99.9), max: histogram.max / 1e6 }))
  })`

interface Delays {
  readonly count: number
  readonly p50: number
  readonly p99: number
  readonly p999: number
  readonly max: number
}

function delays(histogram: IntervalHistogram): Delays {
  const at = (percentile: number): number => histogram.percentile(percentile) / 1e6
  return { count: histogram.count, p50: at(50), p99: at(99), p999: at(99.9), max: histogram.max / 1e6 }
}

/** Processor time of this thread so far, in milliseconds; it is the process's first. */
function threadMs(): number {
  return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6
}

/** Processor time between turns of a timer of a millisecond. */
function watchOwn(): { end(): Delays } {
  const values: number[] = []
  let last = threadMs()
  const timer = setInterval(() => {
    const now = threadMs()
    values.push(now - last)
    last = now
  }, 1)
  return {
    end() {
      clearInterval(timer)
      const at = (q: number): number => percentile(values, q)
      const max = values.reduce((most, value) => Math.max(most, value), 0)
      return { count: values.length, p50: at(0.5), p99: at(0.99), p999: at(0.999), max }
    },
  }
}

function watchIdle(): { end(): Promise<Delays> } {
  const child = spawn(process.execPath, ['--input-type=module', '-e', idle], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  return {
    async end() {
      child.stdin.end()
      let text = ''
      for await (const part of child.stdout) text += part
      return JSON.parse(text) as Delays
    },
  }
}

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
    let watched: {
      histogram: IntervalHistogram
      own: ReturnType<typeof watchOwn>
      idle: ReturnType<typeof watchIdle>
      work: Promise<void>
    } | null = null
    const losses: number[] = []
    for await (const event of trainer.run()) {
      if (event.type === 'checkpoint') counts.saves++
      if (event.type !== 'step') continue
      losses.push(event.loss)
      // past the first touch of fresh pages
      if (watched === null && event.step >= 2) {
        const histogram = monitorEventLoopDelay({ resolution: 1 })
        histogram.enable()
        watched = { histogram, own: watchOwn(), idle: watchIdle(), work: beside() }
      }
    }
    if (watched === null) throw new Error('too few steps')
    watched.histogram.disable()
    const ours = delays(watched.histogram)
    const own = watched.own.end()
    const theirs = await watched.idle.end()
    done = true
    await watched.work
    await train.close()
    model.dispose()
    const row = (process_: string, { count, p50, p99, p999, max }: Delays): object => ({
      process: process_,
      count,
      p50Ms: p50,
      p99Ms: p99,
      p999Ms: p999,
      maxMs: max,
    })
    return {
      model: name,
      steps,
      tokenizerMB: statSync(file).size / 1e6,
      ...counts,
      loadAverage: loadavg()[0],
      targetP99Ms: TARGET_P99_MS,
      targetP999Ms: TARGET_P999_MS,
      held: ours.p99 <= TARGET_P99_MS && ours.p999 <= TARGET_P999_MS,
      rows: [row('training', ours), row('idle', theirs), row('own processor time', own)],
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
