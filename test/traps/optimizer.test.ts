// Traps of the optimizer: 5 (bf16 masters), 6 (one global norm), 9 (one rate per step), 19 (the guard).

import { afterAll, describe, test } from 'vitest'
import { AdamW, Device, schedule, scope, type Tensor, tensor } from '../../lib/index.ts'
import { random } from '../ops/random.ts'
import { roundToBf16 } from '../ops/runner/compare.ts'
import { expectBetween, expectBitwise, expectClose } from './numeric.ts'
import { type AdamWState, adamW, l2 } from './oracle.ts'

const device = Device.open({ threads: 2 }).makeDefault()
afterAll(() => device.close())

function leaf(values: ArrayLike<number>, shape: readonly number[], dtype: 'f32' | 'bf16'): Tensor {
  return tensor(values, { shape, dtype, requiresGrad: true })
}

/** Gives a leaf its gradient as backward would leave it. */
function setGrad(parameter: Tensor, values: ArrayLike<number>): void {
  parameter.grad = tensor(values, { shape: parameter.shape, dtype: 'f32' })
}

function normals(seed: string, count: number, scale = 1): Float64Array {
  const { normal } = random(seed)
  return Float64Array.from({ length: count }, () => scale * normal())
}

const values = async (t: Tensor): Promise<Float64Array> => Float64Array.from(await t.toArray())

describe('trap 05: bf16 parameters keep an exact float32 master', () => {
  test('trap 05 updates of 1e-4 relative survive', async () => {
    const p = leaf([1, -1, 1, -1], [2, 2], 'bf16')
    using optimizer = new AdamW({ parameters: [p], learningRate: 1e-4, weightDecay: 0, clipNorm: 0 })
    for (let step = 0; step < 200; step++) {
      setGrad(p, [1, -1, -1, 1])
      optimizer.step().dispose()
    }
    // a constant gradient makes AdamW move by the learning rate; rtol is half a bf16 step
    expectClose('parameter', await values(p), [0.98, -0.98, 1.02, -1.02], { rtol: 2 ** -8, atol: 0 })
    p.dispose()
  })

  test('trap 05 weight decay of 1e-4 relative survives', async () => {
    const p = leaf([1, -1, 2, -2], [2, 2], 'bf16')
    using optimizer = new AdamW({ parameters: [p], learningRate: 1e-2, weightDecay: 1e-2 })
    for (let step = 0; step < 500; step++) {
      setGrad(p, [0, 0, 0, 0])
      optimizer.step().dispose()
    }
    const kept = (1 - 1e-4) ** 500
    expectClose('parameter', await values(p), [kept, -kept, 2 * kept, -2 * kept], { rtol: 2 ** -8, atol: 0 })
    p.dispose()
  })

  const COUNT = 1 << 16
  const initial = normals('trap 05', COUNT).map(roundToBf16)

  test('trap 05 one update of 1e-5 changes at most 1 % of loaded bf16 weights', async () => {
    const p = leaf(initial, [COUNT], 'bf16')
    using optimizer = new AdamW({ parameters: [p], learningRate: 1e-5, clipNorm: 0 })
    setGrad(p, normals('trap 05 gradient', COUNT))
    optimizer.step().dispose()
    const after = await values(p)
    const changed = after.reduce((n, v, i) => n + (v === initial[i] ? 0 : 1), 0)
    expectBetween('share of weights that changed', changed / COUNT, 1e-6, 0.01)
    p.dispose()
  })

  test('trap 05 rounding the master carries no bias', async () => {
    const visible = leaf(initial, [COUNT], 'bf16')
    const exact = leaf(initial, [COUNT], 'f32')
    const options = { learningRate: 3e-3, clipNorm: 0 }
    using a = new AdamW({ parameters: [visible], ...options })
    using b = new AdamW({ parameters: [exact], ...options })
    for (let step = 0; step < 20; step++) {
      const gradient = normals(`trap 05 ${step}`, COUNT)
      setGrad(visible, gradient)
      setGrad(exact, gradient)
      a.step().dispose()
      b.step().dispose()
    }
    const [v, e] = [await values(visible), await values(exact)]
    const bias = v.reduce((sum, x, i) => sum + x / (e[i] ?? 1) - 1, 0) / COUNT
    // rounding to nearest: 2^-9 / sqrt(3 x 65536) = 4e-6 is one standard deviation; truncation: -2e-3
    expectBetween('mean relative difference of weight and master', bias, -5e-5, 5e-5)
    visible.dispose()
    exact.dispose()
  })
})

