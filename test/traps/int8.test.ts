// Trap 14: int8 weights. Outlier rows and channels, scales by absolute maximum, rows of zeros, and what
// quantising does to the loss of a trained model.

import { readdirSync, readFileSync } from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import {
  AdamW,
  Device,
  Llama,
  noGrad,
  type QuantizeOptions,
  quantizeLinears,
  randomWindows,
  scope,
  tensor,
  windowsAt,
} from '../../lib/index.ts'
import { linear } from '../../lib/ops/linear.ts'
import { dequantizeInt8, quantizeInt8 } from '../../lib/ops/quantize_int8.ts'
import { random } from '../ops/random.ts'
import { expectBetween, expectBitwise, expectClose } from './numeric.ts'

const device = Device.open({ threads: 2 }).makeDefault()
afterAll(() => device.close())

const [ROWS, COLUMNS] = [6, 96]
const [OUTLIER_ROW, NEGATIVE_ROW, ZERO_ROW] = [1, 3, 4]

/** Normal rows beside one a hundred times larger, one whose largest magnitude is negative, and zeros. */
function weights(): Float32Array {
  const { normal } = random('trap 14')
  const w = Float32Array.from({ length: ROWS * COLUMNS }, () => normal())
  for (let c = 0; c < COLUMNS; c++) {
    w[OUTLIER_ROW * COLUMNS + c] = 100 * (w[OUTLIER_ROW * COLUMNS + c] ?? 0)
    w[ZERO_ROW * COLUMNS + c] = 0
  }
  for (let c = 5; c < COLUMNS; c += 32) w[NEGATIVE_ROW * COLUMNS + c] = -9
  return w
}

describe('trap 14: int8', () => {
  for (const group of [0, 32]) {
    test(`trap 14 scales by absolute maximum, 1 for zeros, group ${group}`, async () => {
      const w = weights()
      const size = group || COLUMNS
      const [scales, back] = noGrad(() =>
        scope(() => {
          const q = quantizeInt8(tensor(w, { shape: [ROWS, COLUMNS] }), { group })
          return [q.scales, dequantizeInt8(q)]
        }),
      )
      const expected = Array.from({ length: w.length / size }, (_, g) => {
        const absmax = w.subarray(g * size, (g + 1) * size).reduce((m, v) => Math.max(m, Math.abs(v)), 0)
        return absmax === 0 ? 1 : absmax / 127
      })
      expectClose('scales', await scales.toArray(), expected, { rtol: 1e-6, atol: 0 })
      // nothing is off by more than half a step of its own group
      const actual = await back.toArray()
      actual.forEach((v, i) => {
        const half = (expected[Math.floor(i / size)] ?? 0) / 2
        expectBetween(`error of weight ${i}`, v - (w[i] ?? 0), -half * 1.0001, half * 1.0001)
      })
      expectBitwise(
        'the row of zeros',
        actual.subarray(ZERO_ROW * COLUMNS, (ZERO_ROW + 1) * COLUMNS),
        new Float32Array(COLUMNS),
      )
      for (const t of [scales, back]) t.dispose()
    })
  }

  test('trap 14 an outlier channel of x does not cost the others their digits', async () => {
    const w = weights()
    const { normal } = random('trap 14 x')
    const x = Float32Array.from({ length: 8 * COLUMNS }, () => normal())
    for (let r = 0; r < 8; r++) x[r * COLUMNS + 7] = 300
    const [y, back] = noGrad(() =>
      scope(() => {
        const q = quantizeInt8(tensor(w, { shape: [ROWS, COLUMNS] }))
        return [linear(tensor(x, { shape: [8, COLUMNS] }), { kind: 'int8', ...q }), dequantizeInt8(q)]
      }),
    )
    const dense = await back.toArray()
    const expected = Array.from({ length: 8 * ROWS }, (_, i) => {
      const [r, n] = [Math.floor(i / ROWS), i % ROWS]
      let sum = 0
      for (let c = 0; c < COLUMNS; c++) sum += (x[r * COLUMNS + c] ?? 0) * (dense[n * COLUMNS + c] ?? 0)
      return sum
    })
    // float32 sums, of terms up to 300 x 200
    expectClose('y', await y.toArray(), expected, { rtol: 1e-5, atol: 2e-4 })
    for (const t of [y, back]) t.dispose()
  })

  test('trap 14 held-out loss of a trained model, before and after', async () => {
    const text = Buffer.concat(
      readdirSync('docs')
        .filter((name) => name.endsWith('.md') && name !== 'log.md')
        .sort()
        .map((name) => readFileSync(`docs/${name}`)),
    )
    const cut = Math.floor(text.length * 0.9)
    const [BATCH, LENGTH, STEPS] = [8, 64, 120]
    const build = (): Llama =>
      new Llama(
        {
          vocabSize: 256,
          hiddenSize: 64,
          intermediateSize: 160,
          numHiddenLayers: 2,
          numAttentionHeads: 2,
          tieWordEmbeddings: false,
        },
        { seed: 14 },
      )
    const model = build()
    const optimizer = new AdamW({ parameters: model.namedParameters(), learningRate: 4e-3 })
    const { uniform } = random('trap 14 windows')
    const train = text.subarray(0, cut)
    for (let step = 0; step < STEPS; step++) {
      scope(() => {
        const rows = randomWindows(train, { batch: BATCH, length: LENGTH, random: uniform })
        const ids = tensor(rows, { shape: [BATCH, LENGTH], dtype: 'i32' })
        model.loss(ids, ids).backward()
        optimizer.step()
      })
      await device.activeQueue.ready()
    }
    const held = text.subarray(cut)
    const starts = Array.from({ length: 48 }, (_, i) => Math.floor((i * (held.length - LENGTH)) / 48))
    const heldOut = async (of: Llama): Promise<number> => {
      const loss = noGrad(() =>
        scope(() => {
          const ids = tensor(windowsAt(held, starts, LENGTH), { shape: [48, LENGTH], dtype: 'i32' })
          return of.loss(ids, ids)
        }),
      )
      const value = await loss.item()
      loss.dispose()
      return value
    }
    const before = await heldOut(model)
    expect(before).toBeLessThan(3.2) // it learned: the unigram entropy of such text is about 3.3 nats
    const kinds: QuantizeOptions[] = [
      {},
      { group: 32 },
      { activations: 'int8' },
      { group: 32, activations: 'int8' },
    ]
    for (const options of kinds) {
      const small = build()
      small.loadStateDict(model.stateDict())
      const { bytesBefore, bytesAfter } = quantizeLinears(small, options)
      const after = await heldOut(small)
      const name = `group ${options.group ?? 0}, activations ${options.activations ?? 'float'}`
      console.log(
        `trap 14, ${name}: loss ${before.toFixed(5)} -> ${after.toFixed(5)}, perplexity x ${Math.exp(after - before).toFixed(5)}, weights ${(bytesAfter / bytesBefore).toFixed(3)} of the bytes`,
      )
      expectBetween(`change of the loss, ${name}`, after - before, -0.003, 0.003)
      small.dispose()
    }
    optimizer.dispose()
    model.dispose()
  }, 120_000)
})
