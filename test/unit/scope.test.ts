import { describe, expect, test } from 'vitest'
import {
  Device,
  grad,
  keep,
  noGrad,
  ops,
  scope,
  type Tensor,
  tensor,
  withReference,
} from '../../lib/index.ts'
import { expectNoLeaks } from './leaks.ts'

expectNoLeaks()

const live = (): number => Device.default().memory().liveTensors

describe('scope', () => {
  test('frees what was made and not returned', async () => {
    const before = live()
    const y = scope(() => {
      const x = tensor([1, 2, 3])
      return ops.mul(ops.add(x, 1), x)
    })
    expect(live()).toBe(before + 1)
    expect([...(await y.toArray())]).toEqual([2, 6, 12])
    y.dispose()
  })

  test('searches the result deeply', () => {
    const result = scope(() => {
      const hidden = tensor([1])
      return {
        list: [tensor([2]), { deep: new Map([['k', tensor([3])]]) }],
        set: new Set([tensor([4])]),
        bytes: new Uint8Array(3),
        hidden: () => hidden,
      }
    })
    const [first, second] = result.list as [Tensor, { deep: Map<string, Tensor> }]
    const kept = [first, ...second.deep.values(), ...result.set]
    for (const tensor of kept) {
      expect(tensor.disposed).toBe(false)
      tensor.dispose()
    }
    expect(result.hidden().disposed).toBe(true)
  })

  test('a cyclic result ends the search', () => {
    const result = scope(() => {
      const loop: { self?: unknown; t: Tensor } = { t: tensor([1]) }
      loop.self = loop
      return loop
    })
    expect(result.t.disposed).toBe(false)
    result.t.dispose()
  })

  test('hands what it returns to the scope around it', () => {
    let inner: Tensor | undefined
    scope(() => {
      inner = scope(() => tensor([1]))
      expect(inner.disposed).toBe(false)
    })
    expect(inner?.disposed).toBe(true)
  })

  test('returning a tensor of an outer scope does not save it there', () => {
    let outer: Tensor | undefined
    scope(() => {
      outer = tensor([1])
      scope(() => outer)
    })
    expect(outer?.disposed).toBe(true)
  })

  test('frees everything when the callback throws', () => {
    const before = live()
    expect(() =>
      scope(() => {
        tensor([1])
        scope(() => {
          tensor([2])
          throw new Error('inside')
        })
      }),
    ).toThrow('inside')
    expect(live()).toBe(before)
    using after = tensor([1]) // the scope is left: this one is the caller's
    expect(after.disposed).toBe(false)
  })

  test('keeps what backward needs, without its handles', async () => {
    const x = tensor([1, 2, 3], { requiresGrad: true })
    const before = live()
    const y = scope(() => ops.sum(ops.mul(ops.mul(x, x), x)))
    expect(live()).toBe(before + 1)
    y.backward()
    expect([...((await x.grad?.toArray()) ?? [])]).toEqual([3, 12, 27])
    y.dispose()
    x.dispose()
  })

  test('keeps tensors stored on its owner, in fields, arrays and plain objects', () => {
    class Cache {
      one: Tensor | null = null
      many: Tensor[] = []
      byName: { [name: string]: Tensor } = {}
      fill(): void {
        this.one = tensor([1])
        this.many.push(tensor([2]))
        this.byName['k'] = tensor([3])
        tensor([4])
      }
    }
    const cache = new Cache()
    const before = live()
    scope(() => scope(() => cache.fill(), cache))
    expect(live()).toBe(before + 3)
    for (const t of [cache.one, ...cache.many, cache.byName['k']]) t?.dispose()
  })

  test('keep and requiresGrad take a tensor out', () => {
    const state: Tensor[] = []
    scope(() => {
      state.push(keep(tensor([1])), tensor([2], { requiresGrad: true }))
    })
    expect(state.map((t) => t.disposed)).toEqual([false, false])
    for (const t of state) t.dispose()
  })

  test('gradients outlive the scope of the step', async () => {
    const w = tensor([2], { requiresGrad: true })
    scope(() => ops.sum(ops.mul(w, w)).backward())
    expect(await w.grad?.item()).toBe(4)
    w.dispose()
  })
})

describe('synchronous callbacks', () => {
  test('a callback that returns a promise throws, and what it switched is off again', () => {
    for (const run of [scope, noGrad, withReference]) {
      expect(() => run(async () => 1)).toThrow(/must be synchronous/)
    }
    const x = tensor([1], { requiresGrad: true })
    using y = ops.neg(x)
    expect(y.requiresGrad).toBe(true)
    x.dispose()
  })

  test('modes of one async flow never reach another', async () => {
    const x = tensor([1], { requiresGrad: true })
    const flow = async (off: boolean): Promise<boolean[]> => {
      const seen: boolean[] = []
      for (let i = 0; i < 5; i++) {
        const y = off ? noGrad(() => ops.neg(x)) : ops.neg(x)
        seen.push(y.requiresGrad)
        await y.item()
        y.dispose()
      }
      return seen
    }
    const [off, on] = await Promise.all([flow(true), flow(false)])
    expect(off).toEqual([false, false, false, false, false])
    expect(on).toEqual([true, true, true, true, true])
    x.dispose()
  })

  test('noGrad restores after a throw, and grad works inside it', async () => {
    const x = tensor([3], { requiresGrad: true })
    expect(() =>
      noGrad(() => {
        throw new Error('x')
      }),
    ).toThrow('x')
    const y = ops.mul(x, x)
    const [dx] = noGrad(() => grad(y, [x]))
    expect(await dx?.item()).toBe(6)
    expect(x.grad).toBe(null)
    for (const t of [x, y, dx]) t?.dispose()
  })
})