/** Steps of AdamW over two parameters of which gradients differ in size, against the closed form. */
async function compareWithClosedForm(clipNorm: number | undefined): Promise<void> {
  const shapes = [
    [8, 5],
    [3, 4],
  ] as const
  const starts = shapes.map(([r, c], i) => normals(`trap 06 ${i}`, r * c).map(Math.fround))
  const parameters = shapes.map((shape, i) => leaf(starts[i] ?? [], shape, 'f32'))
  const o = { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-2, weightDecay: 0.01 }
  using optimizer = new AdamW({
    parameters,
    learningRate: o.lr,
    betas: [o.beta1, o.beta2],
    eps: o.eps,
    ...(clipNorm !== undefined && { clipNorm }),
  })
  let expected: AdamWState[][] = starts.map((start) => Array.from(start, (p) => ({ p, m: 0, v: 0 })))
  for (let step = 1; step <= 4; step++) {
    // from far below the threshold to far above it, and one parameter far larger than the other
    const gradients = shapes.map(([r, c], i) =>
      normals(`trap 06 ${step} ${i}`, r * c, 10 ** (step - 3) * (i === 0 ? 1 : 0.1)).map(Math.fround),
    )
    parameters.forEach((p, i) => {
      setGrad(p, gradients[i] ?? [])
    })
    const norm = optimizer.step()
    const total = l2(gradients.flatMap((g) => [...g]))
    expectClose('norm before clipping', [await norm.item()], [total], { rtol: 1e-6, atol: 0 })
    norm.dispose()
    const factor = total + 1e-6 > 1 ? 1 / (total + 1e-6) : 1
    expected = expected.map((states, i) =>
      states.map((s, j) => adamW(s, factor * (gradients[i]?.[j] ?? 0), step, o)),
    )
  }
  for (const [i, p] of parameters.entries()) {
    const want = (expected[i] ?? []).map(({ p }) => p)
    expectClose(`parameter ${i}`, await values(p), want, { rtol: 2e-6, atol: 1e-6 })
    p.dispose()
  }
}

describe('trap 06: one norm over all gradients, before clipping', () => {
  test('trap 06 global norm clips all parameters alike', () => compareWithClosedForm(1))
  test('trap 06 default threshold is 1', () => compareWithClosedForm(undefined))
})

test('trap 09 the rate advances once per optimizer step, not per micro-batch', async () => {
  const steps = 12
  const rate = schedule({ learningRate: 0.1, warmup: 4, steps })
  const p = leaf([1, 2, 3, 4], [4], 'f32')
  using optimizer = new AdamW({ parameters: [p], betas: [0.9, 0.95], clipNorm: 0 })
  let expected: AdamWState[] = [1, 2, 3, 4].map((x) => ({ p: x, m: 0, v: 0 }))
  for (let step = 0; step < steps; step++) {
    const micro = [
      normals(`trap 09 ${step} a`, 4).map(Math.fround),
      normals(`trap 09 ${step} b`, 4).map(Math.fround),
    ]
    for (const gradient of micro) {
      scope(() => p.reshape([4]).backward(tensor(gradient, { dtype: 'f32' })))
    }
    optimizer.learningRate = rate(step)
    optimizer.step().dispose()
    const lr = step < 4 ? (0.1 * (step + 1)) / 4 : 0.05 * (1 + Math.cos((Math.PI * (step - 4)) / (steps - 4)))
    const gradient = [0, 1, 2, 3].map((i) => Math.fround((micro[0]?.[i] ?? 0) + (micro[1]?.[i] ?? 0)))
    expected = expected.map((s, i) =>
      adamW(s, gradient[i] ?? 0, step + 1, { lr, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0 }),
    )
  }
  const counts = await optimizer.counts()
  expectBitwise('steps and skipped', [counts.steps, counts.skipped], [steps, 0])
  expectClose(
    'parameter',
    await values(p),
    expected.map(({ p }) => p),
    { rtol: 2e-5, atol: 1e-5 },
  )
  p.dispose()
})

describe('trap 19: a gradient that is not finite changes nothing', () => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
    test(`trap 19 ${bad} is skipped, counted, and leaves no trace`, async () => {
      const gradients = [0, 1].map((i) => normals(`trap 19 ${i}`, 33))
      const run = async (poisoned: boolean) => {
        const p = leaf(normals('trap 19', 33).map(roundToBf16), [33], 'bf16')
        const w = leaf(normals('trap 19 w', 5).map(Math.fround), [5], 'f32')
        using optimizer = new AdamW({ parameters: [p, w], learningRate: 0.1 })
        const step = (g: ArrayLike<number>): void => {
          setGrad(p, g)
          setGrad(w, normals('trap 19 gw', 5))
          optimizer.step().dispose()
        }
        step(gradients[0] ?? [])
        const before = [...(await values(p)), ...(await values(w))]
        if (poisoned) {
          step(normals('trap 19 bad', 33).map((g, i) => (i === 32 ? bad : g)))
          expectBitwise('parameters after the bad step', [...(await values(p)), ...(await values(w))], before)
          const counts = await optimizer.counts()
          expectBitwise('steps and skipped', [counts.steps, counts.skipped], [1, 1])
        }
        step(gradients[1] ?? [])
        const result = [...(await values(p)), ...(await values(w))]
        p.dispose()
        w.dispose()
        return result
      }
      expectBitwise('parameters after one more step', await run(true), await run(false))
    })
  }
})
