// The op matrix judged by results that are known to be wrong.

import { describe, expect, test } from 'vitest'
import { fillValues } from '../ops/cases.ts'
import { bitwiseDifference, compare, roundToBf16 } from '../ops/runner/compare.ts'
import { disagreements, ExecutionTally, goldenFailures } from '../ops/runner/coverage.ts'
import type { AnyOp } from '../ops/runner/library.ts'

const LIMITS = { rtol: 1e-3, atol: 1e-6 }

describe('compare', () => {
  test.each([
    ['a value off by more than the limits', [1, 2.003], [1, 2]],
    ['NaN for a number', [Number.NaN], [1]],
    ['a number for NaN', [1], [Number.NaN]],
    ['infinity for a number', [Number.POSITIVE_INFINITY], [1]],
    ['a number for infinity', [1e30], [Number.POSITIVE_INFINITY]],
    ['the other infinity', [Number.NEGATIVE_INFINITY], [Number.POSITIVE_INFINITY]],
    ['a missing value', [1], [1, 2]],
  ])('rejects %s', (_, actual, expected) => {
    expect(compare(actual, expected, LIMITS).ok).toBe(false)
    expect(compare(actual, expected, LIMITS).detail).not.toBe('')
  })

  test('accepts what is within the limits, or within the allowance', () => {
    expect(compare([1.0009, Number.POSITIVE_INFINITY], [1, Number.POSITIVE_INFINITY], LIMITS).ok).toBe(true)
    expect(compare([1.01, 2], [1, 2], LIMITS, 0.02).ok).toBe(true)
    expect(compare([1.03, 2], [1, 2], LIMITS, 0.02).ok).toBe(false)
  })

  test('tells bits apart', () => {
    expect(bitwiseDifference([0], [-0])).not.toBeNull()
    expect(bitwiseDifference([1, Number.NaN], [1, Number.NaN])).toBeNull()
    expect(bitwiseDifference([1], [1, 2])).not.toBeNull()
  })
})

test('roundToBf16 rounds to nearest, ties to even', () => {
  // bf16 has 8 bits of precision: near 1 its step is 2^-7
  expect(roundToBf16(1 + 2 ** -8)).toBe(1)
  expect(roundToBf16(1 + 3 * 2 ** -8)).toBe(1 + 2 ** -6)
  expect(roundToBf16(1 + 2 ** -8 + 2 ** -20)).toBe(1 + 2 ** -7)
  expect(roundToBf16(-Math.PI)).toBe(-3.140625)
})

test('outliers have at least one, and most values are N(0, 1)', () => {
  const values = fillValues({ shape: [4096], fill: 'outliers' }, 'f32', 'seed')
  const squares = values.reduce((s, v) => s + v * v, 0) / values.length
  expect(squares).toBeGreaterThan(0.9)
  expect(squares).toBeLessThan(2)
  expect(fillValues({ shape: [4096], fill: 'outliers' }, 'f32', 'seed')).toEqual(values)
})

describe('coverage', () => {
  const op = (name: string, signature: string, more: object = {}): AnyOp =>
    Object.assign(() => [], {
      definition: { name, inputs: [], outputs: [], reference: () => [], ...more },
      signature,
    }) as unknown as AnyOp

  test('names an op without cases, one without a kernel, and a kernel without an op', () => {
    const [a, b] = [op('a', 'a() -> (y)'), op('b', 'b() -> (y)')]
    expect(disagreements([a, b], ['a() -> (y)', 'c() -> (y)'], new Set([b]))).toEqual([
      'kernel without an op: c() -> (y)',
      'op without cases: a',
      'op without a kernel: b() -> (y)',
    ])
    expect(disagreements([a], ['a() -> (y)'], new Set([a]))).toEqual([])
  })

  test('a backward with a reference of its own is run by the cases of its forward, if there are any', () => {
    const [forward, backward] = [op('a', 'a() -> (y)'), op('a.backward', 'a.backward() -> (dx)')]
    const kernels = ['a() -> (y)', 'a.backward() -> (dx)']
    expect(disagreements([forward, backward], kernels, new Set([forward]))).toEqual([])
    expect(disagreements([backward], kernels.slice(1), new Set())).toEqual(['op without cases: a.backward'])
  })

  test('names an op whose gradient nobody defined', () => {
    const lost = op('lost', 'lost() -> (y)', { reference: undefined })
    expect(disagreements([lost], ['lost() -> (y)'], new Set([lost]))).toEqual([
      'op without a vjp, and without differentiable: false: lost',
    ])
  })

  test('an op without a golden fails, unless its table says why; not both', () => {
    const why = 'nothing to compare with'
    expect(goldenFailures('a', { goldens: 0 })).toEqual([
      expect.stringMatching(/^no golden: .*\/a\.safetensors/),
    ])
    expect(goldenFailures('a', { goldens: 0, noGolden: why })).toEqual([])
    expect(goldenFailures('a', { goldens: 2 })).toEqual([])
    expect(goldenFailures('a', { goldens: 2, noGolden: why })).toHaveLength(1)
    expect(goldenFailures('a.dx', { goldens: 0, wholeHasGradients: true })).toEqual([])
    expect(goldenFailures('a.dx', { goldens: 0, wholeHasGradients: false })).toHaveLength(1)
  })

  test('a variant that no device ran is named', () => {
    const tally = new ExecutionTally()
    const variants = (executions: number) => [
      { signature: 's', executions, variants: [{ level: 'avx2', dtypes: 2, executions }] },
    ]
    tally.add(variants(0))
    expect(tally.neverRun()).toEqual(['s [avx2]'])
    tally.add(variants(3))
    expect(tally.neverRun()).toEqual([])
    expect(tally.table()).toMatch(/3 +avx2 +s/)
  })
})
