import { describe, expect, test } from 'vitest'
import { backward, Device, grad, noGrad, ops, scope, type Tensor, tensor } from '../../lib/index.ts'
import { checkGradients } from './finite-differences.ts'
import { expectNoLeaks } from './leaks.ts'

expectNoLeaks()

const { add, mul, sub, div, sum } = ops
type Pair = readonly [Tensor, Tensor]

async function gradOf(leaf: Tensor): Promise<number[]> {
  return leaf.grad === null ? [] : [...(await leaf.grad.toArray())]
}

describe('gradients of primitives against finite differences', () => {
  const positive = (count: number, seed: number): number[] =>
    Array.from({ length: count }, (_, i) => 0.5 + ((i * 7 + seed * 3) % 11) / 5)

  test('binary, broadcast in both directions', async () => {
    for (const op of [add, sub, mul, div, ops.maximum, ops.minimum]) {
      const fill = op === div ? positive : undefined
      await checkGradients(([a, b]) => op(...([a, b] as unknown as Pair)), [[2, 3], [3]], fill)
      await checkGradients(
        ([a, b]) => op(...([a, b] as unknown as Pair)),
        [
          [2, 1],
          [1, 3],
        ],
        fill,
      )
    }
    await checkGradients(([a]) => div(1, add(mul(a as Tensor, 3), 0.25)), [[3]], positive)
  })

  test('unary', async () => {
    for (const op of [ops.neg, ops.exp, ops.sin, ops.cos, ops.tanh, ops.sigmoid, ops.abs]) {
      await checkGradients(([x]) => op(x as Tensor), [[2, 3]])
    }
    for (const op of [ops.log, ops.sqrt, ops.rsqrt])
      await checkGradients(([x]) => op(x as Tensor), [[5]], positive)
  })

  test('reductions', async () => {
    await checkGradients(([x]) => sum(x as Tensor, [1]), [[2, 3, 2]])
    await checkGradients(([x]) => ops.mean(x as Tensor, [0, -1], true), [[2, 3, 2]])
    await checkGradients(([x]) => ops.max(x as Tensor, [-1]), [[3, 5]])
  })

  test('matmul, batched and broadcast', async () => {
    await checkGradients(
      ([a, b]) => ops.matmul(a as Tensor, b as Tensor),
      [
        [3, 4],
        [4, 2],
      ],
    )
    await checkGradients(
      ([a, b]) => ops.matmul(a as Tensor, b as Tensor),
      [
        [2, 2, 3],
        [3, 2],
      ],
    )
  })

  test('rows, concat, where, cast, contiguous', async () => {
    const ids = tensor([2, 0, 2], { dtype: 'i32' })
    await checkGradients(([t]) => ops.take(t as Tensor, ids), [[3, 2]])
    await checkGradients(
      ([t, r]) => ops.scatterAdd(t as Tensor, ids, r as Tensor),
      [
        [3, 2],
        [3, 2],
      ],
    )
    ids.dispose()
    await checkGradients(
      ([a, b]) => ops.concat([a as Tensor, b as Tensor, a as Tensor], 1),
      [
        [2, 2],
        [2, 3],
      ],
    )
    await checkGradients(
      ([a, b]) => ops.where(ops.less(a as Tensor, b as Tensor), a as Tensor, b as Tensor),
      [[4], [4]],
    )
    await checkGradients(([x]) => ops.contiguous((x as Tensor).transpose()), [[2, 3]])
  })
})

