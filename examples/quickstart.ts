// The whole way in small: real text, a model trained from scratch for about a minute, a judge it has
// to beat, a sample, and a saved model that loads back as it was.
import { parseArgs } from 'node:util'
import {
  decodeBytes,
  Llama,
  loadLlama,
  noGrad,
  ops,
  randomKey,
  readByteTokens,
  referenceModels,
  saveModel,
  scope,
  tensor,
  windowsAt,
} from 'fuselm'
import { ByteTrigram } from './byte-trigram.ts'
import { liveLine, train } from './custom-loop.ts'
import { findDeclarations } from './declarations.ts'

const LENGTH = 128
// small batches: a minute is short, and many small steps learn more from it than few large ones
const TRAINING = { batchSize: 8, contextLength: LENGTH, learningRate: 3e-3, warmup: 40 }
const EVALUATION_ROWS = 32

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' }, // of training, on this machine
    steps: { type: 'string' }, // instead of seconds
    out: { type: 'string', default: 'out/quickstart' },
  },
})

/** Mean loss over windows, a batch at a time. */
async function evaluate(model: Llama, bytes: Uint8Array, starts: readonly number[]): Promise<number> {
  let sum = 0
  for (let row = 0; row < starts.length; row += EVALUATION_ROWS) {
    const rows = starts.slice(row, row + EVALUATION_ROWS)
    const loss = noGrad(() =>
      scope(() => {
        const ids = tensor(windowsAt(bytes, rows, LENGTH), { shape: [rows.length, LENGTH], dtype: 'i32' })
        return model.loss(ids, ids)
      }),
    )
    sum += (await loss.item()) * rows.length
    loss.dispose()
  }
  return sum / starts.length
}

/** Goes on with a text, byte by byte; the whole window is computed each time. */
async function continueText(model: Llama, prompt: string, count: number): Promise<string> {
  const ids = [...new TextEncoder().encode(prompt)]
  for (let call = 0; call < count; call++) {
    const next = noGrad(() =>
      scope(() => {
        const window = ids.slice(-LENGTH)
        const logits = model.forward(tensor(window, { shape: [1, window.length], dtype: 'i32' }))
        const last = logits
          .slice(1, window.length - 1)
          .reshape([1, -1])
          .slice(1, 0, 256)
        const key = randomKey(7, { call }).reshape([1, 4])
        return ops.sample(last, key, { temperature: 0.7, topP: 0.92 }).ids
      }),
    )
    ids.push(await next.item())
    next.dispose()
  }
  return decodeBytes(ids)
}

/** How many steps fit into the time (600 to 3,000), by a few steps of a model that is thrown away. */
async function stepsIn(seconds: number, tokens: Uint8Array): Promise<number> {
  const model = new Llama(referenceModels['1M'], { dtype: 'bf16' })
  await train(model, tokens, { ...TRAINING, steps: 5 })
  const start = performance.now()
  await train(model, tokens, { ...TRAINING, steps: 20 })
  const stepSeconds = (performance.now() - start) / 20_000
  model.dispose()
  return Math.min(3000, Math.max(600, Math.round(seconds / stepSeconds)))
}

/** Logits of one batch, to compare bit by bit. */
async function logitsOf(model: Llama, bytes: Uint8Array): Promise<Float32Array> {
  const logits = noGrad(() =>
    scope(() =>
      model.forward(tensor(windowsAt(bytes, [0, 1000], LENGTH), { shape: [2, LENGTH], dtype: 'i32' })),
    ),
  )
  const found = Float32Array.from(await logits.toArray())
  logits.dispose()
  return found
}

async function main(): Promise<void> {
  const corpus = await findDeclarations('node_modules')
  const trainBytes = await readByteTokens(corpus.train)
  const heldOut = await readByteTokens(corpus.heldOut)
  console.log(
    `training on ${corpus.train.length} declaration files, ${(trainBytes.length / 1e6).toFixed(1)} MB of bytes`,
  )
  console.log(
    `held out: all of ${corpus.heldOutFamilies.join(', ')} (${(heldOut.length / 1e6).toFixed(1)} MB)`,
  )

  const trigram = await ByteTrigram.fit(trainBytes)
  const rows = 256
  const starts = Array.from({ length: rows }, (_, i) =>
    Math.floor((i * (heldOut.length - LENGTH)) / (rows - 1)),
  )
  const trigramLoss = trigram.loss(heldOut, starts, LENGTH)

  const steps =
    values.steps === undefined ? await stepsIn(Number(values.seconds), trainBytes) : Number(values.steps)
  const model = new Llama(referenceModels['1M'], { dtype: 'bf16', seed: 1 })
  const before = await evaluate(model, heldOut, starts)
  console.log(
    `${model.parameterCount().toLocaleString('en')} parameters, bf16; ${steps} steps of ${TRAINING.batchSize} x ${LENGTH} bytes`,
  )
  await train(model, trainBytes, { ...TRAINING, steps, onStep: liveLine })
  const after = await evaluate(model, heldOut, starts)

  console.log('\nheld-out loss, nats per byte')
  console.log(`  before training      ${before.toFixed(4)}`)
  console.log(`  byte trigram         ${trigramLoss.toFixed(4)}   (counts of the same bytes, interpolated)`)
  console.log(
    `  after training       ${after.toFixed(4)}   ${after < trigramLoss ? 'beats the trigram' : 'DOES NOT beat the trigram'}`,
  )

  console.log('\nsample\n------')
  console.log(await continueText(model, 'export interface ', 300))
  console.log('------')

  await saveModel(model, values.out)
  const loaded = await loadLlama(values.out)
  const [a, b] = [await logitsOf(model, heldOut), await logitsOf(loaded, heldOut)]
  const identical = a.length === b.length && a.every((value, i) => Object.is(value, b[i]))
  console.log(
    `\nsaved ${values.out}/model.safetensors and config.json; loaded back: ${identical ? 'identical logits' : 'DIFFERENT logits'}`,
  )
  if (!identical || !(after < trigramLoss)) process.exitCode = 1
}

await main()
