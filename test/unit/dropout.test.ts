// Trap 16: dropout off unless a call asks for it; other masks in other layers and steps, the same ones
// when a step is run again.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Device, Llama, nn, noGrad, ops, scope, type Tensor, tensor } from '../../lib/index.ts'

let device: Device
beforeAll(() => {
  device = Device.open().makeDefault()
})
afterAll(() => device.close())

const config = {
  vocabSize: 64,
  hiddenSize: 32,
  intermediateSize: 48,
  numHiddenLayers: 3,
  numAttentionHeads: 2,
}
const ids = (): Tensor =>
  tensor(
    Array.from({ length: 24 }, (_, i) => (i * 7) % 64),
    { shape: [2, 12], dtype: 'i32' },
  )

test('each call of a step has another mask, each step too, and a step repeats', async () => {
  const keys = new nn.DropoutKeys({ seed: 3 })
  const masks = async (step: number): Promise<string[]> => {
    keys.begin(step)
    const made = scope(() => Array.from({ length: 6 }, () => ops.dropout(ones(), keys.next(device), 0.5)))
    return Promise.all(made.map(async (mask) => String(await mask.toArray())))
  }
  const ones = (): Tensor => tensor(new Float32Array(64).fill(1))
  const first = await masks(1)
  const second = await masks(2)
  expect(new Set([...first, ...second]).size).toBe(12)
  expect(await masks(1)).toEqual(first)
})

test('a model drops only when the call says so', async () => {
  using model = new Llama(config, { dtype: 'f32', seed: 1 })
  const keys = new nn.DropoutKeys()
  const loss = (step: number | null): Promise<number> => {
    const dropout = step === null ? null : { p: 0.2, keys }
    if (step !== null) keys.begin(step)
    return noGrad(() => scope(() => model.loss(ids(), ids(), { dropout }))).item()
  }
  const plain = await loss(null)
  const dropped = await loss(1)
  expect(dropped).not.toBe(plain)
  expect(await loss(2)).not.toBe(dropped)
  expect(await loss(1)).toBe(dropped)
  expect(await loss(null)).toBe(plain)
  const logits = async (): Promise<string> =>
    String(await noGrad(() => scope(() => model.forward(ids()))).toArray())
  expect(await logits()).toBe(await logits())
})

test('the gradient passes where the value did', async () => {
  const x = tensor(new Float32Array(200).fill(2), { requiresGrad: true })
  const y = ops.dropout(x, new nn.DropoutKeys({ seed: 9 }).next(device), 0.25)
  y.backward(tensor(new Float32Array(200).fill(3)))
  const values = await y.toArray()
  const grads = (await x.grad?.toArray()) ?? []
  expect(grads.length).toBe(200)
  for (let i = 0; i < 200; i++) expect(grads[i]).toBeCloseTo(values[i] === 0 ? 0 : 4, 5)
  expect(values.filter((value) => value === 0).length).toBeGreaterThan(20)
  x.dispose()
  y.dispose()
})
