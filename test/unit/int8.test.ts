// int8 weights as an operand: which computation runs, who gets gradients, whose memory it is.

import { afterAll, describe, expect, test } from 'vitest'
import { Device, Llama, noGrad, quantizeLinears, scope, type Tensor, tensor } from '../../lib/index.ts'
import { linear } from '../../lib/ops/linear.ts'
import { linearCrossEntropy } from '../../lib/ops/linear_cross_entropy.ts'
import type { Int8Operand } from '../../lib/ops/linear_int8.ts'
import { dequantizeInt8, quantizeInt8 } from '../../lib/ops/quantize_int8.ts'
import { random } from '../ops/random.ts'
import { expectNoLeaks } from './leaks.ts'

const device = Device.open({ threads: 2 }).makeDefault()
afterAll(() => device.close())

const [N, K] = [70, 330]
const normals = (seed: string, count: number): Float32Array => {
  const { normal } = random(seed)
  return Float32Array.from({ length: count }, () => normal())
}
const operand = (group: number, activations: 'float' | 'int8'): Int8Operand => ({
  kind: 'int8',
  activations,
  ...noGrad(() => quantizeInt8(tensor(normals('w', N * K), { shape: [N, K] }), { group })),
})
const read = async (t: Tensor): Promise<Float32Array> => {
  const values = Float32Array.from(await t.toArray())
  t.dispose()
  return values
}

describe('int8 operand', () => {
  expectNoLeaks()

  for (const group of [0, 32, 128]) {
    test(`activations in int8: a row does not depend on the others, group ${group}`, async () => {
      const rows = 37
      const x = normals('x', rows * K)
      const [together, alone] = scope(() => {
        const w = operand(group, 'int8')
        const all = tensor(x, { shape: [rows, K] })
        return [linear(all, w), linear(tensor(x.subarray(20 * K, 21 * K), { shape: [1, K] }), w)]
      })
      const expected = (await read(together)).subarray(20 * N, 21 * N)
      expect(await read(alone)).toEqual(expected)
    })
  }

  test('float activations give gradients to x, as dequantised weights do', async () => {
    const x = normals('x', 6 * K)
    const gradient = async (dense: boolean): Promise<Float32Array> => {
      const leaf = tensor(x, { shape: [6, K], requiresGrad: true })
      scope(() => {
        const w = operand(32, 'float')
        const y = linear(leaf, dense ? { weight: noGrad(() => dequantizeInt8(w)) } : w)
        y.backward(tensor(normals('dy', 6 * N), { shape: [6, N] }))
      })
      const grad = leaf.grad as Tensor
      const values = Float32Array.from(await grad.toArray())
      leaf.dispose()
      return values
    }
    const [actual, expected] = [await gradient(false), await gradient(true)]
    actual.forEach((v, i) => {
      expect(Math.abs(v - (expected[i] ?? 0))).toBeLessThan(1e-4)
    })
    expect(expected.some((v) => Math.abs(v) > 1)).toBe(true)
  })

  test('what has no gradient says so', () => {
    scope(() => {
      const x = tensor(normals('x', 6 * K), { shape: [6, K], requiresGrad: true })
      try {
        expect(() => linear(x, operand(0, 'int8'))).toThrow(/not differentiable, and x requires a gradient/)
      } finally {
        x.dispose()
      }
      const { scales, ...rest } = operand(0, 'float')
      const trained = scales.detach()
      trained.requiresGrad = true
      try {
        const plain = tensor(normals('x', 6 * K), { shape: [6, K] })
        expect(() => linear(plain, { ...rest, scales: trained })).toThrow(/int8 weights are constants/)
      } finally {
        trained.dispose()
      }
    })
  })

  test('an output layer in int8 has the loss of its dequantised weights', async () => {
    const [actual, expected] = noGrad(() =>
      scope(() => {
        const w = operand(128, 'float')
        const h = tensor(normals('h', 9 * K), { shape: [9, K] })
        const labels = tensor([...Array(9).keys()], { dtype: 'i32' })
        const loss = (o: Parameters<typeof linearCrossEntropy>[1]): Tensor =>
          linearCrossEntropy(h, o, labels, { shift: false })
        return [loss(w), loss({ weight: dequantizeInt8(w) })]
      }),
    )
    expect(await read(actual)).toEqual(await read(expected))
  })

  test('quantizeLinears frees the dense weights, and the model its int8 ones', () => {
    const model = new Llama(
      { vocabSize: 64, hiddenSize: 64, intermediateSize: 96, numHiddenLayers: 1, numAttentionHeads: 2 },
      { dtype: 'bf16' },
    )
    const before = [...model.namedParameters().keys()]
    const { linears, bytesBefore, bytesAfter } = quantizeLinears(model, { include: (p) => !/oProj/.test(p) })
    expect(linears).toContain('model.layers.0.selfAttn.qProj')
    expect(linears).not.toContain('model.layers.0.selfAttn.oProj')
    // a byte per weight, and a float32 per row
    expect(bytesAfter).toBeLessThan(0.6 * bytesBefore)
    const after = [...model.namedParameters().keys()]
    expect(after).toContain('model.layers.0.selfAttn.qProj.source.values')
    expect(after).not.toContain('model.layers.0.selfAttn.qProj.weight')
    expect(after).toContain('model.layers.0.selfAttn.oProj.weight')
    expect(after.length).toBe(before.length + linears.length)
    expect(() => quantizeLinears(model, { include: () => false })).toThrow(/no Linear to quantise/)
    model.dispose()
  })
})
