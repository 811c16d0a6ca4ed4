// Trap 16 in a model: no dropout unless a call asks for it, other masks in every layer and step, and the
// same ones when a checkpoint region runs again for backward.

import { afterAll, expect, test } from 'vitest'
import { Device, Llama, nn, noGrad, ops, scope, type Tensor, tensor } from '../../lib/index.ts'
import { expectBetween, expectBitwise } from './numeric.ts'

const device = Device.open({ threads: 2 }).makeDefault()
afterAll(() => device.close())

const CONFIG = {
  vocabSize: 61,
  hiddenSize: 32,
  intermediateSize: 64,
  numHiddenLayers: 3,
  numAttentionHeads: 4,
  initializerRange: 0.2,
} as const
const [BATCH, LENGTH] = [2, 24]
const P = 0.25

const ids = (): Tensor =>
  tensor(
    Array.from({ length: BATCH * LENGTH }, (_, i) => (i * 17 + (i >> 2)) % CONFIG.vocabSize),
    { shape: [BATCH, LENGTH], dtype: 'i32' },
  )

async function taken(t: Tensor): Promise<Float64Array> {
  const values = Float64Array.from(await t.toArray())
  t.dispose()
  return values
}

test('trap 16 evaluation and generation never drop, whatever training did before', async () => {
  const model = new Llama(CONFIG, { dtype: 'f32', seed: 5 })
  const keys = new nn.DropoutKeys({ seed: 6 })
  const evaluate = (): Promise<Float64Array> => taken(noGrad(() => scope(() => model.loss(ids(), ids()))))
  const generate = (): Promise<Float64Array> => taken(noGrad(() => scope(() => model.forward(ids()))))
  const train = (p: number): Promise<Float64Array> =>
    taken(scope(() => model.loss(ids(), ids(), { dropout: { p, keys } })))
  const [loss, logits] = [await evaluate(), await generate()]
  keys.begin(1)
  const dropped = await train(P)
  expectBitwise('loss of evaluation after training', await evaluate(), loss)
  expectBitwise('logits after training', await generate(), logits)
  expectBitwise('training loss with p = 0', await train(0), loss)
  expect(dropped[0]).not.toBe(loss[0])
  model.dispose()
})

test('trap 16 the keys of a step give every call another mask, and every step', async () => {
  const COUNT = 1 << 14
  const keys = new nn.DropoutKeys({ seed: 7 })
  const draw = (): Promise<Float64Array> =>
    taken(scope(() => ops.dropout(tensor(new Float32Array(COUNT).fill(1)), keys.next(device), P)))
  keys.begin(3)
  const [first, second] = [await draw(), await draw()]
  keys.begin(4)
  const later = await draw()
  keys.begin(3)
  expectBitwise('the first mask of step 3, again', await draw(), first)
  const agreement = (a: Float64Array): number => a.filter((v, i) => v === first[i]).length / COUNT
  const expected = P ** 2 + (1 - P) ** 2
  expectBetween('agreement with the next call', agreement(second), expected - 0.02, expected + 0.02)
  expectBetween('agreement with the next step', agreement(later), expected - 0.02, expected + 0.02)
})

test('trap 16 a checkpointed layer that runs again drops what it dropped', async () => {
  const model = new Llama(CONFIG, { dtype: 'f32', seed: 5 })
  const keys = new nn.DropoutKeys({ seed: 8 })
  const gradients = async (checkpoint: boolean): Promise<Map<string, Float64Array>> => {
    keys.begin(2)
    scope(() => model.loss(ids(), ids(), { dropout: { p: P, keys }, checkpoint }).backward())
    const found = new Map<string, Float64Array>()
    for (const [name, parameter] of model.namedParameters()) {
      found.set(name, Float64Array.from((await parameter.grad?.toArray()) ?? []))
      parameter.grad = null
    }
    return found
  }
  const plain = await gradients(false)
  for (const [name, values] of await gradients(true)) expectBitwise(name, values, plain.get(name) ?? [])
  model.dispose()
})
