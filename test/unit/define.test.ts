import { describe, expect, test } from 'vitest'
import {
  backward,
  Device,
  defineOp,
  enableGrad,
  noGrad,
  opStats,
  ops,
  registeredOps,
  resetOpStats,
  scope,
  spec,
  type Tensor,
  tensor,
  withReference,
} from '../../lib/index.ts'
import { OpNode } from '../../lib/ops/op-node.ts'
import type { OpRecord } from '../../lib/ops/registry.ts'
import { checkGradients } from './finite-differences.ts'
import { expectNoLeaks } from './leaks.ts'

expectNoLeaks()

const { add, mul, sum } = ops

/** y = x^2 w, with no kernel: what an op is before one is written. No vjp: the reference is differentiated. */
const squareScale = defineOp({
  name: 'test_square_scale',
  inputs: [
    { name: 'x', dtype: 'float', layout: 'any' },
    { name: 'w', dtype: 'float', layout: 'any', optional: true },
  ],
  outputs: [{ name: 'y' }, { name: 'square', saved: true }],
  attributes: ['scale'],
  infer: ([x]) => [spec(x.shape, x.dtype), spec(x.shape, x.dtype)],
  reference: ([x, w], [scale]) => [mul(w === null ? mul(x, x) : mul(mul(x, x), w), scale)],
  referenceOnly: true,
})

const squareScaleBackward = defineOp({
  name: 'test_square_scale.backward',
  inputs: [
    { name: 'dy', dtype: 'float' },
    { name: 'x', dtype: 'float' },
    { name: 'w', dtype: 'float' },
    { name: 'dw', dtype: 'float', inPlace: true },
  ],
  outputs: [{ name: 'dx' }],
  attributes: ['scale', 'accumulate'],
  infer: ([, x]) => [spec(x.shape, x.dtype)],
  differentiable: false,
  reference: { gradientOf: 'test_square_scale' },
  referenceOnly: true,
})

/** Reads values that it does not list in `saves`. */
const forgetful = defineOp({
  name: 'test_forgetful',
  inputs: [{ name: 'x', dtype: 'float' }],
  outputs: [{ name: 'y' }],
  infer: ([x]) => [spec(x.shape, x.dtype)],
  primitive: true,
  saves: [],
  vjp: ({ inputs: [x], grads: [dy] }) => [mul(dy, x)],
})

describe('an op without a kernel', () => {
  test('is served by its reference, and differentiated through it', async () => {
    resetOpStats()
    await checkGradients(([x, w]) => squareScale([x as Tensor, w as Tensor], [3])[0], [[2, 2], [2]])
    await checkGradients(([x]) => squareScale([x as Tensor, null], [true])[0], [[3]])
    const stats = opStats().get('test_square_scale')
    expect(stats?.kernel).toBe(0)
    expect(stats?.reference).toBeGreaterThan(10)
  })

  test('frees what its reference made in between', () => {
    using x = tensor([1, 2])
    const before = Device.default().memory().liveTensors
    const [y, square] = squareScale([x, null], [2])
    expect(square).toBe(null)
    expect(Device.default().memory().liveTensors).toBe(before + 1)
    y.dispose()
  })

  test('gradientOf serves a backward by name, writing and adding to its targets', async () => {
    const run = async (accumulate: boolean): Promise<number[][]> => {
      const [dy, x, w, dw] = [
        [1, 10],
        [2, 3],
        [5, 7],
        [100, 200],
      ].map((v) => tensor(v)) as [Tensor, Tensor, Tensor, Tensor]
      const [dx] = squareScaleBackward([dy, x, w, dw], [3, accumulate])
      const found = [[...(await dx.toArray())], [...(await dw.toArray())]]
      for (const t of [dy, x, w, dw, dx]) t.dispose()
      return found
    }
    expect(await run(false)).toEqual([
      [60, 1260],
      [12, 270],
    ])
    expect(await run(true)).toEqual([
      [60, 1260],
      [112, 470],
    ])
  })
})

