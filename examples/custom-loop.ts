// A training loop of one's own: model, optimizer, schedule, and a step that never blocks the event
// loop. JavaScript only enqueues; while step N runs, the numbers of step N-1 are awaited and shown.
//
//   node build/examples/custom-loop.js text.txt ...     trains on files of your own
import { pathToFileURL } from 'node:url'
import {
  AdamW,
  Llama,
  randomSource,
  randomWindows,
  readByteTokens,
  referenceModels,
  saveModel,
  schedule,
  scope,
  type Tensor,
  tensor,
} from 'fuselm'

export interface TrainOptions {
  readonly steps: number
  readonly batchSize: number
  readonly contextLength: number
  /** Highest learning rate: reached after `warmup` steps, then a cosine down to a tenth. */
  readonly learningRate: number
  readonly warmup: number
  readonly seed?: number
  /** Called once per step, one step late. */
  readonly onStep?: (report: StepReport) => void
}

export interface StepReport {
  readonly step: number
  readonly steps: number
  readonly loss: number
  readonly learningRate: number
  /** Before clipping. */
  readonly gradientNorm: number
  readonly tokensPerSecond: number
  readonly secondsLeft: number
}

/** What a step has left on the device until it is read. */
interface Enqueued {
  readonly step: number
  readonly learningRate: number
  readonly values: Promise<[loss: number, gradientNorm: number]>
}

/** Trains on windows at random places of `tokens`. */
export async function train(model: Llama, tokens: ArrayLike<number>, options: TrainOptions): Promise<void> {
  const { steps, batchSize, contextLength, learningRate, warmup, seed = 1, onStep } = options
  const rate = schedule({ learningRate, steps, warmup, decay: 'cosine', floor: 0.1 })
  const optimizer = new AdamW({
    parameters: model.namedParameters(),
    betas: [0.9, 0.95],
    weightDecay: 0.1,
    clipNorm: 1,
  })
  const random = randomSource(seed)
  const started = performance.now()

  const report = async ({ step, learningRate, values }: Enqueued): Promise<void> => {
    const [loss, gradientNorm] = await values
    if (!Number.isFinite(loss)) throw new Error(`step ${step}: the loss is ${loss}`)
    const seconds = (performance.now() - started) / 1000
    const tokensPerSecond = ((step + 1) * batchSize * contextLength) / seconds
    const secondsLeft = (seconds / (step + 1)) * (steps - step - 1)
    onStep?.({ step, steps, loss, learningRate, gradientNorm, tokensPerSecond, secondsLeft })
  }

  let previous: Enqueued | null = null
  try {
    for (let step = 0; step < steps; step++) {
      const batch = randomWindows(tokens, { batch: batchSize, length: contextLength, random })
      optimizer.learningRate = rate(step)
      // Whatever a step makes is freed when the scope ends, but for what it returns.
      const { loss, norm } = scope(() => {
        const ids = tensor(batch, { shape: [batchSize, contextLength], dtype: 'i32' })
        const loss = model.loss(ids, ids) // labels are shifted inside
        loss.backward()
        return { loss, norm: optimizer.step() }
      })
      const enqueued = { step, learningRate: rate(step), values: read(loss, norm) }
      if (previous !== null) await report(previous)
      previous = enqueued
    }
    if (previous !== null) await report(previous)
  } finally {
    optimizer.dispose()
  }
}

/** Reads two numbers, and frees their tensors: what is queued on them still runs. */
function read(loss: Tensor, norm: Tensor): Promise<[number, number]> {
  const values = Promise.all([loss.item(), norm.item()])
  values.catch(() => undefined) // a failure is reported where it is awaited
  loss.dispose()
  norm.dispose()
  return values
}

/** A line that writes itself over and over; on a pipe, every fiftieth step. */
export function liveLine({ step, steps, loss, learningRate, ...report }: StepReport): void {
  const line = [
    `step ${String(step + 1).padStart(String(steps).length)}/${steps}`,
    `loss ${loss.toFixed(4)}`,
    `lr ${learningRate.toExponential(2)}`,
    `grad norm ${report.gradientNorm.toFixed(2)}`,
    `${Math.round(report.tokensPerSecond).toLocaleString('en')} tok/s`,
    `${Math.ceil(report.secondsLeft)} s left`,
  ].join('  ')
  const last = step + 1 === steps
  if (process.stdout.isTTY) process.stdout.write(`\r\x1b[K${line}${last ? '\n' : ''}`)
  else if (last || step % 50 === 0) console.log(line)
}

async function main(files: readonly string[]): Promise<void> {
  if (files.length === 0) throw new Error('usage: custom-loop.js text.txt ...')
  const tokens = await readByteTokens(files)
  const model = new Llama(referenceModels['1M'], { dtype: 'bf16', seed: 1 })
  console.log(`${tokens.length} bytes, ${model.parameterCount()} parameters`)
  await train(model, tokens, {
    steps: 1000,
    batchSize: 8,
    contextLength: 128,
    learningRate: 3e-3,
    warmup: 40,
    onStep: liveLine,
  })
  await saveModel(model, 'out/custom-loop')
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main(process.argv.slice(2))
