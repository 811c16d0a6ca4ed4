// How fast does a model read a prompt and write an answer, dense and in int8, beside llama.cpp on the same
// weights? Greedy, one conversation.
//
//   npm run bench -- generate [--model 124M|1B] [--prompt 512] [--tokens 64] [--samples 5] [--peers] [--json]
//
// llama.cpp takes part where FUSELM_NODE_LLAMA_CPP names a folder in which `npm install node-llama-cpp` ran.
// It reads the weights from GGUF files, in bf16 and in Q8_0; its first token has to be ours (in int8 any), and as likely.

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Decoder, Device, type Llama, quantize, referenceModels, Tokenizer } from 'fuselm'
import { type Limits, measureLimits } from './limits.ts'
import { type GgufDtype, writeGguf } from './peers/gguf.ts'
import { findLlamaCpp, Peer } from './peers/peer.ts'
import { percentile } from './percentile.ts'

/** Untied, so that the last layer is a Linear like the others. */
const MODELS = {
  '124M': referenceModels['124M'],
  '1B': {
    vocabSize: 32000,
    hiddenSize: 2048,
    numHiddenLayers: 22,
    numAttentionHeads: 32,
    numKeyValueHeads: 4,
    intermediateSize: 5632,
  },
} as const
/**
 * Of the natural logarithm of the first token's probability, from that of our dense model. Random weights make
 * the likeliest tokens nearly alike, so that with rounded weights another may be first.
 */
const TOLERANCE = { dense: 0.05, int8: 0.15 }

interface Answer {
  /** From the call to each token. */
  readonly seconds: readonly number[]
  readonly ids: readonly number[]
  readonly logprobs: readonly number[]
}

interface Contestant {
  readonly name: string
  readonly kind: keyof typeof TOLERANCE
  /** Of what every token reads. */
  readonly bytes: number
  /** @param likely with probabilities, which not every one has for nothing */
  generate(prompt: Int32Array, tokens: number, likely?: boolean): Promise<Answer>
  close(): void
}

/** Matrices that every token goes through, and bytes of a value. */
const weightBytes = (model: Llama, perValue: number): number =>
  [...model.namedParameters()]
    .filter(([path, { shape }]) => shape.length > 1 && !path.includes('embed'))
    .reduce((total, [, { size }]) => total + size * perValue, 0)

function ours(name: string, decoder: Decoder, bytes: number): Contestant {
  return {
    name,
    kind: name.includes('int8') ? 'int8' : 'dense',
    bytes,
    async generate(prompt, tokens) {
      const seconds: number[] = []
      const ids: number[] = []
      const logprobs: number[] = []
      const started = performance.now()
      for await (const piece of decoder.generate(prompt, { maxNewTokens: tokens, temperature: 0 })) {
        seconds.push((performance.now() - started) / 1e3)
        ids.push(piece.tokenId)
        logprobs.push(piece.logprob)
      }
      return { seconds, ids, logprobs }
    },
    close: () => decoder.model.dispose(),
  }
}

async function llamaCpp(
  model: Llama,
  { folder, files, dtype, context }: { folder: string; files: string; dtype: GgufDtype; context: number },
): Promise<Contestant> {
  const path = join(files, `${dtype}.gguf`)
  await writeGguf(model, path, dtype)
  const peer = await Peer.start(process.execPath, {
    program: fileURLToPath(new URL('../../bench/peers/llama_cpp.mjs', import.meta.url)),
    arguments: { folder, model: path, threads: Device.default().threads, context },
    isa: Device.default().isa,
  })
  return {
    name: `llama.cpp ${peer.version} ${dtype}`,
    kind: dtype === 'bf16' ? 'dense' : 'int8',
    bytes: weightBytes(model, dtype === 'bf16' ? 2 : 34 / 32),
    async generate(prompt, tokens, likely = false) {
      const answer = await peer.ask({ prompt: [...prompt], tokens, likely })
      const { seconds, ids, probabilities } = answer as unknown as Omit<Answer, 'logprobs'> & {
        probabilities: number[]
      }
      return { seconds, ids, logprobs: probabilities.map(Math.log) }
    },
    close: () => peer.close(),
  }
}

/** @throws Error when one begins otherwise: the times of different work cannot be compared */
function checkAnswers(all: readonly { readonly of: Contestant; readonly answer: Answer }[]): void {
  const [reference] = all
  for (const { of, answer } of all) {
    const [id, logprob = Number.NaN] = [answer.ids[0], answer.logprobs[0]]
    const [expectedId, expected = Number.NaN] = [reference?.answer.ids[0], reference?.answer.logprobs[0]]
    const same = of.kind === 'int8' || id === expectedId
    if (!same || !(Math.abs(logprob - expected) <= TOLERANCE[of.kind])) {
      throw new Error(
        `${of.name} begins with token ${id} at ${logprob}, ${reference?.of.name} with ${expectedId} at ${expected}`,
      )
    }
  }
}

