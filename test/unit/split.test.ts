// split: views of an axis whose gradients come back as one tensor.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Device, opStats, ops, scope, type Tensor, tensor } from '../../lib/index.ts'
import { split } from '../../lib/ops/split.ts'
import { checkGradients } from './finite-differences.ts'
import { expectNoLeaks } from './leaks.ts'

let device: Device
beforeAll(() => {
  device = Device.open().makeDefault()
})
afterAll(() => device.close())
expectNoLeaks()

test('parts are views of the values, on any axis', async () => {
  const x = tensor([0, 1, 2, 3, 4, 5, 6, 7], { shape: [2, 4] })
  const [a, b] = split(x, [1, 3]) as [Tensor, Tensor]
  const [c, d] = split(x, [1, 1], 0) as [Tensor, Tensor]
  expect([...(await a.toArray())]).toEqual([0, 4])
  expect([...(await b.toArray())]).toEqual([1, 2, 3, 5, 6, 7])
  expect([...(await d.toArray())]).toEqual([4, 5, 6, 7])
  expect([a.storage, b.storage, c.storage]).toEqual([x.storage, x.storage, x.storage])
  for (const t of [a, b, c, d, x]) t.dispose()
})

test('gradients, also when a part is not used, in one concat', async () => {
  await checkGradients(
    ([x]) => {
      const [a, b, c] = split(x as Tensor, [2, 1, 2]) as [Tensor, Tensor, Tensor]
      return ops.sum(ops.mul(ops.add(a, b), ops.exp(c)))
    },
    [[3, 5]],
  )
  await checkGradients(([x]) => ops.sum(ops.exp(split(x as Tensor, [2, 3])[1] as Tensor)), [[3, 5]])
  const x = tensor(new Float32Array(12), { shape: [2, 6], requiresGrad: true })
  const before = opStats()
  scope(() => {
    const [a, b, c] = split(x, [2, 2, 2]) as [Tensor, Tensor, Tensor]
    ops.sum(ops.mul(ops.mul(a, b), c)).backward()
  })
  const calls = (name: string): number => (opStats().get(name)?.kernel ?? 0) - (before.get(name)?.kernel ?? 0)
  expect([calls('concat'), calls('copy_into')]).toEqual([1, 0])
  x.dispose()
})

test('outside a scope, and without a gradient', () => {
  const x = tensor([1, 2], { requiresGrad: true })
  const y = ops.exp(x)
  const parts = split(y, [1, 1])
  expect(parts.map((p) => p.requiresGrad)).toEqual([true, true])
  const constant = tensor([1, 2])
  const plain = split(constant, [2])
  expect(plain[0]?.requiresGrad).toBe(false)
  for (const t of [...parts, ...plain, constant, y, x]) t.dispose()
})

test('sizes that do not add up', () => {
  const x = tensor([1, 2, 3])
  expect(() => split(x, [1, 1])).toThrow(
    /split: sizes must be whole numbers that add up to 3, received \[1,1\]/,
  )
  expect(() => split(x, [4, -1])).toThrow(/add up to 3/)
  expect(() => split(x, [3], 1)).toThrow(/axis/)
  x.dispose()
})
