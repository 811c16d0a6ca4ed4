// Nothing in a training step is copied only to suit a kernel's layout, nor falls back to a reference.

import { expect, test } from 'vitest'
import {
  AdamW,
  Llama,
  LoraAdapter,
  nn,
  opStats,
  ops,
  quantizeLinears,
  resetOpStats,
  scope,
  tensor,
} from '../../lib/index.ts'
import { expectNoLeaks } from '../unit/leaks.ts'

expectNoLeaks()

/** Of all ops since the last reset. */
function totals(): { kernel: number; reference: number; copies: number } {
  const all = [...opStats().values()]
  const sum = (pick: 'kernel' | 'reference' | 'copies'): number =>
    all.reduce((n, stats) => n + stats[pick], 0)
  return { kernel: sum('kernel'), reference: sum('reference'), copies: sum('copies') }
}

// grouped heads, tied and untied, a hidden size that fills no vector: the layouts of 124M in small
test.each([
  { dtype: 'f32', tieWordEmbeddings: true },
  { dtype: 'f32', tieWordEmbeddings: false },
  { dtype: 'bf16', tieWordEmbeddings: true },
  { dtype: 'bf16', tieWordEmbeddings: false },
] as const)('a LLaMA step inserts no copies: %o', async ({ dtype, tieWordEmbeddings }) => {
  const model = new Llama(
    {
      vocabSize: 97,
      hiddenSize: 72,
      numHiddenLayers: 2,
      numAttentionHeads: 6,
      numKeyValueHeads: 2,
      intermediateSize: 136,
      tieWordEmbeddings,
    },
    { dtype, seed: 1 },
  )
  const optimizer = new AdamW({ parameters: model.namedParameters() })
  resetOpStats()
  for (let step = 0; step < 2; step++) {
    scope(() => {
      const values = Int32Array.from({ length: 2 * 33 }, (_, i) => (7 * i + step) % 97)
      const ids = tensor(values, { shape: [2, 33], dtype: 'i32' })
      model.loss(ids, ids).backward()
      optimizer.step()
    })
  }
  const { kernel, reference, copies } = totals()
  expect(kernel).toBeGreaterThan(100)
  expect({ reference, copies }).toEqual({ reference: 0, copies: 0 })

  // the counter does count: rows that are no rows
  scope(() => {
    const x = tensor(new Float32Array(6), { shape: [2, 3] })
    ops.linear(x.transpose(), { weight: x.transpose() })
  })
  expect(totals().copies).toBeGreaterThan(0)
  model.dispose()
  optimizer.dispose()
})

test.each([
  { dtype: 'f32', dropout: 0, int8: false },
  { dtype: 'bf16', dropout: 0.1, int8: false },
  { dtype: 'bf16', dropout: 0.1, int8: true },
] as const)(
  'a step of LoRA inserts none, and makes no gradient of a frozen weight: %o',
  ({ dtype, ...given }) => {
    using model = new Llama(
      {
        vocabSize: 97,
        hiddenSize: 64,
        numHiddenLayers: 2,
        numAttentionHeads: 4,
        numKeyValueHeads: 2,
        intermediateSize: 96,
      },
      { dtype, seed: 1 },
    )
    if (given.int8) quantizeLinears(model)
    for (const parameter of model.parameters()) parameter.requiresGrad = false
    const targets = ['q_proj', 'v_proj', 'down_proj']
    using adapter = new LoraAdapter(model, { rank: 4, dropout: given.dropout, targets })
    using optimizer = new AdamW({ parameters: adapter.namedParameters() })
    const keys = new nn.DropoutKeys()
    resetOpStats()
    scope(() => {
      const values = Int32Array.from({ length: 2 * 33 }, (_, i) => (7 * i) % 97)
      const ids = tensor(values, { shape: [2, 33], dtype: 'i32' })
      model.loss(ids, ids, { adapter: adapter.withDropout(keys) }).backward()
      optimizer.step()
    })
    const { reference, copies } = totals()
    expect({ reference, copies }).toEqual({ reference: 0, copies: 0 })
    // queries and values with keys between them are one command; of int8 weights the keys are apart
    expect(opStats().get('lora_linear')?.kernel).toBe(4)
    expect(opStats().get('linear.dw')?.kernel).toBe(0)
    expect(opStats().get('embedding.backward')?.kernel).toBe(0)
  },
)
