// The optimizer through the addon: masters of bf16 weights, the guard, what the step consumes.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { loadTensors, saveTensors } from '../../lib/io/tensors.ts'
import { full, tensor } from '../../lib/ops/create.ts'
import { randn } from '../../lib/ops/normal.ts'
import { randomKey } from '../../lib/ops/random.ts'
import { AdamW } from '../../lib/optim/adam-w.ts'
import { schedule } from '../../lib/optim/schedule.ts'
import { Device } from '../../lib/runtime/device.ts'
import { ValueError } from '../../lib/runtime/errors.ts'
import { type DType, fromBf16Bits, toBf16Bits } from '../../lib/tensor/dtype.ts'
import { noGrad } from '../../lib/tensor/mode.ts'
import type { Tensor } from '../../lib/tensor/tensor.ts'
import '../../lib/ops/copy.ts'

let device: Device
beforeEach(() => {
  device = Device.open().makeDefault()
})
afterEach(() => device.close())

function leaf(values: ArrayLike<number>, shape: readonly number[], dtype: DType): Tensor {
  return tensor(values, { shape, dtype, requiresGrad: true })
}

/** Master weights of a bf16 parameter: its bits with the optimizer's low half. */
async function masters(param: Tensor, low: Tensor): Promise<Float32Array> {
  const high = Uint16Array.from(await param.toArray(), (value) => toBf16Bits(value))
  const lows = await low.toArray()
  const bits = Uint32Array.from(high, (h, i) => {
    const l = lows[i] ?? 0
    return ((h - (l >>> 15)) << 16) | l
  })
  return new Float32Array(bits.buffer)
}

const state = (optimizer: AdamW, name: string): Tensor => optimizer.stateDict().get(name) as Tensor

describe('bf16 masters', () => {
  test('updates far below bf16 add up, and the weight is the master rounded', async () => {
    const param = leaf([1, -1, 0.5, 3], [2, 2], 'bf16')
    const optimizer = new AdamW({
      parameters: [['w', param]],
      learningRate: 1e-4,
      weightDecay: 0,
      clipNorm: 0,
    })
    for (let step = 0; step < 100; step++) {
      param.grad = full([2, 2], 1)
      optimizer.step()
    }
    // a constant gradient moves each weight by the learning rate per step, 1e-4: bf16 near 1 has
    // steps of 4e-3, so without masters nothing would ever move
    const exact = [1 - 0.01, -1 - 0.01, 0.5 - 0.01, 3 - 0.01]
    const found = await masters(param, state(optimizer, 'w.low'))
    const visible = await param.toArray()
    for (let i = 0; i < 4; i++) {
      // each of the 100 steps rounds the master to float32
      expect(Math.abs((found[i] ?? 0) - (exact[i] ?? 0))).toBeLessThan(
        100 * 2 ** -24 * 2 * Math.abs(exact[i] ?? 0),
      )
      expect(Math.abs((visible[i] ?? 0) - (found[i] ?? 0))).toBeLessThanOrEqual(
        2 ** -9 * 2 * Math.abs(found[i] ?? 0),
      )
    }
    expect(visible[0]).toBeLessThan(1)
  })

  test('rounding is to nearest: no bias, and one tiny update changes hardly any weight', async () => {
    const n = 1 << 16
    const weights = randn([256, 256], randomKey(5), { dtype: 'bf16' })
    const before = await weights.toArray()
    weights.requiresGrad = true
    const optimizer = new AdamW({ parameters: [['w', weights]], learningRate: 1e-5, weightDecay: 0 })
    weights.grad = randn([256, 256], randomKey(6))
    optimizer.step()
    const after = await weights.toArray()
    let changed = 0
    for (let i = 0; i < n; i++) if (after[i] !== before[i]) changed++
    expect(changed / n).toBeLessThan(0.01)

    // after many updates the visible weights scatter evenly about their masters
    for (let step = 0; step < 50; step++) {
      weights.grad = randn([256, 256], randomKey(7 + step))
      optimizer.learningRate = 1e-2
      optimizer.step()
    }
    const exact = await masters(weights, state(optimizer, 'w.low'))
    const visible = await weights.toArray()
    let bias = 0
    for (let i = 0; i < n; i++) bias += ((visible[i] ?? 0) - (exact[i] ?? 0)) / Math.abs(exact[i] ?? 1)
    // relative rounding errors are uniform within 2^-8: 4 standard deviations of their mean;
    // truncation would give -2^-9 or so, 80 times as much
    expect(Math.abs(bias / n)).toBeLessThan((4 * 2 ** -9) / Math.sqrt(3 * n))
  })

  test('weight decay below bf16 resolution is not lost', async () => {
    const param = leaf([1], [1, 1], 'bf16')
    const optimizer = new AdamW({ parameters: [['w', param]], learningRate: 1e-3, weightDecay: 0.1 })
    for (let step = 0; step < 100; step++) {
      param.grad = full([1, 1], 0)
      optimizer.step()
    }
    const [found = 0] = await masters(param, state(optimizer, 'w.low'))
    expect(found).toBeCloseTo((1 - 1e-4) ** 100, 5)
  })

  test('another writer starts the low half anew', async () => {
    const param = leaf([1, 1], [1, 2], 'bf16')
    const optimizer = new AdamW({
      parameters: [['w', param]],
      learningRate: 1e-4,
      weightDecay: 0,
      clipNorm: 0,
    })
    const once = (): void => {
      param.grad = full([1, 2], 1)
      optimizer.step()
    }
    for (let step = 0; step < 10; step++) once()
    expect((await masters(param, state(optimizer, 'w.low')))[0]).toBeCloseTo(1 - 1e-3, 6)
    param.device.activeQueue.write(
      param.storage,
      0,
      new Uint8Array(Uint16Array.of(toBf16Bits(2), toBf16Bits(2)).buffer),
    )
    once()
    expect((await masters(param, state(optimizer, 'w.low')))[0]).toBeCloseTo(2 - 1e-4, 6)
  })
})

