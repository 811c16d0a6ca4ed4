// A training run on the built library: node kill.child.mjs OUT model|adapter|large. Killed at any moment by its
// test, which hears of every event.

import { Decoder, TextDataset, Tokenizer, Trainer } from 'fuselm'

const sizes = {
  small: {
    hiddenSize: 64,
    numHiddenLayers: 2,
    numAttentionHeads: 2,
    intermediateSize: 128,
    steps: 60,
    saveEvery: 3,
  },
  // checkpoints of a quarter of a gigabyte
  large: {
    hiddenSize: 512,
    numHiddenLayers: 6,
    numAttentionHeads: 8,
    intermediateSize: 1536,
    steps: 10,
    saveEvery: 2,
  },
}
const [out, kind] = process.argv.slice(2)
const { steps, saveEvery, ...shape } = sizes[kind === 'large' ? 'large' : 'small']
const text = Array.from({ length: 400 }, (_, i) => `line ${i % 7}: abc abd ${i % 3}`).join('\n')
const tokenizer = await Tokenizer.train({ texts: [text], vocabSize: 280 })
const { train, validation } = await TextDataset.from([text], {
  tokenizer,
  contextLength: 16,
  holdOut: 0.2,
  seed: 1,
})
const decoder = Decoder.create({ ...shape, maxPositionEmbeddings: 64 }, { tokenizer, dtype: 'bf16', seed: 3 })
const lora = { rank: 8, dropout: 0.1, targets: ['q_proj', 'v_proj', 'down_proj'] }
const adapter = kind === 'adapter' ? decoder.addAdapter('a', lora) : null
const trainer = new Trainer(decoder, {
  adapter,
  train,
  validation,
  out,
  batchSize: 2,
  steps,
  saveEvery,
  dropout: 0.1,
  optimizer: { learningRate: 3e-3 },
  evalEvery: 10,
  evalRows: 8,
  resume: true,
})
process.send({ type: 'started' })
for await (const { type, step } of trainer.run()) {
  process.send({ type, step })
  // the last word before a save; `checkpoint` is the first one after
  if (type === 'step' && (step % saveEvery === 0 || step === steps)) process.send({ type: 'saving', step })
}
process.disconnect()
