// A small training run on the built library, of a model or of an adapter: node kill.child.mjs OUT model|adapter.
// Killed at any moment by its test.

import { Decoder, TextDataset, Tokenizer, Trainer } from 'fuselm'

const text = Array.from({ length: 400 }, (_, i) => `line ${i % 7}: abc abd ${i % 3}`).join('\n')
const tokenizer = await Tokenizer.train({ texts: [text], vocabSize: 280 })
const { train, validation } = await TextDataset.from([text], {
  tokenizer,
  contextLength: 16,
  holdOut: 0.2,
  seed: 1,
})
const shape = {
  hiddenSize: 64,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  intermediateSize: 128,
  maxPositionEmbeddings: 64,
}
const decoder = Decoder.create(shape, { tokenizer, dtype: 'bf16', seed: 3 })
const lora = { rank: 8, dropout: 0.1, targets: ['q_proj', 'v_proj', 'down_proj'] }
const adapter = process.argv[3] === 'adapter' ? decoder.addAdapter('a', lora) : null
const trainer = new Trainer(decoder, {
  adapter,
  train,
  validation,
  out: process.argv[2],
  batchSize: 2,
  steps: 60,
  dropout: 0.1,
  optimizer: { learningRate: 3e-3 },
  // saving takes about half of the time
  saveEvery: 3,
  evalEvery: 10,
  resume: true,
})
process.send?.('started')
await trainer.finish()
process.send?.('finished')
process.disconnect?.()
