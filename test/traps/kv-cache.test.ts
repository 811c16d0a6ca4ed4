// Trap 18: a cache of keys and values, and its part of trap 4 (padding).

import { afterAll, describe, expect, test } from 'vitest'
import {
  Device,
  Llama,
  type LlamaOptions,
  type nn,
  noGrad,
  scope,
  type Tensor,
  tensor,
} from '../../lib/index.ts'
import { random } from '../ops/random.ts'
import { expectClose } from './numeric.ts'

const device = Device.open({ threads: 2 }).makeDefault()
afterAll(() => device.close())

const CONFIG: LlamaOptions = {
  vocabSize: 37,
  hiddenSize: 32,
  intermediateSize: 48,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  // large enough for attention to be far from uniform
  initializerRange: 0.3,
}
const F32 = { rtol: 1e-4, atol: 1e-4 }

function ids(seed: string, rows: number, steps: number): number[][] {
  const { integer } = random(seed)
  return Array.from({ length: rows }, () => Array.from({ length: steps }, () => integer(0, CONFIG.vocabSize)))
}

const i32 = (rows: readonly (readonly number[])[]): Tensor =>
  tensor(rows.flat(), { shape: [rows.length, rows[0]?.length ?? 0], dtype: 'i32' })

async function logits(
  model: Llama,
  rows: readonly (readonly number[])[],
  options = {},
): Promise<Float64Array> {
  const y = noGrad(() => scope(() => model.forward(i32(rows), options)))
  const values = Float64Array.from(await y.toArray())
  y.dispose()
  return values
}

/** Logits [B, T, V] of the rows, fed in pieces of the given lengths. */
async function stepwise(
  model: Llama,
  cache: nn.KvCache,
  rows: readonly (readonly number[])[],
  pieces: readonly number[],
): Promise<Float64Array> {
  const steps = rows[0]?.length ?? 0
  const out = new Float64Array(rows.length * steps * CONFIG.vocabSize)
  let at = 0
  for (const piece of pieces) {
    const part = await logits(
      model,
      rows.map((row) => row.slice(at, at + piece)),
      { cache },
    )
    const size = piece * CONFIG.vocabSize
    for (let b = 0; b < rows.length; b++) {
      out.set(part.subarray(b * size, (b + 1) * size), (b * steps + at) * CONFIG.vocabSize)
    }
    at += piece
  }
  if (at !== steps) throw new Error(`pieces hold ${at} of ${steps} tokens`)
  return out
}

const ones = (n: number): number[] => new Array<number>(n).fill(1)

describe('trap 18: a cache gives the logits of the full forward', () => {
  for (const { name, pieces } of [
    { name: 'token by token', pieces: ones(40) },
    { name: 'a prompt, then tokens', pieces: [17, ...ones(23)] },
    { name: 'pieces of all sizes', pieces: [5, 1, 12, 8, 2, 9, 3] },
  ]) {
    test(`trap 18 step by step: ${name}`, async () => {
      using model = new Llama(CONFIG, { seed: 1 })
      using cache = model.makeCache({ batch: 2, capacity: 40 })
      const rows = ids(name, 2, 40)
      expectClose('logits', await stepwise(model, cache, rows, pieces), await logits(model, rows), F32)
    })
  }

  for (const [window, pieceLength, pieces] of [
    [6, 1, ones(50)],
    [6, 4, [3, 4, ...ones(12), 4, 2, 4, 3, 4, ...ones(10), 4]],
    [20, 30, [29, 1, 1, 9, 10]],
    [7, 12, [30, 12, 1, 7]],
  ] as const) {
    test(`trap 18 a window of ${window} rolls over, pieces of ${pieceLength}`, async () => {
      using model = new Llama({ ...CONFIG, slidingWindow: window }, { seed: 2 })
      using cache = model.makeCache({ batch: 2, capacity: 1000, pieceLength })
      const rows = ids(`window ${window}`, 2, 50)
      const full = await logits(model, rows)
      expectClose('logits', await stepwise(model, cache, rows, pieces), full, F32)
      // the model tells what a window hides: else the comparison would show nothing
      using whole = new Llama(CONFIG, { seed: 2 })
      const difference = (await logits(whole, rows)).reduce(
        (d, x, i) => Math.max(d, Math.abs(x - (full[i] ?? 0))),
        0,
      )
      expect(difference).toBeGreaterThan(100 * F32.atol)
      const slots = window + pieceLength - 1
      expect(cache.bytes).toBe(2 * 2 * 2 * slots * 2 * 8 * 4)
    })
  }

  test('trap 18 rows of different lengths, padded on the right', async () => {
    using model = new Llama(CONFIG, { seed: 3 })
    using cache = model.makeCache({ batch: 3, capacity: 24 })
    const rows = ids('ragged', 3, 16)
    const lengths = [4, 9, 6]
    await logits(
      model,
      rows.map((row, b) => row.slice(0, 9).map((id, t) => (t < (lengths[b] ?? 0) ? id : 0))),
      { cache, lengths },
    )
    // each row goes on from its own end
    const next = await logits(
      model,
      rows.map((row, b) => row.slice(lengths[b] ?? 0, (lengths[b] ?? 0) + 3)),
      { cache },
    )
    const then = await logits(
      model,
      rows.map((row, b) => row.slice((lengths[b] ?? 0) + 3, (lengths[b] ?? 0) + 4)),
      { cache },
    )
    expect(cache.lengths).toEqual(lengths.map((n) => n + 4))
    for (const [b, row] of rows.entries()) {
      const n = lengths[b] ?? 0
      const single = await logits(model, [row.slice(0, n + 4)])
      const V = CONFIG.vocabSize
      expectClose(
        `row ${b}`,
        next.subarray(b * 3 * V, (b + 1) * 3 * V),
        single.subarray(n * V, (n + 3) * V),
        F32,
      )
      expectClose(`row ${b}, last`, then.subarray(b * V, (b + 1) * V), single.subarray((n + 3) * V), F32)
    }
  })

  test('trap 18 after a truncation', async () => {
    using model = new Llama(CONFIG, { seed: 4 })
    using cache = model.makeCache({ capacity: 30 })
    const [a = [], b = []] = ids('truncate', 2, 20)
    await stepwise(model, cache, [a], [12, ...ones(8)])
    cache.truncate(9)
    const other = [...a.slice(0, 9), ...b]
    const V = CONFIG.vocabSize
    const again = await stepwise(model, cache, [b], [1, 3, 16])
    expectClose('logits', again, (await logits(model, [other])).subarray(9 * V), F32)
  })

  test('trap 18 in bf16', async () => {
    using model = new Llama(CONFIG, { seed: 5, dtype: 'bf16' })
    using cache = model.makeCache({ capacity: 40 })
    const rows = ids('bf16', 1, 40)
    const stepped = await stepwise(model, cache, rows, [9, ...ones(20), 11])
    // both round at other places: the logits here are of size 30, whose bf16 step is 1/8
    expectClose('logits', stepped, await logits(model, rows), { rtol: 2e-2, atol: 0.6 })
  })
})

