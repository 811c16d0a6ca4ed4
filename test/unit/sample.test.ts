// Sampling from vocabularies of several chunks, which the matrix cannot hold: its reference compares all
// pairs of tokens.

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Device, ops, scope, tensor } from '../../lib/index.ts'
import type { SampleOptions } from '../../lib/ops/sample.ts'
import { random } from '../ops/random.ts'

const SIZE = 40_000 // chunks of 16,384
let device: Device

beforeAll(() => {
  device = Device.open({ threads: 2 }).makeDefault()
})
afterAll(() => device.close())

const normals = (seed: string): number[] => {
  const { normal } = random(seed)
  return Array.from({ length: SIZE }, () => Math.fround(2 * normal()))
}
const keyOf = (row: number): number[] => [row, 7, 3, row * row]

type Plain = Omit<SampleOptions, 'history'> & { readonly history?: readonly number[] }

async function draw(rows: readonly number[][], keys: readonly number[][], { history, ...options }: Plain) {
  const { ids, logprobs } = scope(() =>
    ops.sample(
      tensor(rows.flat(), { shape: [rows.length, SIZE], dtype: 'f32' }),
      tensor(keys.flat(), { shape: [rows.length, 4], dtype: 'u32' }),
      {
        ...options,
        history: history
          ? tensor(
              rows.flatMap(() => [...history]),
              { shape: [rows.length, history.length], dtype: 'i32' },
            )
          : null,
      },
    ),
  )
  const result = { ids: Array.from(await ids.toArray()), logprobs: Array.from(await logprobs.toArray()) }
  ids.dispose()
  logprobs.dispose()
  return result
}

async function uniformOf(key: readonly number[]): Promise<number> {
  const u = scope(() => ops.uniform([1], tensor(key, { dtype: 'u32' })))
  const value = await u.item()
  u.dispose()
  return value
}

/** By sorting, in float64, from Hugging Face's definitions. */
function expected(row: readonly number[], u: number, o: Plain): number {
  const { temperature = 1, topK = 0, topP = 1, minP = 0, history = [], repetitionPenalty: penalty = 1 } = o
  const seen = new Set(history)
  const z = row.map((x, i) => (seen.has(i) ? (x > 0 ? x / penalty : x * penalty) : x))
  const order = z.map((x, i) => ({ x, i })).sort((a, b) => b.x - a.x || a.i - b.i)
  const top = order[0]?.x ?? 0
  if (temperature === 0) return order[0]?.i ?? -1
  let kept = order.map(({ x, i }) => ({ p: Math.exp((x - top) / temperature), x, i }))
  const border = kept[topK - 1]?.x ?? Number.NEGATIVE_INFINITY
  if (topK > 0) kept = kept.filter(({ x }) => x >= border)
  const total = kept.reduce((sum, { p }) => sum + p, 0)
  let before = 0
  kept = kept.filter(({ p }) => {
    const keep = topP === 1 || before < topP * total
    before += p
    return keep
  })
  kept = kept.filter(({ p }) => p >= minP).sort((a, b) => a.i - b.i)
  const mass = kept.reduce((sum, { p }) => sum + p, 0)
  let sum = 0
  for (const { p, i } of kept) {
    sum += p
    if (sum > u * mass) return i
  }
  return kept.at(-1)?.i ?? -1
}

const logprob = (row: readonly number[], id: number): number => {
  const top = row.reduce((a, b) => Math.max(a, b))
  return (row[id] ?? Number.NaN) - top - Math.log(row.reduce((sum, x) => sum + Math.exp(x - top), 0))
}

describe('sampling over several chunks', () => {
  const row = normals('sample')
  // the same few values over and over: borders fall among thousands of ties
  const coarse = row.map((x) => Math.round(x))
  const history = Array.from({ length: 500 }, (_, i) => (i * 977) % SIZE)
  const kinds: Record<string, Plain> = {
    greedy: { temperature: 0 },
    plain: {},
    'top k': { topK: 50, temperature: 0.8 },
    'top p': { topP: 0.9 },
    'top p of few': { topP: 0.02 },
    'min p': { minP: 0.01, temperature: 1.3 },
    penalty: { temperature: 0, history, repetitionPenalty: 1.5 },
    all: { temperature: 0.9, topK: 3000, topP: 0.8, minP: 0.001, history, repetitionPenalty: 1.2 },
  }
  for (const [name, options] of Object.entries(kinds)) {
    test.each([
      ['normal', row],
      ['many ties', coarse],
    ] as const)(
      `${name}, %s logits: the tokens and log-probabilities of a sort in float64`,
      async (_, logits) => {
        const keys = Array.from({ length: 12 }, (_, i) => keyOf(i))
        const { ids, logprobs } = await draw(
          keys.map(() => logits),
          keys,
          options,
        )
        for (const [i, key] of keys.entries()) {
          expect(ids[i], `row ${i}`).toBe(expected(logits, await uniformOf(key), options))
          expect(Math.abs((logprobs[i] ?? Number.NaN) - logprob(logits, ids[i] ?? -1))).toBeLessThan(1e-5)
        }
        const alone = await draw([logits], [keys[5] ?? []], options)
        expect(alone).toEqual({ ids: [ids[5]], logprobs: [logprobs[5]] })
      },
    )
  }

  test('the largest in the last chunk, and equal ones: the first', async () => {
    const flat = new Array<number>(SIZE).fill(-1)
    flat[39_990] = 2
    expect((await draw([flat], [keyOf(1)], { temperature: 0 })).ids).toEqual([39_990])
    flat[20_000] = 2
    expect((await draw([flat], [keyOf(1)], { temperature: 0 })).ids).toEqual([20_000])
    expect((await draw([flat], [keyOf(1)], { topP: 1e-6 })).ids).toEqual([20_000])
  })

  test('a NaN or +inf anywhere in a row, or nothing finite, is refused', async () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const spoilt = [...row]
      spoilt[33_333] = bad
      await expect(draw([row, spoilt], [keyOf(1), keyOf(2)], {})).rejects.toThrow(
        /row 1 of logits has no largest finite value/,
      )
    }
    const nothing = new Array<number>(SIZE).fill(Number.NEGATIVE_INFINITY)
    await expect(draw([nothing], [keyOf(1)], { topP: 0.9 })).rejects.toThrow(/row 0/)
    nothing[17_000] = -3
    expect((await draw([nothing], [keyOf(1)], { topP: 0.9 })).ids).toEqual([17_000])
  })
})
