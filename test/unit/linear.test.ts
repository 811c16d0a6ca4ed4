// A Linear by itself: what it begins with, and what it refuses.

import { afterAll, expect, test } from 'vitest'
import { Device, nn, tensor } from '../../lib/index.ts'

const device = Device.open({ threads: 1 }).makeDefault()
afterAll(() => device.close())

test('begins like PyTorch in spread, with a bias of zeros, each by a seed of its own', async () => {
  using a = new nn.Linear(100, 300, { seed: 4 })
  using b = new nn.Linear(100, 300, { seed: 4 })
  using other = new nn.Linear(100, 300)
  using another = new nn.Linear(100, 300)
  const values = Float32Array.from(await a.weight.toArray())
  expect([a.weight.shape, a.bias?.shape]).toEqual([[300, 100], [300]])
  expect(Float32Array.from(await b.weight.toArray())).toEqual(values)
  expect(await another.weight.toArray()).not.toEqual(await other.weight.toArray())
  expect([...((await a.bias?.toArray()) ?? [])]).toEqual(new Array(300).fill(0))
  // U(-1/sqrt(in), 1/sqrt(in)) has this standard deviation
  const variance = values.reduce((sum, v) => sum + v * v, 0) / values.length
  expect(Math.sqrt(variance * 300)).toBeCloseTo(1, 1)
  using y = a.forward(tensor(new Float32Array(200), { shape: [2, 100] }))
  expect(y.shape).toEqual([2, 300])
})

test('options', () => {
  using plain = new nn.Linear(3, 2, { bias: false, dtype: 'bf16' })
  expect(plain.bias).toBeNull()
  expect(plain.weight.dtype).toBe('bf16')
  expect(() => new nn.Linear(3, 0)).toThrow(/outputs must be an integer from 1/)
  expect(() => new nn.Linear(2.5, 2)).toThrow(/inputs must be an integer/)
  expect(() => new nn.Linear(3, 2, { biases: true } as object)).toThrow(/did you mean 'bias'/)
})
