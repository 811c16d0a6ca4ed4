// Assertions that scripts/test-traps recognises: with its bug put back, a trap's test must fail in one
// of these, which shows that the numbers, and not a throw or a build error, gave the bug away.

import { AssertionError } from 'node:assert'

function fail(message: string): never {
  throw new AssertionError({ message: `numeric: ${message}` })
}

type Numbers = ArrayLike<number>

/** |actual - expected| <= atol + rtol x |expected| for every element; NaN never passes. */
export function expectClose(
  what: string,
  actual: Numbers,
  expected: Numbers,
  { rtol, atol }: { rtol: number; atol: number },
): void {
  if (actual.length !== expected.length) fail(`${what}: ${actual.length} values, expected ${expected.length}`)
  for (let i = 0; i < expected.length; i++) {
    const a = actual[i] ?? Number.NaN
    const e = expected[i] ?? Number.NaN
    if (!(Math.abs(a - e) <= atol + rtol * Math.abs(e)))
      fail(`${what}[${i}] is ${a}, expected ${e} within ${rtol} relative + ${atol}`)
  }
}

/** The same bits: zero and minus zero differ, NaN equals itself. */
export function expectBitwise(what: string, actual: Numbers, expected: Numbers): void {
  if (actual.length !== expected.length) fail(`${what}: ${actual.length} values, expected ${expected.length}`)
  for (let i = 0; i < expected.length; i++) {
    if (!Object.is(actual[i], expected[i]))
      fail(`${what}[${i}] is ${actual[i]}, expected ${expected[i]} exactly`)
  }
}

/** `lo <= actual <= hi`; NaN never passes. */
export function expectBetween(what: string, actual: number, lo: number, hi: number): void {
  if (!(actual >= lo && actual <= hi)) fail(`${what} is ${actual}, expected ${lo} .. ${hi}`)
}