describe('trap 04: left padding with a cache', () => {
  for (const slidingWindow of [null, 5]) {
    test(`trap 04 cached left-padded rows give the logits of single rows, window ${slidingWindow}`, async () => {
      using model = new Llama({ ...CONFIG, slidingWindow }, { seed: 6 })
      const documents = [7, 5, 9].map((n, i) => ids(`document ${i}`, 1, n + 6)[0] ?? [])
      const padding = documents.map((d) => 15 - d.length)
      using cache = model.makeCache({ batch: 3, capacity: 15, padding })
      const rows = documents.map((d, b) => [...new Array<number>(padding[b] ?? 0).fill(0), ...d])
      const V = CONFIG.vocabSize
      const batch = await stepwise(model, cache, rows, [9, 1, 1, 2, 1, 1])
      for (const [b, d] of documents.entries()) {
        const begin = (b * 15 + (padding[b] ?? 0)) * V
        const single = await logits(model, [d])
        expectClose(`row ${b}`, batch.subarray(begin, (b + 1) * 15 * V), single, F32)
      }
    })
  }
})

describe('what a cache refuses', () => {
  test('trap 18 more tokens than it holds, and pieces too long for its window', async () => {
    using model = new Llama({ ...CONFIG, slidingWindow: 4 }, { seed: 7 })
    using cache = model.makeCache({ capacity: 20, pieceLength: 2 })
    const forward = (steps: number): Promise<Float64Array> => logits(model, ids('x', 1, steps), { cache })
    await forward(12)
    await expect(forward(3)).rejects.toThrow(/takes at most 2 tokens at a time/)
    await forward(2)
    await expect(forward(7)).rejects.toThrow(/7 more tokens after 14 pass its capacity of 20/)
    expect(cache.length).toBe(14)
    expect(() => cache.truncate(3)).toThrow(/the window before token 3 is overwritten/)
    cache.truncate(0)
    await forward(9)
  })

  test('trap 18 gradients, other batches, positions beside it, use after dispose', async () => {
    using model = new Llama(CONFIG, { seed: 8 })
    const cache = model.makeCache({ capacity: 8 })
    const x = i32([[1, 2, 3]])
    expect(() => model.forward(x, { cache })).toThrow(/kvCacheAppend: is not differentiable/)
    noGrad(() => {
      expect(() => model.forward(i32([[1], [2]]), { cache })).toThrow(/ids must be \[1,T\]/)
      expect(() => model.forward(x, { cache, positions: x })).toThrow(/leave out positions and first/)
      cache.dispose()
      expect(() => model.forward(x, { cache })).toThrow(/used after dispose/)
    })
    x.dispose()
  })

  test('trap 18 leaves no tensors behind', async () => {
    const model = new Llama(CONFIG, { seed: 9 })
    const before = device.liveTensors
    const cache = model.makeCache({ batch: 2, capacity: 8, padding: [0, 2] })
    await stepwise(model, cache, ids('live', 2, 6), [3, 1, 2])
    cache.dispose()
    expect(device.liveTensors).toBe(before)
    model.dispose()
  })
})
