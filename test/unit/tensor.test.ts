import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { Device, iota, ops, scope, type Tensor, tensor } from '../../lib/index.ts'
import { readSafetensors } from '../ops/runner/golden.ts'
import { checkGradients } from './finite-differences.ts'
import { expectNoLeaks } from './leaks.ts'

expectNoLeaks()

async function list(make: () => Tensor): Promise<number[]> {
  using y = scope(make)
  return [...(await y.toArray())]
}

const grid = (): Tensor => iota(12).reshape([3, 4]) // 0..11

describe('views', () => {
  test('share the storage and read by their strides', async () => {
    expect(await list(() => grid().transpose())).toEqual([0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11])
    expect(await list(() => grid().slice(0, 1, 3).slice(1, -2))).toEqual([6, 7, 10, 11])
    expect(await list(() => grid().slice(1, 0, 4, 2))).toEqual([0, 2, 4, 6, 8, 10])
    expect(await list(() => iota(3).expand([2, 3]))).toEqual([0, 1, 2, 0, 1, 2])
    expect(await list(() => iota(8).reshape([2, 2, 2]).permute([2, 0, 1]))).toEqual([0, 2, 4, 6, 1, 3, 5, 7])
    expect(await list(() => grid().reshape([2, -1]).slice(0, 1))).toEqual([6, 7, 8, 9, 10, 11])
    expect(await list(() => grid().slice(0, 2, 1))).toEqual([])
  })

  test('no view copies, and reshape copies only when strides allow no view', () => {
    scope(() => {
      const x = grid()
      const { storage } = x
      for (const view of [
        x.transpose(),
        x.slice(0, 1),
        x.unsqueeze(1).squeeze(1),
        x.reshape([4, 3]),
        x.detach(),
      ]) {
        expect(view.storage).toBe(storage)
      }
      expect(x.slice(1, 0, 2).reshape([3, 2, 1]).storage).toBe(storage)
      expect(x.slice(1, 0, 2).reshape([6]).storage).not.toBe(storage)
      expect(x.transpose().reshape([12]).storage).not.toBe(storage)
    })
  })

  test('reshape of any strides gives the elements in order', async () => {
    expect(await list(() => grid().transpose().reshape([2, 6]))).toEqual([
      0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11,
    ])
    expect(
      await list(() => iota(24).reshape([2, 3, 4]).permute([1, 0, 2]).reshape([3, 8]).slice(0, 1, 2)),
    ).toEqual([4, 5, 6, 7, 16, 17, 18, 19])
    expect(await list(() => iota(3).expand([2, 3]).reshape([6]))).toEqual([0, 1, 2, 0, 1, 2])
    expect(await list(() => iota(6).reshape([1, 6]).expand([1, 6]).reshape([2, 1, 3]))).toEqual([
      0, 1, 2, 3, 4, 5,
    ])
  })

  test('keep the storage alive after their source is disposed', async () => {
    const x = tensor([1, 2, 3, 4])
    const y = x.slice(0, 2)
    x.dispose()
    expect([...(await y.toArray())]).toEqual([3, 4])
    y.dispose()
  })

  test('are differentiable', async () => {
    await checkGradients(([x]) => (x as Tensor).reshape([3, 2]).transpose().reshape([6]), [[2, 3]])
    await checkGradients(([x]) => (x as Tensor).permute([2, 0, 1]), [[2, 3, 2]])
    await checkGradients(([x]) => (x as Tensor).slice(1, 1, 4, 2), [[2, 5]])
    await checkGradients(([x]) => (x as Tensor).expand([3, 2, 2]), [[1, 2]])
    await checkGradients(([x]) => (x as Tensor).squeeze().unsqueeze(0).expand([2, 3]), [[1, 3, 1]])
    await checkGradients(([x]) => ops.mul((x as Tensor).slice(0, 0, 2), (x as Tensor).slice(0, 1, 3)), [[3]])
  })

  test('refuse what does not fit, naming it', () => {
    scope(() => {
      const x = grid()
      expect(() => x.reshape([5])).toThrow(/reshape: \[5\] does not hold the 12 elements of \[3,4\]/)
      expect(() => x.reshape([-1, 5])).toThrow(/reshape/)
      expect(() => x.permute([0, 0])).toThrow(/permute: axes must be an order of the 2 axes/)
      expect(() => x.slice(2, 0)).toThrow(/slice: axis must be in \[-2, 2\)/)
      expect(() => x.slice(0, 0.5)).toThrow(/slice: start, end and step must be whole/)
      expect(() => x.expand([3, 5])).toThrow(/expand: shape must be one that \[3,4\] broadcasts to/)
      expect(() => x.squeeze(0)).toThrow(/squeeze/)
    })
  })
})

