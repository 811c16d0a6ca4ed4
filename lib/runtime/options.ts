import { ConfigError, ValueError } from './errors.ts'

const MAX_SHOWN = 80 // UTF-16 units of a value in an error

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const substitute = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(substitute, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}

/** The known name closest to `name`, when it is close enough to be a slip. */
export function nearestName(name: string, known: readonly string[]): string | undefined {
  if (name.length > MAX_SHOWN) return undefined
  let best: string | undefined
  let least = Math.max(2, Math.floor(name.length / 2)) + 1
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase())
    if (distance < least) {
      least = distance
      best = candidate
    }
  }
  return best
}

/**
 * Rejects keys that `where` does not know, naming the nearest one it does.
 * @throws ConfigError
 */
export function checkOptions(where: string, options: unknown, known: readonly string[]): void {
  if (options === undefined) return
  if (typeof options !== 'object' || options === null) {
    throw new ConfigError(`${where}: options must be an object, received ${String(options)}`)
  }
  for (const key of Object.keys(options)) {
    if (known.includes(key)) continue
    const near = nearestName(key, known)
    throw new ConfigError(
      `${where}: unknown option '${key.slice(0, MAX_SHOWN)}'` +
        (near === undefined ? `; known: ${known.join(', ')}` : `; did you mean '${near}'?`),
    )
  }
}

/**
 * {@link checkOptions} where options may not be left out.
 * @throws ConfigError
 */
export function checkGiven(where: string, options: unknown, known: readonly string[]): void {
  if (options === undefined) throw new ConfigError(`${where}: options are needed: ${known.join(', ')}`)
  checkOptions(where, options, known)
}

/**
 * A path, or its name's.
 * @throws ConfigError for anything but a text that is not empty
 */
export function checkPath(where: string, name: string, value: unknown): string {
  if (typeof value === 'string' && value !== '') return value
  throw new ConfigError(`${where}: ${name} must be a path, received ${shown(value)}`)
}

/**
 * An integer in [min, max].
 * @throws ValueError for anything else, BigInt and NaN included
 */
export function checkInteger(where: string, name: string, value: unknown, min: number, max: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) {
    return value
  }
  throw new ValueError(`${where}: ${name} must be an integer from ${min} to ${max}, received ${shown(value)}`)
}

/** Bounds of a number; those left out do not bind. */
export interface NumberRange {
  readonly from?: number
  readonly above?: number
  readonly to?: number
  readonly below?: number
}

/**
 * A finite number within bounds.
 * @throws ValueError for anything else, BigInt and NaN included
 */
export function checkNumber(where: string, name: string, value: unknown, range: NumberRange): number {
  const { from = -Infinity, above = -Infinity, to = Infinity, below = Infinity } = range
  if (typeof value === 'number' && Number.isFinite(value)) {
    if (value >= from && value > above && value <= to && value < below) return value
  }
  const bounds = Object.entries(range).map(([word, bound]) => `${word} ${bound}`)
  throw new ValueError(`${where}: ${name} must be a number ${bounds.join(' ')}, received ${shown(value)}`)
}

/**
 * One of some names.
 * @throws ConfigError
 */
export function checkName<T extends string>(
  where: string,
  name: string,
  value: unknown,
  known: readonly T[],
): T {
  const found = known.find((one) => one === value)
  if (found !== undefined) return found
  throw new ConfigError(`${where}: ${name} must be one of ${known.join(', ')}, received ${shown(value)}`)
}

/**
 * An AbortSignal, or nothing.
 * @throws ValueError
 */
export function checkSignal(where: string, value: unknown): AbortSignal | undefined {
  const signal = value as AbortSignal | undefined
  if (signal === undefined || typeof signal?.throwIfAborted === 'function') return signal
  throw new ValueError(`${where}: signal must be an AbortSignal, received ${shown(value)}`)
}

/** A value as errors show it: JSON where it can be, and short. */
export function shown(value: unknown): string {
  if (typeof value === 'bigint') return `${value}n`
  if (typeof value === 'number') return String(value)
  let text: string
  try {
    // of a long text only the beginning, before it is escaped
    const part = typeof value === 'string' ? value.slice(0, MAX_SHOWN + 1) : value
    text = JSON.stringify(part) ?? String(value)
  } catch {
    text = Object.prototype.toString.call(value) // cyclic, or deeper than the stack
  }
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}...` : text
}
