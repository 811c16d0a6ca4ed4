// llama.cpp through node-llama-cpp, driven line by line (bench/generate.bench.ts): --folder where npm put
// it, --model a GGUF file, --threads, --context.
//   {"prompt": [ids], "tokens": n}   {"seconds": [to each token], "ids": [...]}, greedily
//   with "likely": true, {..., "probabilities": [...]}, too, which takes it time

import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    folder: { type: 'string' },
    model: { type: 'string' },
    threads: { type: 'string' },
    context: { type: 'string' },
  },
})
const main = join(values.folder, 'node_modules/node-llama-cpp/dist/index.js')
const { getLlama } = await import(pathToFileURL(main).href)
const threads = Number(values.threads)
const llama = await getLlama({
  gpu: false,
  build: 'never',
  maxThreads: threads,
  logLevel: 'error',
  skipDownload: true,
})
const model = await llama.loadModel({ modelPath: values.model })
const contextSize = Number(values.context)
const context = await model.createContext({ contextSize, batchSize: 512, threads, sequences: 1 })
const sequence = context.getSequence()

async function generate({ prompt, tokens, likely = false }) {
  await sequence.clearHistory()
  const seconds = []
  const ids = []
  const probabilities = []
  const started = performance.now()
  const steps = likely
    ? sequence.evaluateWithMetadata(prompt, { confidence: true }, { temperature: 0 })
    : sequence.evaluate(prompt, { temperature: 0 })
  for await (const step of steps) {
    seconds.push((performance.now() - started) / 1e3)
    ids.push(likely ? step.token : step)
    if (likely) probabilities.push(step.confidence)
    if (ids.length === tokens) break
  }
  return { seconds, ids, probabilities }
}

const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`)
say({ version: llama.llamaCppRelease?.release ?? 'unknown' })
for await (const line of createInterface({ input: process.stdin })) {
  try {
    say(await generate(JSON.parse(line)))
  } catch (error) {
    say({ error: String(error?.stack ?? error) })
  }
}
process.exit(0)