describe('values', () => {
  test('round trips in every dtype', async () => {
    for (const dtype of ['f32', 'f64', 'i32', 'u32', 'i8', 'u8', 'u16', 'bf16'] as const) {
      using x = tensor([0, 1, 2, 100], { dtype, shape: [2, 2] })
      expect([...(await x.toArray())], dtype).toEqual([0, 1, 2, 100])
    }
  })

  test('bf16 rounds to nearest even, and NaN stays NaN', async () => {
    using x = tensor([1.00390625, 1.01171875, Number.NaN, -Infinity, 3.4e38], { dtype: 'bf16' })
    const [a, b, c, d, e] = await x.toArray()
    expect([a, b, d, e]).toEqual([1, 1.015625, -Infinity, Infinity])
    expect(c).toBeNaN()
  })

  test('item wants one element', async () => {
    using x = tensor([1, 2])
    await expect(x.item()).rejects.toThrow(/item: needs one element, received \[2\]/)
    using y = tensor(7, { dtype: 'i32' })
    expect(await y.item()).toBe(7)
  })

  test('converts with to', async () => {
    expect(await list(() => tensor([1.9, -1.9, 300, Number.NaN]).to('i8'))).toEqual([1, -1, 127, 0])
    using x = tensor([1])
    expect(x.to('f32')).toBe(x)
  })
})

describe('disposal', () => {
  test('a disposed tensor throws a typed error that names the op', async () => {
    const x = tensor([1, 2])
    x.dispose()
    x.dispose()
    expect(() => ops.neg(x)).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }))
    expect(() => ops.neg(x)).toThrow(/neg: x: tensor f32\[2\] was used after it was disposed/)
    expect(() => x.reshape([2, 1])).toThrow(/reshape/)
    await expect(x.toArray()).rejects.toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }))
    expect(x.toString()).toBe('Tensor(f32[2], disposed)')
  })

  test('a read that was enqueued survives the disposal', async () => {
    const x = tensor([5, 6])
    const values = x.toArray()
    x.dispose()
    expect([...(await values)]).toEqual([5, 6])
  })

  test('memory reports handles and storages', () => {
    const before = Device.default().memory()
    using x = tensor([1, 2])
    using _y = x.slice(0, 1)
    const { liveTensors, liveStorages } = Device.default().memory()
    expect(liveTensors - before.liveTensors).toBe(2)
    expect(liveStorages - before.liveStorages).toBe(1)
  })
})

test('clamp and its gradient are those of PyTorch, at the bounds, beyond them and at NaN', async () => {
  const { tensors, metadata } = readSafetensors(
    fileURLToPath(new URL('../golden/clamp.safetensors', import.meta.url)),
  )
  expect(metadata.size).toBe(6)
  for (const name of metadata.keys()) {
    const [low = NaN, high = NaN] = name.replaceAll('inf', 'Infinity').split(' ').map(Number)
    const values = (key: string): number[] => [...(tensors.get(`${name}.${key}`)?.values ?? [])]
    using x = tensor(values('in.x'), { dtype: 'f32', requiresGrad: true })
    using y = x.clamp(low, high)
    expect([...(await y.toArray())], name).toEqual(values('out.y'))
    scope(() => ops.sum(y.mul(tensor(values('dy.y'), { dtype: 'f32' }))).backward())
    expect([...((await x.grad?.toArray()) ?? [])], name).toEqual(values('grad.x'))
    x.grad = null
  }
})

