// checkpoint(fn, ...inputs): the gradients of a plain call to the bit, with less memory; and what it
// refuses.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  AdamW,
  checkpoint,
  Device,
  drawOnce,
  grad,
  Llama,
  nn,
  noGrad,
  opStats,
  ops,
  randn,
  randomKey,
  scope,
  type Tensor,
  tensor,
  withReference,
} from '../../lib/index.ts'
import { expectNoLeaks } from './leaks.ts'

let device: Device
beforeAll(() => {
  device = Device.open({ threads: 2 }).makeDefault()
})
afterAll(() => device.close())

const bits = async (t: Tensor | null): Promise<string> =>
  t === null ? 'none' : Buffer.from((await t.toArray()).buffer as ArrayBuffer).toString('base64')

const leaf = (shape: number[], call: number): Tensor =>
  scope(() => {
    const t = randn(shape, randomKey(11, { call }))
    t.requiresGrad = true
    return t
  })

/** Gradients of `leaves` after `loss`, which are taken off them. */
async function gradients(leaves: readonly Tensor[], loss: () => Tensor): Promise<string[]> {
  scope(() => {
    const l = loss()
    l.backward()
  })
  const found = await Promise.all(leaves.map((t) => bits(t.grad)))
  for (const t of leaves) t.grad = null
  return found
}

describe('a region', () => {
  expectNoLeaks()

  /** Runs `body` with `region` being checkpoint, and a plain call, and compares the gradients. */
  async function same(leaves: readonly Tensor[], body: (region: typeof checkpoint) => Tensor): Promise<void> {
    const plain = await gradients(leaves, () => body((fn, ...inputs) => fn(...inputs)))
    const recomputed = await gradients(leaves, () => body(checkpoint))
    expect(plain).not.toContain('none')
    expect(recomputed).toEqual(plain)
    for (const t of leaves) t.dispose()
  }

  test('inputs and captured leaves get the gradients of a plain call', async () => {
    const [x, w, b] = [leaf([5, 7], 0), leaf([7, 3], 1), leaf([3], 2)]
    await same([x, w, b], (region) =>
      ops.sum(region((h: Tensor) => ops.tanh(ops.add(ops.matmul(ops.exp(h), w), b)), ops.mul(x, 0.1))),
    )
  })

  test('a captured tensor that is no leaf passes its gradient on', async () => {
    const [x, w] = [leaf([6], 3), leaf([6], 4)]
    await same([x, w], (region) => {
      const scaled = ops.mul(w, 3)
      const h = region((h: Tensor) => ops.sigmoid(ops.mul(h, scaled)), x)
      return ops.sum(ops.mul(h, scaled))
    })
  })

  test('several outputs, one unused, one that is an input, other values among the inputs', async () => {
    const [x, y] = [leaf([4], 5), leaf([4], 6)]
    await same([x, y], (region) => {
      const { a, list } = region(
        (u: Tensor, factor: number, v: Tensor, none: null) => {
          const unused = ops.exp(v)
          return { a: ops.mul(ops.exp(u), factor), list: [ops.mul(u, v), u, unused, none] as const }
        },
        x,
        2,
        y,
        null,
      )
      return ops.sum(ops.add(ops.add(a, list[0]), list[1]))
    })
  })

  test('regions in regions, in a row, and in a last place', async () => {
    const [x, w] = [leaf([8], 7), leaf([8], 8)]
    await same([x, w], (region) => {
      const layer = (h: Tensor): Tensor => ops.tanh(ops.mul(h, w))
      const outer = (h: Tensor): Tensor => {
        const a = region(layer, h)
        const b = region((u: Tensor) => region(layer, ops.exp(u)), ops.mul(a, a))
        return region(layer, b)
      }
      return ops.sum(region(outer, region(outer, x)))
    })
  })

  test('one leaf used in regions and outside sums up', async () => {
    const w = leaf([5, 5], 9)
    const x = leaf([2, 5], 10)
    await same([w, x], (region) => {
      const layer = (h: Tensor): Tensor => ops.linear(h, { weight: w })
      return ops.sum(layer(region(layer, region(layer, layer(x)))))
    })
  })

  test('inside withReference it runs again by the reference', async () => {
    const [x, w] = [leaf([3, 9], 11), leaf([9], 12)]
    const loss = (region: typeof checkpoint) => () => {
      const y = withReference(() => region((h: Tensor) => ops.rmsNorm(h, w), x))
      return ops.sum(ops.mul(y, y))
    }
    const plain = await gradients(
      [x, w],
      loss((fn, ...inputs) => fn(...inputs)),
    )
    expect(await gradients([x, w], loss(checkpoint))).toEqual(plain)
    x.dispose()
    w.dispose()
  })

  test('through grad, with gradients of only some inputs', async () => {
    const [x, w] = [leaf([4], 13), leaf([4], 14)]
    const found = scope(() => {
      const y = checkpoint((h: Tensor) => ops.exp(ops.mul(h, w)), x)
      return grad(ops.sum(y), [x])[0] as Tensor
    })
    const [values, xs, ws] = await Promise.all([found.toArray(), x.toArray(), w.toArray()])
    for (let i = 0; i < 4; i++) {
      expect(values[i]).toBeCloseTo((ws[i] ?? 0) * Math.exp((xs[i] ?? 0) * (ws[i] ?? 0)), 4)
    }
    expect(w.grad).toBeNull()
    for (const t of [found, x, w]) t.dispose()
  })

  test('inside noGrad, and with nothing to train, it is a plain call', async () => {
    const x = leaf([3], 15)
    const constant = tensor([1, 2, 3])
    let runs = 0
    const region = (h: Tensor): Tensor => {
      runs++
      return ops.mul(h, 2)
    }
    const [y, z] = [noGrad(() => checkpoint(region, x)), checkpoint(region, constant)]
    expect([y.requiresGrad, z.requiresGrad, runs]).toEqual([false, false, 2])
    for (const t of [x, constant, y, z]) t.dispose()
  })

  test('values of drawOnce come again, also those of a region inside', async () => {
    const x = leaf([64], 16)
    let counter = 0
    const made: number[] = []
    const run = (region: typeof checkpoint): Tensor => {
      const noisy = (h: Tensor): Tensor => {
        const call = drawOnce(() => counter++)
        made.push(call)
        return ops.exp(ops.dropout(h, randomKey(5, { call }), 0.5))
      }
      return ops.sum(region((h: Tensor) => region(noisy, noisy(region(noisy, h))), x))
    }
    const plain = await gradients([x], () => run((fn, ...inputs) => fn(...inputs)))
    counter = 0
    made.length = 0
    expect(await gradients([x], () => run(checkpoint))).toEqual(plain)
    expect(counter).toBe(3)
    expect(made.slice(0, 3)).toEqual([0, 1, 2])
    expect(new Set(made.slice(3))).toEqual(new Set([0, 1, 2]))
    x.dispose()
  })

  test('a graph that no backward walks frees what regions kept', () => {
    const x = leaf([16], 17)
    scope(() => {
      checkpoint((h: Tensor) => checkpoint((u: Tensor) => ops.exp(ops.exp(u)), ops.exp(h)), ops.exp(x))
    })
    x.dispose()
  })

  test('the last op of a region does not run again when only its inputs are wanted', async () => {
    const [x, w] = [leaf([2, 4], 18), leaf([4, 4], 19)]
    const calls = (): number => opStats().get('linear')?.kernel ?? 0
    const before = calls()
    scope(() => {
      ops
        .sum(checkpoint((h: Tensor) => ops.linear(ops.linear(h, { weight: w }), { weight: w }), x))
        .backward()
    })
    expect(calls() - before).toBe(3)
    x.dispose()
    w.dispose()
  })
})

