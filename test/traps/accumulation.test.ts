// Trap 1: a step over several micro-batches has the gradients of the whole batch, however it is cut.

import { afterAll, test } from 'vitest'
import {
  type CausalLm,
  countTargets,
  Device,
  Gpt2,
  Llama,
  scope,
  type Tensor,
  tensor,
} from '../../lib/index.ts'
import { random } from '../ops/random.ts'
import { expectBetween, expectBitwise } from './numeric.ts'

const device = Device.open({ threads: 2 }).makeDefault()
afterAll(() => device.close())

const [ROWS, LENGTH, VOCABULARY] = [6, 13, 29]
// ragged: row r has LENGTHS[r] tokens, the rest is padding; the last has a prompt that is not learnt
const LENGTHS = [13, 3, 8, 2, 11, 9]
const PROMPT = 5

const { integer } = random('trap 1')
const ids = Int32Array.from({ length: ROWS * LENGTH }, () => integer(0, VOCABULARY))
const labels = ids.map((id, i) => {
  const [row, t] = [Math.floor(i / LENGTH), i % LENGTH]
  const padding = t >= (LENGTHS[row] ?? 0)
  return padding || (row === ROWS - 1 && t < PROMPT) ? -100 : id
})

const models = {
  llama: (dtype: 'f32' | 'f64') =>
    new Llama(
      {
        vocabSize: VOCABULARY,
        hiddenSize: 16,
        intermediateSize: 24,
        numHiddenLayers: 2,
        numAttentionHeads: 2,
        initializerRange: 0.3,
      },
      { dtype, seed: 1 },
    ),
  gpt2: (dtype: 'f32' | 'f64') =>
    new Gpt2(
      { vocabSize: VOCABULARY, nEmbd: 16, nLayer: 2, nHead: 2, nPositions: LENGTH, initializerRange: 0.3 },
      { dtype, seed: 1 },
    ),
}

/** Gradients of one step, cut into micro-batches of so many rows. */
async function gradients(
  model: CausalLm,
  cuts: readonly number[],
  total: number | null,
): Promise<{ loss: number; byName: Map<string, Float64Array> }> {
  const losses: Tensor[] = []
  let row = 0
  for (const rows of cuts) {
    const part = (values: Int32Array) =>
      tensor(values.subarray(row * LENGTH, (row + rows) * LENGTH), { shape: [rows, LENGTH], dtype: 'i32' })
    losses.push(
      scope(() => {
        const scale = total === null ? null : tensor(1 / total)
        const loss = model.loss(part(ids), part(labels), { scale })
        loss.backward()
        return loss
      }),
    )
    row += rows
  }
  let loss = 0
  for (const t of losses) {
    loss += await t.item()
    t.dispose()
  }
  const byName = new Map<string, Float64Array>()
  for (const [name, parameter] of model.namedParameters()) {
    byName.set(name, Float64Array.from((await parameter.grad?.toArray()) ?? []))
    parameter.grad = null
  }
  return { loss, byName }
}

function relativeL2(actual: Float64Array, expected: Float64Array): number {
  let error = 0
  let norm = 0
  expected.forEach((e, i) => {
    error += ((actual[i] ?? Number.NaN) - e) ** 2
    norm += e ** 2
  })
  return Math.sqrt(error / norm)
}

// float64 by the references, float32 by the kernels: the factor is float32 in both
const cases = Object.entries(models).flatMap(([name, make]) => [
  { name, make, dtype: 'f64', limit: 1e-7 } as const,
  { name, make, dtype: 'f32', limit: 5e-6 } as const,
])
for (const { name, make, dtype, limit } of cases) {
  test(`trap 1 gradients of ${name} in ${dtype} are equal for every split into micro-batches`, async () => {
    using model = make(dtype)
    const total = countTargets(labels, LENGTH)
    // closed form: each row has its length - 1 targets, the last one those after its prompt
    expectBetween('targets', total, 12 + 2 + 7 + 1 + 10 + 4, 12 + 2 + 7 + 1 + 10 + 4)
    const whole = await gradients(model, [ROWS], null) // the mean over the whole batch
    for (const cuts of [[6], [3, 3], [1, 5], [2, 2, 2], [4, 1, 1], [1, 1, 1, 1, 1, 1]]) {
      const split = await gradients(model, cuts, total)
      expectBetween(`loss of ${cuts}`, split.loss / whole.loss, 1 - limit, 1 + limit)
      for (const [parameter, values] of whole.byName) {
        expectBetween(
          `${parameter} of ${cuts}`,
          relativeL2(split.byName.get(parameter) ?? new Float64Array(), values),
          0,
          limit,
        )
      }
    }
  })
}

test('trap 1 padding takes no part: its ids do not matter', async () => {
  using model = models.llama('f64')
  const before = await gradients(model, [2, 4], countTargets(labels, LENGTH))
  const kept = ids.slice()
  ids.forEach((id, i) => {
    if (i % LENGTH >= (LENGTHS[Math.floor(i / LENGTH)] ?? 0)) ids[i] = (id + 1) % VOCABULARY
  })
  const after = await gradients(model, [2, 4], countTargets(labels, LENGTH))
  ids.set(kept)
  // the embedding's rows of padding ids get zeros in another place: only what was read matters
  for (const [name, values] of before.byName) expectBitwise(name, after.byName.get(name) ?? [], values)
})
