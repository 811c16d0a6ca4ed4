// Trap 17: how the next token is drawn, from the op to the whole of a batch.

import { afterAll, describe, test } from 'vitest'
import { type DecodedStep, decode } from '../../lib/generate/decoding.ts'
import { completeGenerateOptions, type GenerateOptions } from '../../lib/generate/options.ts'
import { Device, Llama, noGrad, randomKey, scope, type Tensor, tensor } from '../../lib/index.ts'
import { type SampleOptions, sample } from '../../lib/ops/sample.ts'
import { withReference } from '../../lib/tensor/mode.ts'
import { random } from '../ops/random.ts'
import { expectBetween, expectBitwise } from './numeric.ts'

const device = Device.open({ threads: 2 }).makeDefault()
afterAll(() => device.close())

const VOCABULARY = 37

/** Ids that a row of logits gives for each of so many keys. */
async function draw(
  logits: readonly number[],
  rows: number,
  options: SampleOptions & { seen?: readonly number[] },
): Promise<number[]> {
  const { seen, ...rest } = options
  const ids = scope(() => {
    const z = tensor(new Array(rows).fill(logits).flat(), { shape: [rows, logits.length], dtype: 'f32' })
    const keys = Array.from({ length: rows }, (_, row) => [17, 0, row, 0]).flat()
    const key = tensor(keys, { shape: [rows, 4], dtype: 'u32' })
    const history =
      seen === undefined
        ? null
        : tensor(new Array(rows).fill(seen).flat(), { shape: [rows, seen.length], dtype: 'i32' })
    return sample(z, key, { ...rest, history }).ids
  })
  const values = Array.from(await ids.toArray())
  ids.dispose()
  return values
}

const forms = [
  ['the kernel', <T>(fn: () => Promise<T>) => fn()],
  // enqueued before it returns, and read by the caller
  ['the reference', <T>(fn: () => Promise<T>) => withSynchronous(fn)],
] as const

/** `withReference` around what an async function does before its first await. */
function withSynchronous<T>(fn: () => Promise<T>): Promise<T> {
  return withReference(() => ({ promise: fn() })).promise
}

describe.each(forms)('trap 17: %s', (form, on) => {
  const { normal } = random('trap 17')
  const logits = Array.from({ length: VOCABULARY }, () => 2 * normal())
  const best = logits.indexOf(Math.max(...logits))

  test(`trap 17 temperature 0 is greedy: ${form}`, async () => {
    const ids = await on(() => draw(logits, 64, { temperature: 0 }))
    expectBitwise('ids', ids, new Array(64).fill(best))
  })

  test(`trap 17 top-p keeps at least one: ${form}`, async () => {
    const ids = await on(() => draw(logits, 64, { topP: 1e-6 }))
    expectBitwise('ids', ids, new Array(64).fill(best))
  })

  test(`trap 17 the penalty divides positive logits and multiplies negative ones: ${form}`, async () => {
    const options = { temperature: 0, repetitionPenalty: 2, seen: [0, -1, 0] }
    for (const [z, expected] of [
      [[3, 1.6, 1.4], 1], // 3 / 2 falls behind 1.6; named twice, penalised once
      [[3, 1.4, 1.2], 0],
      [[-1, -1.9, -3], 1], // -1 x 2
      [[-1, -2.1, -3], 0],
      [[0, -0.1, -3], 0],
    ] as const) {
      expectBitwise(`ids of ${z}`, await on(() => draw(z, 1, options)), [expected])
    }
  })
})

const CONFIG = {
  vocabSize: VOCABULARY,
  hiddenSize: 32,
  intermediateSize: 48,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  initializerRange: 0.3,
} as const
const NEW = 12
const { integer } = random('trap 17 prompts')
const prompts = [4, 9, 6].map((length) => Int32Array.from({ length }, () => integer(0, VOCABULARY)))
const queue = device.createQueue({ priority: 1 })