describe('what a region refuses', () => {
  expectNoLeaks()

  test('a promise', () => {
    const x = leaf([2], 20)
    expect(() => checkpoint(async (h: Tensor) => h, x)).toThrow(
      /checkpoint: the callback must be synchronous/,
    )
    expect(() => noGrad(() => checkpoint(async (h: Tensor) => h, x))).toThrow(/must be synchronous/)
    x.dispose()
  })

  test('an input that was written in place, before anything is accumulated', () => {
    const [x, w] = [leaf([2], 21), leaf([2], 22)]
    scope(() => {
      const h = ops.mul(x, 2)
      const loss = ops.sum(
        ops.mul(
          checkpoint((u: Tensor) => ops.exp(u), h),
          w,
        ),
      )
      noGrad(() => ops.copyInto(h, w))
      expect(() => loss.backward()).toThrow(/input 0 .* was modified in place/)
    })
    expect([x.grad, w.grad]).toEqual([null, null])
    x.dispose()
    w.dispose()
  })

  test('a captured tensor that was written in place, saved by an op or not', () => {
    const [x, w] = [leaf([2], 23), leaf([2], 24)]
    for (const region of [(u: Tensor) => ops.exp(ops.mul(u, w)), (u: Tensor) => ops.exp(ops.add(u, w))]) {
      scope(() => {
        const loss = ops.sum(checkpoint(region, x))
        noGrad(() => ops.copyInto(w, x))
        expect(() => loss.backward()).toThrow(/modified in place/)
      })
    }
    expect([x.grad, w.grad]).toEqual([null, null])
    x.dispose()
    w.dispose()
  })

  test('a region that writes to what outlives it', () => {
    const x = leaf([2], 25)
    const count = tensor([0, 0])
    scope(() => {
      const loss = ops.sum(
        checkpoint((u: Tensor) => {
          ops.addInto(count, u.detach())
          return ops.exp(u)
        }, x),
      )
      expect(() => loss.backward()).toThrow(/modified in place/)
    })
    x.dispose()
    count.dispose()
  })

  test('a captured tensor that is gone, saying what to do', () => {
    const x = leaf([2], 26)
    const gone = tensor([1, 2])
    scope(() => {
      const loss = ops.sum(checkpoint((u: Tensor) => ops.exp(ops.mul(u, gone)), x))
      gone.dispose()
      expect(() => loss.backward()).toThrow(/disposed; a checkpoint region ran again.*inputs, or live/s)
    })
    x.dispose()
  })

  test('other work in the second run', () => {
    const x = leaf([2], 27)
    const [exp, tanh] = [ops.exp, ops.tanh]
    for (const [first, second] of [
      [(u: Tensor) => exp(exp(u)), (u: Tensor) => exp(tanh(u))],
      [(u: Tensor) => exp(exp(u)), (u: Tensor) => u],
      [
        (u: Tensor) => exp(exp(u)),
        (u: Tensor) =>
          ops.mul(
            u,
            drawOnce(() => 1),
          ),
      ],
    ] as const) {
      let run = 0
      scope(() => {
        const loss = ops.sum(checkpoint((u: Tensor) => (run++ === 0 ? first(u) : second(u)), x))
        expect(() => loss.backward()).toThrow(/did other work when it ran again/)
      })
      x.grad = null
    }
    x.dispose()
  })

  test('backward inside it', () => {
    const x = leaf([2], 28)
    expect(() =>
      checkpoint((u: Tensor) => {
        ops.sum(ops.exp(u)).backward()
        return u
      }, x),
    ).toThrow(/cannot run inside/)
    x.dispose()
  })
})