describe('step', () => {
  test('a norm that is not finite changes nothing and is counted', async () => {
    const param = leaf([1, 2, 3, 4], [2, 2], 'f32')
    const optimizer = new AdamW({ parameters: [['w', param]], learningRate: 0.1 })
    param.grad = full([2, 2], 0.5)
    optimizer.step()
    const tensors = [param, ...optimizer.stateDict().values()].filter((t) => t.dtype === 'f32')
    const before = await Promise.all(tensors.map((t) => t.toArray()))
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      param.grad = tensor([1, bad, 1, 1], { shape: [2, 2] })
      const norm = await optimizer.step().item()
      expect(Number.isFinite(norm)).toBe(false)
    }
    expect(await Promise.all(tensors.map((t) => t.toArray()))).toEqual(before)
    expect(await optimizer.counts()).toEqual({ steps: 1, skipped: 3 })
    param.grad = full([2, 2], 0.5)
    optimizer.step()
    expect((await param.toArray())[0]).not.toBe(before[0]?.[0])
    expect(await optimizer.counts()).toEqual({ steps: 2, skipped: 3 })
  })

  test('the norm is global, taken before clipping, and consumes gradients', async () => {
    const a = leaf([0, 0], [1, 2], 'f32')
    const b = leaf([0], [1], 'f32')
    const optimizer = new AdamW({ parameters: [a, b], learningRate: 1, weightDecay: 0, clipNorm: 1 })
    a.grad = tensor([3, 0], { shape: [1, 2] })
    b.grad = tensor([4])
    const live = device.liveTensors
    const norm = optimizer.step()
    expect(await norm.item()).toBeCloseTo(5, 6)
    expect(a.grad).toBeNull()
    norm.dispose()
    // two gradients are gone, and the weight decays were made
    expect(device.liveTensors).toBe(live - 2 + 1)
    // clipped to 3/5 and 4/5: the running mean holds a tenth of it
    expect((await state(optimizer, '0.m').toArray())[0]).toBeCloseTo(0.06, 6)
    expect((await state(optimizer, '1.m').toArray())[0]).toBeCloseTo(0.08, 6)
  })

  test('decay leaves vectors alone', async () => {
    const matrix = leaf([1], [1, 1], 'f32')
    const vector = leaf([1], [1], 'f32')
    const optimizer = new AdamW({ parameters: [matrix, vector], learningRate: 0.1, weightDecay: 0.5 })
    matrix.grad = full([1, 1], 0)
    vector.grad = full([1], 0)
    optimizer.step()
    expect(await matrix.item()).toBeCloseTo(0.95, 6)
    expect(await vector.item()).toBe(1)
  })

  test('parameters without a gradient are left out; with none at all it throws', async () => {
    const a = leaf([1], [1, 1], 'f32')
    const b = leaf([1], [1, 1], 'f32')
    const optimizer = new AdamW({ parameters: [a, b], learningRate: 0.1 })
    expect(() => optimizer.step()).toThrow(ValueError)
    a.grad = full([1, 1], 1)
    optimizer.step()
    expect(await b.item()).toBe(1)
    b.grad = full([1, 1], 1)
    optimizer.step()
    expect(await b.item()).toBeLessThan(1)
  })

  test('options that cannot be', () => {
    const parameters = [leaf([1], [1], 'f32')]
    expect(() => new AdamW({ parameters, learningRate: -1 })).toThrow(ValueError)
    expect(() => new AdamW({ parameters, betas: [0.9, 1] })).toThrow(ValueError)
    expect(() => new AdamW({ parameters: [tensor([1])] })).toThrow(/no parameters/)
    const misspelt = { parameters, weigthDecay: 0 } as unknown as ConstructorParameters<typeof AdamW>[0]
    expect(() => new AdamW(misspelt)).toThrow(/did you mean 'weightDecay'/)
  })
})

