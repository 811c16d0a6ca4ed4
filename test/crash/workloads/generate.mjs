// A run of the Trainer, two streams of generation and a session with the same model, tokenizer threads at work.
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Decoder, TextDataset, Tokenizer, Trainer } from 'fuselm'

export async function start() {
  const texts = ['the cat sat on the mat, and the dog on the log. '.repeat(200)]
  const tokenizer = await Tokenizer.train({ texts, vocabSize: 300 })
  const train = await TextDataset.from(texts, { tokenizer, contextLength: 64 })
  const shape = { hiddenSize: 128, numHiddenLayers: 3, numAttentionHeads: 4, intermediateSize: 256 }
  const decoder = Decoder.create({ ...shape, maxPositionEmbeddings: 256 }, { tokenizer, dtype: 'bf16' })
  const out = mkdtempSync(join(tmpdir(), 'fuselm-crash-'))
  const controller = new AbortController()
  const { signal } = controller
  let stopped = false
  let steps = 0

  const training = async () => {
    const trainer = new Trainer(decoder, { train, out, steps: 1e6, batchSize: 4, saveEvery: 5 })
    for await (const event of trainer.run({ signal })) if (event.type === 'step') steps = event.step
  }
  const answering = async (of) => {
    while (!stopped) for await (const _ of of.generate('the cat', { maxNewTokens: 40, signal }));
  }
  const encoding = async () => {
    while (!stopped) await tokenizer.encodeAsync(texts[0], { signal })
  }
  for (const work of [training(), answering(decoder), answering(decoder.session()), encoding()]) {
    work.catch((error) => {
      if (!stopped) throw error
    })
  }
  return {
    steps: () => steps,
    stop() {
      stopped = true
      controller.abort()
    },
  }
}