describe('backward', () => {
  test('adds up over calls, and over uses of a leaf', async () => {
    const w = tensor([1, 2], { requiresGrad: true })
    for (let i = 0; i < 2; i++) scope(() => sum(add(mul(w, 3), w)).backward())
    expect(await gradOf(w)).toEqual([8, 8])
    w.grad = null
    scope(() => sum(add(w, w)).backward()) // both gradients are one tensor
    expect(await gradOf(w)).toEqual([2, 2])
    w.dispose()
  })

  test('two leaves that get one gradient tensor do not share it', async () => {
    const a = tensor([1, 2], { requiresGrad: true })
    const b = tensor([3, 4], { requiresGrad: true })
    for (let i = 0; i < 2; i++) scope(() => backward(add(a, b), tensor([1, 10])))
    scope(() => backward(add(a, 0), tensor([100, 100])))
    expect(await gradOf(a)).toEqual([102, 120])
    expect(await gradOf(b)).toEqual([2, 20])
    a.dispose()
    b.dispose()
  })

  test('a gradient given by the caller is never written', async () => {
    const a = tensor([1, 2], { requiresGrad: true })
    const dy = tensor([1, 1])
    for (let i = 0; i < 2; i++) scope(() => backward(a.reshape([2]), dy))
    expect([...(await dy.toArray())]).toEqual([1, 1])
    expect(await gradOf(a)).toEqual([2, 2])
    a.dispose()
    dy.dispose()
  })

  test('leaves of bf16 collect float32, of f64 float64', async () => {
    for (const [dtype, expected] of [
      ['bf16', 'f32'],
      ['f32', 'f32'],
      ['f64', 'f64'],
    ] as const) {
      const w = tensor([1, 2, 3], { dtype, requiresGrad: true })
      // 257 terms of 1: bf16 would stop counting at 256
      scope(() => {
        let total = sum(w)
        for (let i = 0; i < 256; i++) total = add(total, sum(w))
        total.backward()
      })
      expect(w.grad?.dtype).toBe(expected)
      expect(await w.grad?.toArray()).toEqual(
        (expected === 'f64' ? Float64Array : Float32Array).from([257, 257, 257]),
      )
      w.dispose()
    }
  })

  test('several outputs in one pass', async () => {
    const x = tensor([2, 3], { requiresGrad: true })
    scope(() => backward([mul(x, x), sum(x)], [tensor([1, 2]), null]))
    expect(await gradOf(x)).toEqual([5, 13])
    x.dispose()
  })

  test('a graph of 50,000 nodes is walked and released without recursion', async () => {
    const x = tensor([1], { requiresGrad: true })
    const chain = (): Tensor =>
      scope(() => {
        let y: Tensor = x
        for (let i = 0; i < 50_000; i++) y = add(y, x).reshape([1])
        return y
      })
    const walked = chain()
    walked.backward()
    expect(await x.grad?.item()).toBe(50_001)
    walked.dispose()
    chain().dispose() // never walked: its nodes go with it
    x.dispose()
  }, 60_000)

  test('releases what was saved as it goes, and refuses a second walk', () => {
    const before = Device.default().memory().liveStorages
    const x = tensor([1, 2], { requiresGrad: true })
    const y = scope(() => sum(ops.exp(mul(x, x))))
    expect(Device.default().memory().liveStorages).toBeGreaterThan(before + 2)
    y.backward()
    expect(Device.default().memory().liveStorages).toBe(before + 3) // x, its gradient, y
    expect(() => y.backward()).toThrow(/was released by an earlier backward/)
    x.dispose()
    y.dispose()
  })

  test('a graph never walked is released with its last handle', () => {
    const before = Device.default().memory().liveStorages
    const x = tensor([1, 2], { requiresGrad: true })
    const y = scope(() => sum(ops.exp(mul(x, x))))
    y.dispose()
    x.dispose()
    expect(Device.default().memory().liveStorages).toBe(before)
  })

  test('a saved tensor that was written in place is refused, before anything is accumulated', () => {
    const x = tensor([1, 2], { requiresGrad: true })
    const w = tensor([3, 4], { requiresGrad: true })
    const loss = scope(() => sum(add(mul(x, w), w)))
    noGrad(() => ops.fill(w, 0))
    expect(() => loss.backward()).toThrow(
      /backward of mul: b f32\[2\] was modified in place after it was saved/,
    )
    expect(w.grad).toBe(null)
    for (const t of [x, w, loss]) t.dispose()
  })

  test('an op that is not differentiable refuses what requires a gradient', () => {
    const x = tensor([1, 2], { requiresGrad: true })
    expect(() => ops.fill(x, 0)).toThrow(/fill: is not differentiable, and y requires a gradient/)
    noGrad(() => ops.fill(x, 0))
    x.dispose()
  })

  test('comparisons and argmax take tensors that require gradients, and carry none', () => {
    const x = tensor([1, 2], { requiresGrad: true })
    using y = ops.less(x, 2)
    expect(y.requiresGrad).toBe(false)
    using top = ops.argmax(x)
    expect(top.requiresGrad).toBe(false)
    x.dispose()
  })

  test('refuses what has no gradient, and a vector without one', () => {
    using x = tensor([1, 2])
    expect(() => x.backward()).toThrow(/was not computed from anything that requires a gradient/)
    const w = tensor([1, 2], { requiresGrad: true })
    using y = mul(w, 2)
    expect(() => y.backward()).toThrow(/backward: a tensor that is no scalar must be given with its gradient/)
    using short = x.slice(0, 1)
    expect(() => y.backward(short)).toThrow(/the gradient must be f32\[2\]/)
    w.dispose()
  })
})

describe('grad', () => {
  test('of inner tensors and leaves, touching no leaf', async () => {
    const x = tensor([2], { requiresGrad: true })
    const unused = tensor([1], { requiresGrad: true })
    const inner = mul(x, x)
    const y = mul(inner, x)
    const [dx, dInner, none] = grad(y, [x, inner, unused])
    expect(await dx?.item()).toBe(12)
    expect(await dInner?.item()).toBe(2)
    expect(none).toBe(null)
    expect(x.grad).toBe(null)
    for (const t of [x, unused, inner, y, dx, dInner]) t?.dispose()
  })
})
