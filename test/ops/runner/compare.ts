// Numbers against numbers. Everything is compared in float64; nothing here touches the library.

export type Limits = { readonly rtol: number; readonly atol: number }

export type Comparison = {
  readonly ok: boolean
  /** Largest absolute difference; Infinity where one side is NaN or an unequal infinity. */
  readonly worst: number
  /** Where the limits are exceeded most, for the message. */
  readonly detail: string
}

/** The difference of two numbers; equal infinities and two NaNs have none. */
function difference(a: number, e: number): number {
  if (Object.is(a, e) || a === e) return 0
  const d = Math.abs(a - e)
  return Number.isNaN(d) ? Number.POSITIVE_INFINITY : d
}

/**
 * |actual - expected| <= atol + rtol x |expected| for every element, or `allowance` where that is more
 * (twice PyTorch's own largest error, where it is known).
 */
export function compare(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  { rtol, atol }: Limits,
  allowance = 0,
): Comparison {
  if (actual.length !== expected.length) {
    return {
      ok: false,
      worst: Number.POSITIVE_INFINITY,
      detail: `${actual.length} values, expected ${expected.length}`,
    }
  }
  let worst = 0
  let excess = 0
  let at = -1
  for (let i = 0; i < expected.length; i++) {
    const a = actual[i] ?? Number.NaN
    const e = expected[i] ?? Number.NaN
    const d = difference(a, e)
    if (d > worst) worst = d
    const limit = Number.isFinite(e) ? Math.max(atol + rtol * Math.abs(e), allowance) : 0
    if (d > limit && d - limit > excess) {
      excess = d - limit
      at = i
    }
  }
  const ok = at < 0
  const detail = ok
    ? ''
    : `[${at}] is ${actual[at]}, expected ${expected[at]} (rtol ${rtol}, atol ${atol}${allowance > 0 ? `, allowance ${allowance}` : ''})`
  return { ok, worst, detail }
}

/** Where two arrays' bits differ first, or null. */
export function bitwiseDifference(a: ArrayLike<number>, b: ArrayLike<number>): string | null {
  if (a.length !== b.length) return `${a.length} and ${b.length} values`
  for (let i = 0; i < a.length; i++) if (!Object.is(a[i], b[i])) return `[${i}] is ${a[i]} and ${b[i]}`
  return null
}

const f32 = new Float32Array(1)
const u32 = new Uint32Array(f32.buffer)

/** The nearest bf16, ties to even; as a number. Finite values only need apply. */
export function roundToBf16(value: number): number {
  f32[0] = value
  const bits = u32[0] ?? 0
  if ((bits & 0x7f800000) === 0x7f800000) return f32[0] ?? 0
  u32[0] = (bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000
  return f32[0] ?? 0
}

/** Values as `dtype` holds them, in float64. */
export function roundTo(values: ArrayLike<number>, dtype: string): Float64Array {
  const round = dtype === 'bf16' ? roundToBf16 : dtype === 'f32' ? Math.fround : (x: number) => x
  return Float64Array.from(values, round)
}