describe('a model', () => {
  const config = {
    vocabSize: 64,
    hiddenSize: 32,
    intermediateSize: 96,
    numHiddenLayers: 6,
    numAttentionHeads: 4,
    numKeyValueHeads: 2,
  }
  const [BATCH, LENGTH] = [4, 48]
  const ids = (): Tensor =>
    tensor(
      Array.from({ length: BATCH * LENGTH }, (_, i) => (i * 7 + (i >> 3)) % 64),
      { shape: [BATCH, LENGTH], dtype: 'i32' },
    )

  for (const dtype of ['f32', 'bf16'] as const) {
    for (const checkpoint of [true, 2]) {
      test(`${dtype}, checkpoint ${checkpoint}: gradients bit for bit, dropout and positions too`, async () => {
        using model = new Llama(config, { dtype, seed: 3 })
        const keys = new nn.DropoutKeys({ seed: 4 })
        const first = tensor(new Int32Array(BATCH * LENGTH).fill(2), { shape: [BATCH, LENGTH], dtype: 'i32' })
        const run = async (options: { checkpoint?: boolean | number }): Promise<string[]> => {
          keys.begin(7)
          const dropout = { p: 0.2, keys }
          return gradients(model.parameters(), () => {
            const input = ids()
            return model.loss(input, input, { dropout, first, positions: ops.add(first, 1), ...options })
          })
        }
        const plain = await run({})
        expect(plain).not.toContain('none')
        expect(await run({ checkpoint })).toEqual(plain)
        first.dispose()
      })
    }
  }

  test('frees most of what backward would keep', async () => {
    using model = new Llama(config, { dtype: 'bf16', seed: 3 })
    const kept = (checkpoint: boolean | number): number => {
      const before = device.memory().enqueuedBytes
      return scope(() => {
        const input = ids()
        model.loss(input, input, { checkpoint })
        return device.memory().enqueuedBytes - before
      })
    }
    const plain = kept(false)
    expect(kept(true) / plain).toBeLessThan(0.2)
    expect(kept(2) / plain).toBeLessThan(0.6)
    await device.sync()
  })

  test('peaks lower over a whole step', async () => {
    const peak = async (checkpoint: boolean): Promise<number> => {
      using own = Device.open({ threads: 2, memoryLimit: checkpoint ? 2 ** 33 : 2 ** 34 }) // two devices
      const model = new Llama(config, { dtype: 'bf16', seed: 3, device: own })
      const input = tensor(await ids().toArray(), { shape: [BATCH, LENGTH], dtype: 'i32', device: own })
      const optimizer = new AdamW({ parameters: model.parameters() })
      await own.sync()
      const before = own.memory().liveBytes
      scope(() => {
        model.loss(input, input, { checkpoint }).backward()
        optimizer.step()
      })
      await own.sync()
      return own.memory().peakBytes - before
    }
    const [plain, recomputed] = [await peak(false), await peak(true)]
    expect(recomputed / plain).toBeLessThan(0.6)
  })

  test('an option that cannot be', () => {
    using model = new Llama(config, { seed: 3 })
    for (const checkpoint of [0, -1, 1.5, Number.NaN]) {
      expect(() => noGrad(() => scope(() => model.loss(ids(), ids(), { checkpoint })))).toThrow(
        /checkpoint: n must be an integer from 1/,
      )
    }
  })
})
