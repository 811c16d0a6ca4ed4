// What a command of the command line is, and how its arguments are read.

import { type ParseArgsConfig, parseArgs } from 'node:util'
import { nearestName } from '../runtime/options.ts'

/** Wrong arguments: the process ends with status 2. */
export class UsageError extends Error {}

export interface OptionSpec {
  readonly type: 'string' | 'number' | 'boolean'
  /** May be given several times, or with several values. */
  readonly many?: boolean
  readonly value?: string
  readonly help: string
}

export interface Command {
  readonly summary: string
  readonly options: Readonly<Record<string, OptionSpec>>
  /** @returns the status the process ends with */
  run(args: Arguments): Promise<number>
}

/** Parsed arguments; every reader names the option when its value cannot be. */
export class Arguments {
  readonly #values: ReadonlyMap<string, readonly (string | boolean)[]>

  constructor(values: ReadonlyMap<string, readonly (string | boolean)[]>) {
    this.#values = values
  }

  /** These, and others where these say nothing. */
  or(others: ReadonlyMap<string, readonly (string | boolean)[]>): Arguments {
    return new Arguments(new Map([...others, ...this.#values]))
  }

  has(name: string): boolean {
    return this.#values.has(name)
  }

  flag(name: string): boolean {
    return this.#values.get(name)?.at(-1) === true
  }

  text(name: string): string | undefined {
    const value = this.#values.get(name)?.at(-1)
    return typeof value === 'string' ? value : undefined
  }

  required(name: string): string {
    return this.text(name) ?? fail(`--${name} is needed`)
  }

  texts(name: string): string[] {
    return (this.#values.get(name) ?? []).filter((value) => typeof value === 'string')
  }

  number(name: string): number | undefined {
    const text = this.text(name)
    return text === undefined ? undefined : numberOf(name, text)
  }

  oneOf<T extends string>(name: string, known: readonly T[]): T | undefined {
    const text = this.text(name)
    if (text === undefined) return undefined
    return (
      known.find((value) => value === text) ??
      fail(`--${name} must be one of ${known.join(', ')}, received '${text}'`)
    )
  }
}

function numberOf(name: string, text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value)) fail(`--${name} must be a number, received '${text}'`)
  return value
}

export function fail(message: string): never {
  throw new UsageError(message)
}

/** @throws UsageError naming the argument, and the nearest known name */
export function readArguments(command: Command, argv: readonly string[]): Arguments {
  const names = Object.keys(command.options)
  const options: NonNullable<ParseArgsConfig['options']> = {}
  for (const [name, { type }] of Object.entries(command.options)) {
    options[name] = { type: type === 'boolean' ? 'boolean' : 'string', multiple: true }
  }
  const { tokens } = parseArgs({
    args: [...argv],
    options,
    strict: false,
    allowPositionals: true,
    tokens: true,
  })
  const values = new Map<string, (string | boolean)[]>()
  let last: string | undefined
  for (const token of tokens) {
    if (token.kind === 'positional') {
      // `--data a b c`: the shell expands a glob to several
      if (last === undefined || !command.options[last]?.many) fail(`unexpected argument '${token.value}'`)
      values.get(last)?.push(token.value)
      continue
    }
    if (token.kind !== 'option') continue
    const spec = Object.hasOwn(command.options, token.name) ? command.options[token.name] : undefined
    if (spec === undefined) {
      const near = nearestName(token.name, names)
      fail(`unknown option '${token.rawName}'${near === undefined ? '' : `; did you mean '--${near}'?`}`)
    }
    if (spec.type !== 'boolean' && token.value === undefined) fail(`--${token.name} needs a value`)
    if (spec.type === 'boolean' && token.value !== undefined) fail(`--${token.name} takes no value`)
    if (spec.type === 'number') numberOf(token.name, token.value as string)
    const list = spec.many ? (values.get(token.name) ?? []) : []
    list.push(token.value ?? true)
    values.set(token.name, list)
    last = token.name
  }
  return new Arguments(values)
}

/** The text of `--help`. */
export function helpOf(name: string, command: Command): string {
  const rows = Object.entries(command.options).map(
    ([option, { type, value = type === 'number' ? 'n' : 'text', help }]) =>
      [`--${option}${type === 'boolean' ? '' : ` <${value}>`}`, help] as const,
  )
  const width = Math.max(...rows.map(([left]) => left.length))
  const lines = rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`)
  return `fuselm ${name}: ${command.summary}\n\n${lines.join('\n')}\n`
}
