// How new models begin.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type CausalLm, Device, Gpt2, Llama, noGrad, ops, scope, tensor } from '../../lib/index.ts'

let device: Device
beforeAll(() => {
  device = Device.open().makeDefault()
})
afterAll(() => device.close())

const llama = {
  vocabSize: 50,
  hiddenSize: 32,
  intermediateSize: 64,
  numHiddenLayers: 3,
  numAttentionHeads: 2,
  tieWordEmbeddings: false,
}
const gpt2 = { vocabSize: 50, nEmbd: 32, nLayer: 3, nHead: 2, nPositions: 16 }

/** Logits of the last of so many tokens. */
async function last(model: CausalLm, ids: readonly number[]): Promise<number[]> {
  const logits = noGrad(() =>
    scope(() => model.forward(tensor([...ids], { shape: [1, ids.length], dtype: 'i32' }))),
  )
  const values = [...(await logits.toArray())]
  logits.dispose()
  return values.slice(-50)
}

test.each([
  ['llama', (zeroResiduals: boolean): CausalLm => new Llama(llama, { seed: 3, zeroResiduals })],
  ['gpt2', (zeroResiduals: boolean): CausalLm => new Gpt2(gpt2, { seed: 3, zeroResiduals })],
] as const)('zeroResiduals: a new %s looks at the last token alone', async (_, make) => {
  using plain = make(false)
  using zero = make(true)
  expect(await last(zero, [7, 8, 9])).toEqual(await last(zero, [30, 31, 9]))
  expect(await last(plain, [7, 8, 9])).not.toEqual(await last(plain, [30, 31, 9]))
})

test('zeroResiduals: logits are those of embedding, norm and head', async () => {
  using model = new Llama(llama, { seed: 3, zeroResiduals: true, embeddingStd: 0.5 })
  const expected = noGrad(() =>
    scope(() => {
      const x = ops.embedding(tensor([9], { dtype: 'i32' }), model.inputEmbedding)
      return ops.linear(ops.rmsNorm(x, model.model.norm.weight), model.head())
    }),
  )
  expect(await last(model, [7, 8, 9])).toEqual([...(await expected.toArray())])
  expected.dispose()
})

test('embeddingStd is that of the embedding, and of nothing else', async () => {
  using plain = new Llama(llama, { seed: 3 })
  using wide = new Llama(llama, { seed: 3, embeddingStd: 0.5 })
  const std = async (values: Promise<ArrayLike<number>>): Promise<number> => {
    const list = Array.from(await values)
    return Math.sqrt(list.reduce((sum, value) => sum + value * value, 0) / list.length)
  }
  expect(await std(wide.inputEmbedding.toArray())).toBeCloseTo(0.5, 1)
  expect(await std(plain.inputEmbedding.toArray())).toBeCloseTo(0.02, 2)
  expect([...(await (wide.lmHead?.weight.toArray() ?? []))]).toEqual([
    ...(await (plain.lmHead?.weight.toArray() ?? [])),
  ])
})