describe('a call', () => {
  test('checks inputs, dtypes and attributes, naming op and argument', () => {
    scope(() => {
      const x = tensor([1, 2])
      const i = tensor([1, 2], { dtype: 'i32' })
      const d = tensor([1, 2], { dtype: 'f64' })
      expect(() => squareScale([i, null], [1])).toThrow(
        /testSquareScale: x must be f32, bf16 or f64, received i32\[2\]/,
      )
      expect(() => squareScale([x, d], [1])).toThrow(
        /testSquareScale: w must be f32, like the others, received f64\[2\]/,
      )
      expect(() => squareScale([null as unknown as Tensor, x], [1])).toThrow(
        /testSquareScale: x must be a tensor/,
      )
      expect(() => squareScale([x, null], [] as unknown as [number])).toThrow(
        /takes attributes \[scale\], received 0/,
      )
      expect(() => squareScale([x, null], ['1' as unknown as number])).toThrow(
        /scale must be a number or boolean/,
      )
      expect(() => ops.take(x, x)).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }))
    })
  })

  test('copies into the layout a kernel takes, and counts it', async () => {
    resetOpStats()
    const table = tensor([1, 2, 3, 4, 5, 6], { shape: [2, 3] })
    const ids = tensor([2, 0], { dtype: 'i32' })
    using y = scope(() => ops.take(table.transpose(), ids))
    expect([...(await y.toArray())]).toEqual([3, 6, 1, 4])
    expect(opStats().get('take')?.copies).toBe(1)
    table.dispose()
    ids.dispose()
  })

  test('bumps the version of what it writes, and of nothing else', () => {
    using x = tensor([1, 2])
    using y = tensor([3, 4])
    const [vx, vy] = [x.storage.version, y.storage.version]
    ops.copyInto(x, y)
    expect([x.storage.version - vx, y.storage.version - vy]).toEqual([1, 0])
  })

  test('makes saved outputs only when a gradient is needed', () => {
    const x = tensor([1, 2, 3, 4], { shape: [2, 2], requiresGrad: true })
    using w = tensor([1, 1])
    const saved = ops.rmsNormOp([x, w], [1e-6])
    const plain = noGrad(() => ops.rmsNormOp([x, w], [1e-6]))
    expect(saved[1]?.shape).toEqual([2])
    expect(plain[1]).toBe(null)
    for (const t of [...saved, ...plain, x]) t?.dispose()
  })

  test('without a kernel, a primitive says so', () => {
    using x = tensor([1, 2])
    expect(() => forgetful([x])).toThrow(/testForgetful: the device has no kernel for f32/)
  })

  test('a vjp that reads values not listed in saves is told so', () => {
    const x = tensor([1, 2], { requiresGrad: true })
    const y = tensor([1, 2])
    y.setNode(new OpNode(registeredOps().get('test_forgetful') as OpRecord, [x], [], [y], []), 0)
    expect(() => scope(() => backward(y, tensor([1, 1])))).toThrow(
      /testForgetful: its vjp reads the values of 'x', which 'saves' does not list/,
    )
    for (const t of [x, y]) t.dispose()
  })
})

describe('kernels against their references', () => {
  test('rms_norm: values and gradients agree', async () => {
    const run = async (reference: boolean): Promise<number[][]> => {
      const x = tensor([1, -2, 3, 4, 0.5, -6], { shape: [2, 3], requiresGrad: true })
      const w = tensor([0.5, 1, 2], { requiresGrad: true })
      const step = (): Tensor =>
        scope(() => {
          const y = ops.rmsNorm(x, w)
          sum(mul(y, add(y, 1))).backward()
          return y
        })
      resetOpStats()
      const y = reference ? withReference(step) : step()
      expect(opStats().get('rms_norm')?.[reference ? 'reference' : 'kernel']).toBe(1)
      expect(opStats().get('rms_norm.backward')?.kernel).toBe(reference ? 0 : 1)
      const found = [y, x.grad, w.grad].map(async (t) => [...((await t?.toArray()) ?? [])])
      const values = await Promise.all(found)
      for (const t of [x, y, w]) t.dispose()
      return values
    }
    const [kernel, reference] = [await run(false), await run(true)]
    kernel.forEach((values, k) => {
      values.forEach((value, i) => {
        const expected = reference[k]?.[i] ?? Number.NaN
        expect(Math.abs(value - expected)).toBeLessThanOrEqual(1e-5 + 1.3e-6 * Math.abs(expected))
      })
    })
  })

  test('a kernel adds to the gradient of a leaf in place', async () => {
    const x = tensor([1, 2, 3, 4], { shape: [2, 2] })
    const w = tensor([1, 1], { requiresGrad: true })
    scope(() => sum(ops.rmsNorm(x, w)).backward())
    const first = w.grad
    const once = [...((await w.grad?.toArray()) ?? [])]
    scope(() => sum(ops.rmsNorm(x, w)).backward())
    expect(w.grad).toBe(first)
    expect([...((await w.grad?.toArray()) ?? [])]).toEqual(once.map((v) => 2 * v))
    w.grad = null
    // a tied leaf: twice in one pass
    scope(() => sum(add(ops.rmsNorm(x, w), ops.rmsNorm(x, w))).backward())
    expect([...((await (w.grad as Tensor | null)?.toArray()) ?? [])]).toEqual(once.map((v) => 2 * v))
    x.dispose()
    w.dispose()
  })
})

describe('the registry', () => {
  test('lists every op with its definition', () => {
    const names = [...registeredOps().keys()]
    expect(names).toEqual(expect.arrayContaining(['add', 'matmul', 'rms_norm', 'rms_norm.backward']))
    expect(registeredOps().get('rms_norm')?.signature).toBe('rms_norm(x, w) -> (y, rstd?) [eps]')
  })

  test('refuses definitions that contradict themselves', () => {
    const base = {
      inputs: [{ name: 'x' }],
      outputs: [{ name: 'y' }],
      infer: () => [spec([], 'f32')] as const,
      reference: ([x]: readonly [Tensor]) => [x],
    } as const
    expect(() => defineOp({ ...base, name: 'Bad' })).toThrow(/snake_case/)
    expect(() => defineOp({ ...base, name: 'add' })).toThrow(/two ops are named 'add'/)
    expect(() => defineOp({ ...base, name: 'test_a', primitive: true })).toThrow(
      /a primitive has no reference/,
    )
    expect(() => defineOp({ ...base, name: 'test_b', outputs: [{ name: 'x' }] })).toThrow(
      /two tensors are named 'x'/,
    )
    expect(() => defineOp({ ...base, name: 'test_c', differentiable: false, vjp: () => [null] })).toThrow(
      /has a vjp and says/,
    )
  })

  test('modes nest', () => {
    const x = tensor([1], { requiresGrad: true })
    using y = noGrad(() => enableGrad(() => ops.neg(x)))
    expect(y.requiresGrad).toBe(true)
    x.dispose()
  })
})
