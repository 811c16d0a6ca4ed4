// Traps of the loss: 2 (labels shifted once, rows apart) and 15 (float32, chunked, ignored, smoothed).

import { afterAll, describe, expect, test } from 'vitest'
import { Device, Llama, scope, tensor } from '../../lib/index.ts'
import { crossEntropy } from '../../lib/ops/cross_entropy.ts'
import { linear } from '../../lib/ops/linear.ts'
import { linearCrossEntropy } from '../../lib/ops/linear_cross_entropy.ts'
import { random } from '../ops/random.ts'
import { roundTo } from '../ops/runner/compare.ts'
import { expectClose } from './numeric.ts'
import { crossEntropyMean } from './oracle.ts'

const device = Device.open({ threads: 2 }).makeDefault()
afterAll(() => device.close())

const VOCAB = 37
const [BATCH, LENGTH] = [3, 11]

function randomIds(seed: string, count: number): number[] {
  const { integer } = random(seed)
  return Array.from({ length: count }, () => integer(0, VOCAB))
}

test('trap 02 position t predicts the token at t + 1 of its own row, and nothing else', async () => {
  const model = new Llama(
    {
      vocabSize: VOCAB,
      hiddenSize: 32,
      intermediateSize: 48,
      numHiddenLayers: 2,
      numAttentionHeads: 2,
      initializerRange: 0.3,
    },
    { seed: 2 },
  )
  const ids = randomIds('trap 02', BATCH * LENGTH)
  const [logits, loss] = scope(() => {
    const input = tensor(ids, { shape: [BATCH, LENGTH], dtype: 'i32' })
    return [model.forward(input), model.loss(input, input)]
  })
  const targets = ids.map((_, i) => (i % LENGTH === LENGTH - 1 ? -100 : (ids[i + 1] ?? -100)))
  const expected = crossEntropyMean(await logits.toArray(), targets, VOCAB)
  expectClose('loss', [await loss.item()], [expected], { rtol: 2e-6, atol: 0 })
  logits.dispose()
  loss.dispose()
  model.dispose()
})

describe('trap 15: cross-entropy', () => {
  const ROWS = 23
  const labels = randomIds('trap 15', ROWS).map((label, i) => (i % 5 === 2 ? -100 : label))
  const normals = (seed: string, count: number, scale: number, dtype: 'f32' | 'bf16'): Float64Array => {
    const { normal } = random(seed)
    return roundTo(
      Float64Array.from({ length: count }, () => scale * normal()),
      dtype,
    )
  }

  for (const dtype of ['f32', 'bf16'] as const) {
    for (const labelSmoothing of [0, 0.1]) {
      test(`trap 15 loss of ${dtype} logits is float32, skips ignored labels, smoothing ${labelSmoothing}`, async () => {
        const values = normals('trap 15 logits', ROWS * VOCAB, 8, dtype)
        const loss = scope(() =>
          crossEntropy(tensor(values, { shape: [ROWS, VOCAB], dtype }), tensor(labels, { dtype: 'i32' }), {
            labelSmoothing,
          }),
        )
        expectClose(
          'loss',
          [await loss.item()],
          [crossEntropyMean(values, labels, VOCAB, { labelSmoothing })],
          { rtol: 2e-6, atol: 0 },
        )
        loss.dispose()
      })
    }
  }

  test.each([0, 0.1])(
    'trap 15 chunked equals dense: loss and gradients, smoothing %d',
    async (labelSmoothing) => {
      const [tall, wide, hidden] = [150, 700, 24]
      const { integer } = random('trap 15 tall')
      const targets = Array.from({ length: tall }, (_, i) => (i % 7 === 3 ? -100 : integer(0, wide)))
      const run = (chunked: boolean) =>
        scope(() => {
          const h = tensor(normals('trap 15 h', tall * hidden, 1, 'f32'), {
            shape: [tall, hidden],
            requiresGrad: true,
          })
          const weight = tensor(normals('trap 15 w', wide * hidden, 1, 'f32'), {
            shape: [wide, hidden],
            requiresGrad: true,
          })
          const label = tensor(targets, { dtype: 'i32' })
          const loss = chunked
            ? linearCrossEntropy(h, { weight }, label, { shift: false, labelSmoothing })
            : crossEntropy(linear(h, { weight }), label, { labelSmoothing })
          loss.backward()
          return { h, weight, loss }
        })
      const dense = run(false)
      const chunked = run(true)
      expectClose('loss', [await chunked.loss.item()], [await dense.loss.item()], { rtol: 2e-6, atol: 0 })
      for (const name of ['h', 'weight'] as const) {
        const [a, e] = [
          (await chunked[name].grad?.toArray()) ?? [],
          (await dense[name].grad?.toArray()) ?? [],
        ]
        expectClose(`gradient of ${name}`, a, e, { rtol: 1e-4, atol: 1e-6 })
      }
      for (const { h, weight, loss } of [dense, chunked]) for (const t of [h, weight, loss]) t.dispose()
    },
  )

  test('trap 15 all labels ignored is an error', async () => {
    const loss = scope(() =>
      crossEntropy(
        tensor(new Float64Array(2 * VOCAB), { shape: [2, VOCAB], dtype: 'f32' }),
        tensor([-100, -100], { dtype: 'i32' }),
      ),
    )
    await expect(loss.item()).rejects.toMatchObject({
      code: 'ERR_VALUE',
      message: expect.stringMatching(/every label is ignored/),
    })
    loss.dispose()
  })
})