describe('methods', () => {
  test('are the ops of their names', async () => {
    const x = (): Tensor => tensor([1, -2, 3, -4, 5, -6], { shape: [2, 3] })
    const ids = (...values: number[]): Tensor => tensor(values, { dtype: 'i32' })
    expect(await list(() => x().add(1).mul(x()).sub(2).div(2))).toEqual([0, 0, 5, 5, 14, 14])
    expect(await list(() => x().abs().square().sqrt().neg())).toEqual([-1, -2, -3, -4, -5, -6])
    expect(await list(() => x().pow(3))).toEqual([1, -8, 27, -64, 125, -216])
    expect(await list(() => x().clamp(-3, 2))).toEqual([1, -2, 2, -3, 2, -3])
    expect(() => scope(() => x().clamp(Number.NaN, 2))).toThrow(/clamp: low must be a number, received NaN/)
    expect(await list(() => x().sum([1]))).toEqual([2, -5])
    expect(await list(() => x().mean())).toEqual([-0.5])
    expect(await list(() => x().max([0]))).toEqual([1, 5, 3])
    expect(await list(() => x().min([0], true))).toEqual([-4, -2, -6])
    expect(await list(() => x().argmax())).toEqual([2, 1])
    expect(await list(() => x().cumsum(1, { reverse: true }))).toEqual([2, 1, 3, -5, -1, -6])
    expect(await list(() => x().less(0))).toEqual([0, 1, 0, 1, 0, 1])
    expect(await list(() => x().greaterEqual(-2))).toEqual([1, 1, 1, 0, 1, 0])
    expect(await list(() => x().greater(0).sum())).toEqual([3])
    expect(await list(() => x().matmul(x().transpose()))).toEqual([14, -32, -32, 77])
    expect(await list(() => tensor([0, 0]).softmax())).toEqual([0.5, 0.5])
    expect(await list(() => x().take(ids(1)))).toEqual([-4, 5, -6])
    expect(await list(() => x().indexSelect(1, ids(2, 0)))).toEqual([3, 1, -6, -4])
    expect(await list(() => x().gather(1, ids(2, 0).reshape([2, 1])))).toEqual([3, -4])
  })

  test('gather refuses an index outside the axis, also one that names an element of another row', async () => {
    const x = tensor([1, 2, 3, 4], { shape: [2, 2] })
    const index = tensor([2, 0], { shape: [2, 1], dtype: 'i32' })
    const y = x.gather(1, index)
    await expect(y.toArray()).rejects.toMatchObject({ code: 'ERR_VALUE' })
    expect(() => x.gather(2, index)).toThrow(/gather: axis must be in \[-2, 2\)/)
    const flat = index.reshape([2])
    expect(() => x.gather(0, flat)).toThrow(/gather: index must be \[2,2\] but for axis 0/)
    for (const t of [x, index, flat, y]) t.dispose()
  })

  test('float functions keep IEEE edges: overflow, zero, and what has no value', async () => {
    const edges = (...values: number[]): Tensor => tensor(values)
    expect(await list(() => edges(100, -200, -Infinity, NaN).exp())).toEqual([Infinity, 0, 0, NaN])
    expect(await list(() => edges(0, -1, Infinity).log())).toEqual([-Infinity, NaN, Infinity])
    expect(await list(() => edges(1000, -1000, Infinity).sigmoid())).toEqual([1, 0, 1])
    expect(await list(() => edges(0, Infinity, -1).rsqrt())).toEqual([Infinity, 0, NaN])
    expect(await list(() => edges(1, NaN, 2).max())).toEqual([NaN])
    expect(await list(() => edges(NaN, 1).maximum(edges(1, NaN)))).toEqual([NaN, NaN])
  })
})