/** Tokens of each row. */
async function generate(
  model: Llama,
  rows: readonly Int32Array[],
  options: GenerateOptions,
): Promise<number[][]> {
  const longest = Math.max(...rows.map(({ length }) => length))
  const padding = rows.map(({ length }) => longest - length)
  using cache = model.makeCache({ batch: rows.length, capacity: longest + NEW, padding })
  const steps: DecodedStep[] = []
  const padded = rows.map((ids, row) => Int32Array.of(...new Array(padding[row]).fill(0), ...ids))
  const settings = completeGenerateOptions('test', { maxNewTokens: NEW, ...options })
  for await (const step of decode({
    model,
    prompts: padded,
    cache,
    reading: { standing: 0 },
    histories: rows,
    settings,
    queue,
  }))
    steps.push(step)
  return rows.map((_, row) => steps.map(({ ids }) => ids[row] as number))
}

const warm = { temperature: 1.2, topP: 0.95, repetitionPenalty: 1.2 }

test('trap 17 a seed repeats, another one does not', async () => {
  using model = new Llama(CONFIG, { seed: 17 })
  const first = (await generate(model, prompts.slice(0, 1), { ...warm, seed: 5 })).flat()
  const again = (await generate(model, prompts.slice(0, 1), { ...warm, seed: 5 })).flat()
  const other = (await generate(model, prompts.slice(0, 1), { ...warm, seed: 6 })).flat()
  expectBitwise('the same seed', again, first)
  expectBetween('tokens alike with another', other.filter((id, i) => id === first[i]).length, 0, NEW - 1)
})

test('trap 17 a batch gives what its rows give alone', async () => {
  using model = new Llama(CONFIG, { seed: 18 })
  const batch = await generate(model, prompts, { ...warm, seed: 70 })
  for (const [row, prompt] of prompts.entries()) {
    const single = await generate(model, [prompt], { ...warm, seed: 70 + row })
    expectBitwise(`row ${row}`, batch[row] ?? [], single.flat())
  }
})

test("trap 17 the penalty is for the answer's own tokens, too", async () => {
  using model = new Llama(CONFIG, { seed: 19 })
  const prompt = prompts[1] as Int32Array
  const answer = (await generate(model, [prompt], { temperature: 0, repetitionPenalty: 3 })).flat()
  const expected: number[] = []
  for (let step = 0; step < NEW; step++) {
    const ids = [...prompt, ...expected]
    const all: Tensor = noGrad(() =>
      scope(() => model.forward(tensor(ids, { shape: [1, ids.length], dtype: 'i32' }))),
    )
    const z = Array.from((await all.toArray()).subarray(-VOCABULARY))
    all.dispose()
    for (const id of new Set(ids)) z[id] = (z[id] ?? 0) > 0 ? (z[id] ?? 0) / 3 : (z[id] ?? 0) * 3
    expected.push(z.indexOf(Math.max(...z)))
  }
  expectBitwise('ids', answer, expected)
  expectBetween('different ones', new Set(answer).size, NEW / 2, NEW)
})

// keys are what `randomKey` makes of a seed: the op draws nothing else
test('trap 17 the op draws from its key alone', async () => {
  const logits = new Array<number>(VOCABULARY).fill(0)
  const one = (step: number): Promise<number[]> => {
    const ids = scope(() => {
      const key = randomKey(17, { step }).reshape([1, 4])
      return sample(tensor(logits, { shape: [1, VOCABULARY], dtype: 'f32' }), key).ids
    })
    return ids.toArray().then((values) => {
      ids.dispose()
      return Array.from(values)
    })
  }
  const draws = await Promise.all(Array.from({ length: 40 }, (_, step) => one(step)))
  const again = await Promise.all(Array.from({ length: 40 }, (_, step) => one(step)))
  expectBitwise('the same keys', again.flat(), draws.flat())
  expectBetween('different tokens', new Set(draws.flat()).size, 15, VOCABULARY)
})