interface Row {
  readonly name: string
  /** Of the prompt. */
  readonly promptTokensPerSecond: number
  readonly tokensPerSecond: number
  /** Weights read for a token, over the time of one. */
  readonly gigabytesPerSecond: number
  readonly shareOfReading: number
  readonly sameTokens: number
}

function rowOf(
  { name, bytes }: Contestant,
  answers: readonly Answer[],
  first: Answer,
  given: number,
  limits: Limits,
): Row {
  const median = (of: (answer: Answer) => number): number => percentile(answers.map(of), 0.5)
  const reading = median(({ seconds }) => seconds[0] ?? Number.NaN)
  const token = median(({ seconds }) => ((seconds.at(-1) ?? 0) - (seconds[0] ?? 0)) / (seconds.length - 1))
  const differs = (answers[0]?.ids ?? []).findIndex((id, i) => id !== first.ids[i])
  return {
    name,
    promptTokensPerSecond: given / reading,
    tokensPerSecond: 1 / token,
    gigabytesPerSecond: bytes / token / 1e9,
    shareOfReading: bytes / token / 1e9 / limits.readGBs,
    sameTokens: differs < 0 ? (answers[0]?.ids.length ?? 0) : differs,
  }
}

async function startContestants(
  dense: Decoder,
  { files, context, peers }: { files: string; context: number; peers: boolean },
): Promise<Contestant[]> {
  const model = dense.model as Llama
  const contestants = [ours('fuselm bf16', dense, weightBytes(model, 2))]
  const rowWise = await quantize(dense)
  contestants.push(ours('fuselm int8', rowWise, weightBytes(model, 1)))
  const grouped = await quantize(dense, { group: 32 })
  contestants.push(ours('fuselm int8, groups of 32', grouped, weightBytes(model, 36 / 32)))
  const both = await quantize(dense, { activations: 'int8' })
  contestants.push(ours('fuselm int8, activations too', both, weightBytes(model, 1)))
  const found = peers ? findLlamaCpp() : { reason: 'without --peers' }
  if ('reason' in found) {
    process.stderr.write(`no llama.cpp: ${found.reason}\n`)
    return contestants
  }
  for (const dtype of ['bf16', 'q8_0'] as const) {
    contestants.push(await llamaCpp(model, { folder: found.folder, files, dtype, context }))
  }
  return contestants
}

export async function run(argv: readonly string[]): Promise<unknown> {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      model: { type: 'string', default: '124M' },
      prompt: { type: 'string', default: '512' },
      tokens: { type: 'string', default: '64' },
      samples: { type: 'string', default: '5' },
      peers: { type: 'boolean', default: false },
    },
  })
  const { model: name } = values
  if (name !== '124M' && name !== '1B') throw new Error(`--model must be 124M or 1B, received ${name}`)
  const [length, tokens, samples] = [values.prompt, values.tokens, values.samples].map(Number) as [
    number,
    number,
    number,
  ]
  const files = await mkdtemp(join(tmpdir(), 'fuselm-bench-'))
  const contestants: Contestant[] = []
  try {
    const text = join(files, 'text.txt')
    await writeFile(text, 'a tokenizer has to be there, though no text is read. '.repeat(50))
    const tokenizer = await Tokenizer.train({ files: [text], vocabSize: 270 })
    const context = length + tokens + 8
    const shape = { ...MODELS[name], maxPositionEmbeddings: context, tieWordEmbeddings: false }
    const dense = Decoder.create({ ...shape }, { tokenizer, dtype: 'bf16', seed: 1 })
    contestants.push(...(await startContestants(dense, { files, context, peers: values.peers })))
    const prompt = Int32Array.from({ length }, (_, i) => (i * 7919 + 13) % MODELS[name].vocabSize)
    const first: { of: Contestant; answer: Answer }[] = []
    for (const of of contestants) first.push({ of, answer: await of.generate(prompt, tokens, true) })
    checkAnswers(first)
    const { isa, threads } = Device.default()
    const before = measureLimits(isa, threads)
    const answers = new Map<Contestant, Answer[]>(contestants.map((c) => [c, []]))
    for (let i = 0; i < samples; i++) {
      for (const c of contestants) answers.get(c)?.push(await c.generate(prompt, tokens))
    }
    const reference = first[0]?.answer as Answer
    return {
      model: name,
      promptTokens: length,
      tokens,
      limits: before,
      rows: contestants.map((c) => rowOf(c, answers.get(c) ?? [], reference, length, before)),
    }
  } finally {
    for (const c of contestants) c.close()
    await rm(files, { recursive: true, force: true })
  }
}