test('state saved and loaded goes on as if nothing had happened', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fuselm-optim-'))
  const values = Float64Array.from({ length: 12 }, (_, i) => fromBf16Bits(toBf16Bits(Math.sin(i))))
  const make = (): { param: Tensor; optimizer: AdamW } => {
    const param = leaf(values, [3, 4], 'bf16')
    return { param, optimizer: new AdamW({ parameters: [['w', param]], learningRate: 1e-3 }) }
  }
  const train = (param: Tensor, optimizer: AdamW, from: number, to: number): void => {
    for (let step = from; step < to; step++) {
      param.grad = noGrad(() => randn([3, 4], randomKey(step)))
      optimizer.step()
    }
  }
  const a = make()
  train(a.param, a.optimizer, 0, 5)
  const path = join(folder, 'optimizer.safetensors')
  await saveTensors(path, [...a.optimizer.stateDict(), ['param', a.param]])
  train(a.param, a.optimizer, 5, 9)

  const b = make()
  await loadTensors(path, new Map([...b.optimizer.stateDict(), ['param', b.param]]))
  b.optimizer.markLoaded()
  train(b.param, b.optimizer, 5, 9)
  for (const [name, tensor] of a.optimizer.stateDict()) {
    expect(await state(b.optimizer, name).toArray(), name).toEqual(await tensor.toArray())
  }
  expect(await b.param.toArray()).toEqual(await a.param.toArray())
  rmSync(folder, { recursive: true })
})

describe('schedule', () => {
  test('warm-up, cosine, floor', () => {
    const at = schedule({ learningRate: 1, steps: 110, warmup: 10, floor: 0.1 })
    expect(at(0)).toBeCloseTo(0.1, 12)
    expect(at(9)).toBe(1)
    expect(at(10)).toBe(1)
    expect(at(60)).toBeCloseTo(0.55, 12)
    expect(at(110)).toBeCloseTo(0.1, 12)
    expect(at(1000)).toBeCloseTo(0.1, 12)
  })

  test('linear and constant', () => {
    expect(schedule({ learningRate: 2, steps: 100, decay: 'linear' })(25)).toBeCloseTo(1.5, 12)
    expect(schedule({ learningRate: 2, steps: 100, decay: 'constant' })(99)).toBe(2)
    expect(() => schedule({ learningRate: Number.NaN, steps: 1 })).toThrow(ValueError)
  })
})
