// Reads values out of parsed JSON, each with its place in the error.

import { FormatError } from '../runtime/errors.ts'
import { shown } from '../runtime/options.ts'

const MAX_DEPTH = 64

export type JsonObject = { readonly [key: string]: unknown }

/** A value of a JSON file and where it stands; asks for what it should be. */
export class JsonValue {
  readonly value: unknown
  /** `tokenizer.json: model.vocab` */
  readonly where: string

  readonly #depth: number

  constructor(value: unknown, where: string, depth = 0) {
    this.value = value
    this.where = where
    this.#depth = depth
  }

  fail(expected: string): never {
    throw new FormatError(
      `${this.where}: expected ${expected}, found ${this.value === undefined ? 'nothing' : shown(this.value)}`,
    )
  }

  get missing(): boolean {
    return this.value === undefined || this.value === null
  }

  object(): JsonObject {
    const { value } = this
    if (typeof value !== 'object' || value === null || Array.isArray(value)) this.fail('an object')
    return value as JsonObject
  }

  get(key: string): JsonValue {
    const object = this.object()
    return this.#part(Object.hasOwn(object, key) ? object[key] : undefined, `.${key}`)
  }

  items(): JsonValue[] {
    if (!Array.isArray(this.value)) this.fail('an array')
    return (this.value as unknown[]).map((item, i) => this.#part(item, `[${i}]`))
  }

  #part(value: unknown, place: string): JsonValue {
    // parts that hold parts are read by recursion
    if (this.#depth === MAX_DEPTH)
      throw new FormatError(`${this.where.slice(0, 200)}...: expected fewer levels`)
    return new JsonValue(value, this.where + place, this.#depth + 1)
  }

  string(): string {
    if (typeof this.value !== 'string') this.fail('a string')
    return this.value
  }

  integer(min: number, max: number): number {
    const { value } = this
    if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
      this.fail(`an integer from ${min} to ${max}`)
    }
    return value
  }

  /** `fallback` when it is missing or null. */
  boolean(fallback: boolean): boolean {
    if (this.missing) return fallback
    if (typeof this.value !== 'boolean') this.fail('true or false')
    return this.value
  }

  oneOf<T extends string>(...known: readonly T[]): T {
    const found = known.find((name) => name === this.value)
    return found ?? this.fail(`one of ${known.join(', ')}`)
  }
}

/**
 * Parses JSON.
 * @throws FormatError naming the place
 */
export function parseJson(text: string, where: string): JsonValue {
  try {
    return new JsonValue(JSON.parse(text), where)
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    throw new FormatError(`${where}: expected JSON, found ${error.message.slice(0, 200)}`)
  }
}
