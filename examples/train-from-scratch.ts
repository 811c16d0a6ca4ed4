// A language model from nothing: a tokenizer, a dataset and a small LLaMA, trained on text files.
//
//   node build/examples/train-from-scratch.js out/first text.txt ...
//
// Ctrl+C finishes the step and saves; the same command with `resume: true` goes on from there.
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Decoder, TextDataset, Tokenizer, Trainer, type TrainerOptions } from 'fuselm'

export async function trainFromScratch(
  files: string[],
  out: string,
  {
    vocabSize = 4096,
    hiddenSize = 256,
    contextLength = 256,
    ...options
  }: Sizes & Partial<TrainerOptions> = {},
): Promise<{ validation: TextDataset }> {
  const tokenizer = await Tokenizer.train({ files, vocabSize })
  const { train, validation } = await TextDataset.fromFiles(files, {
    tokenizer,
    contextLength,
    holdOut: 0.05,
  })

  using decoder = Decoder.create(
    {
      architecture: 'llama',
      hiddenSize,
      intermediateSize: 3 * hiddenSize,
      numHiddenLayers: 8,
      numAttentionHeads: 4,
      maxPositionEmbeddings: contextLength,
    },
    { tokenizer, dtype: 'bf16', seed: 1 },
  )
  console.log(`${train.tokens} tokens, ${decoder.model.parameterCount()} parameters`)

  const interrupt = new AbortController()
  process.once('SIGINT', () => interrupt.abort(new Error('interrupted; the run is saved')))
  const trainer = new Trainer(decoder, {
    train,
    validation,
    out: join(out, 'run'),
    batchSize: 16,
    steps: 1000,
    optimizer: { learningRate: 1e-3, weightDecay: 0.1 },
    schedule: { warmup: 50, decay: 'cosine' },
    evalEvery: 100,
    keepBest: true,
    samplePrompts: ['The '],
    ...options,
  })
  for await (const event of trainer.run({ signal: interrupt.signal })) {
    if (event.type === 'eval') console.log(`step ${event.step}: perplexity ${event.perplexity.toFixed(2)}`)
    if (event.type === 'sample') console.log(`  ${event.prompt}${event.text.replaceAll('\n', '\n  ')}`)
  }
  await decoder.save(join(out, 'model')) // the layout of Hugging Face
  await train.close()
  return { validation }
}

interface Sizes {
  readonly vocabSize?: number
  readonly hiddenSize?: number
  readonly contextLength?: number
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const [out, ...files] = process.argv.slice(2)
  if (out === undefined || files.length === 0)
    throw new Error('usage: train-from-scratch.js out text.txt ...')
  const { validation } = await trainFromScratch(files, out)
  await validation.close()
}
