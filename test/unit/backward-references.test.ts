// Backwards whose reference is a function of its own: no gradient of a forward's reference runs it, so
// the matrix does not. Here it meets the kernel.

import { describe, expect, test } from 'vitest'
import { ops, scope, type Tensor, tensor } from '../../lib/index.ts'
import { addLayerNormBackwardOp } from '../../lib/ops/add_layer_norm.ts'
import { addRmsNormBackwardOp } from '../../lib/ops/add_rms_norm.ts'
import { layerNormBackwardOp } from '../../lib/ops/layer_norm.ts'
import { logSoftmaxBackwardOp } from '../../lib/ops/log_softmax.ts'
import { softmaxBackwardOp } from '../../lib/ops/softmax.ts'
import { noGrad, withReference } from '../../lib/tensor/mode.ts'
import { random } from '../ops/random.ts'
import { expectNoLeaks } from './leaks.ts'

expectNoLeaks()

const ROWS = 5
const SIZE = 33
const { normal } = random('backward references')
const values = (count: number): number[] => Array.from({ length: count }, normal)
const matrix = (): Tensor => tensor(values(ROWS * SIZE), { shape: [ROWS, SIZE] })
const positive = (): Tensor => tensor(values(ROWS).map((v) => 0.5 + Math.abs(v)))

/** What `call` returns and writes, by its kernel and by its reference, on the same numbers. */
async function expectAlike(call: () => readonly Tensor[]): Promise<void> {
  const read = (tensors: readonly Tensor[]) => Promise.all(tensors.map(async (t) => [...(await t.toArray())]))
  const kernel = noGrad(call)
  const reference = noGrad(() => withReference(call))
  const [actual, expected] = [await read(kernel), await read(reference)]
  for (const made of [...kernel, ...reference]) made.dispose()
  expect(actual.length).toBeGreaterThan(0)
  for (const [i, wanted] of expected.entries()) {
    for (const [j, value] of wanted.entries()) expect(actual[i]?.[j]).toBeCloseTo(value, 4)
  }
}

/** A gradient to be written, or added to. */
const target = (): Tensor => ops.full([SIZE], 3, { dtype: 'f32' })

describe('references of backwards against their kernels', () => {
  for (const accumulate of [false, true]) {
    test(`norms, accumulate ${accumulate}`, async () => {
      const [dy, dh, h] = [matrix(), matrix(), matrix()]
      const [w, mean, rstd] = [tensor(values(SIZE)), tensor(values(ROWS)), positive()]
      const attributes = [1e-5, accumulate] as const
      // the reference of rms_norm.backward computes its own
      const rmsRstd = noGrad(() => scope(() => ops.rsqrt(ops.add(ops.mean(ops.mul(h, h), [-1]), 1e-5))))
      await expectAlike(() => {
        const [dw, db] = [target(), target()]
        return [...layerNormBackwardOp([dy, h, w, mean, rstd, dw, db], attributes), dw, db]
      })
      await expectAlike(() => {
        const db = target()
        return [...layerNormBackwardOp([dy, h, w, mean, rstd, null, db], attributes), db]
      })
      for (const stream of [dh, null]) {
        await expectAlike(() => {
          const [dw, db] = [target(), target()]
          return [...addLayerNormBackwardOp([dy, stream, h, w, mean, rstd, dw, db], attributes), dw, db]
        })
        await expectAlike(() => {
          const dw = target()
          return [...addRmsNormBackwardOp([dy, stream, h, w, rmsRstd, dw], attributes), dw]
        })
      }
      for (const t of [dy, dh, h, w, mean, rstd, rmsRstd]) t.dispose()
    })
  }

  test('softmax and its logarithm', async () => {
    const [dy, x] = [matrix(), matrix()]
    const [p, log] = noGrad(() => [ops.softmax(x), ops.logSoftmax(x)])
    await expectAlike(() => softmaxBackwardOp([dy, p]))
    await expectAlike(() => logSoftmaxBackwardOp([dy, log]))
    for (const t of [dy, x, p, log]) t.dispose()
  })
})
