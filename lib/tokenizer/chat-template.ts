// Chat templates: Jinja as model folders bring it, under a budget of steps and output, since a template
// is a program that came from elsewhere.

import * as jinja from '@huggingface/jinja'
import { FormatError, ValueError } from '../runtime/errors.ts'

interface RuntimeValue {
  readonly value: unknown
}

// What is used of the package; its own declarations do not resolve under node16 and nodenext.
interface Jinja {
  tokenize(source: string, options: { lstrip_blocks: boolean; trim_blocks: boolean }): unknown
  parse(tokens: unknown): unknown
  Environment: new () => { set(name: string, value: unknown): unknown }
  Interpreter: new (
    environment: unknown,
  ) => {
    run(program: unknown): RuntimeValue
    evaluate(statement: unknown, environment: unknown): RuntimeValue
  }
}

const { tokenize, parse, Environment, Interpreter } = jinja as unknown as Jinja

const MAX_TEMPLATE = 1 << 18 // UTF-16 units
const MAX_STEPS = 100_000 // items of lists count; a conversation of a hundred turns takes some thousands
const MAX_TEXT = 8 << 20 // UTF-16 units of any value made on the way
const MAX_ITEMS = 10_000 // of any list made on the way

export interface ChatMessage {
  readonly role: string
  readonly content: string | null
  readonly [field: string]: unknown
}

class Budget extends Interpreter {
  #steps = 0

  override evaluate(statement: unknown, environment: unknown): RuntimeValue {
    this.#spend(1)
    const result = super.evaluate(statement, environment)
    const { value } = result
    if (typeof value === 'string' && value.length > MAX_TEXT) {
      throw new ValueError(`expected texts of at most ${MAX_TEXT} characters, found ${value.length}`)
    }
    if (Array.isArray(value)) {
      if (value.length > MAX_ITEMS) {
        throw new ValueError(`expected lists of at most ${MAX_ITEMS} items, found ${value.length}`)
      }
      this.#spend(value.length) // a loop makes a scope for each before it begins
    }
    return result
  }

  #spend(steps: number): void {
    this.#steps += steps
    if (this.#steps > MAX_STEPS) throw new ValueError(`expected at most ${MAX_STEPS} steps, found more`)
  }
}

function boundedRange(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop]
  if (step === 0) throw new ValueError('range: expected a step other than 0')
  const count = Math.max(0, Math.ceil((to - from) / step))
  if (!(count <= MAX_ITEMS)) {
    throw new ValueError(`range: expected at most ${MAX_ITEMS} items, found ${count}`)
  }
  return Array.from({ length: count }, (_, i) => from + i * step)
}

function pad(value: number): string {
  return String(value).padStart(2, '0')
}

const MONTHS = 'January February March April May June July August September October November December'.split(
  ' ',
)
const DAYS = 'Sunday Monday Tuesday Wednesday Thursday Friday Saturday'.split(' ')

/** The parts of strftime that templates use, of local time. */
function strftime(format: string): string {
  const now = new Date()
  const month = MONTHS[now.getMonth()] as string
  const day = DAYS[now.getDay()] as string
  const parts: Readonly<Record<string, string>> = {
    Y: String(now.getFullYear()),
    m: pad(now.getMonth() + 1),
    d: pad(now.getDate()),
    H: pad(now.getHours()),
    M: pad(now.getMinutes()),
    S: pad(now.getSeconds()),
    B: month,
    b: month.slice(0, 3),
    A: day,
    a: day.slice(0, 3),
    '%': '%',
  }
  return format.replace(/%(.)/g, (whole, letter: string) => parts[letter] ?? whole)
}

/** A parsed template. */
export class ChatTemplate {
  readonly source: string
  readonly #program: unknown

  /** @throws FormatError when it is no Jinja that is understood here */
  constructor(source: string) {
    if (source.length > MAX_TEMPLATE) {
      throw new FormatError(
        `chat template: expected at most ${MAX_TEMPLATE} characters, found ${source.length}`,
      )
    }
    this.source = source
    try {
      this.#program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }))
    } catch (error) {
      throw new FormatError(`chat template: ${reason(error)}`)
    }
  }

  /**
   * The text of a conversation.
   * @throws ValueError for what the template refuses (`raise_exception`) or when it takes too long
   */
  render(messages: readonly ChatMessage[], variables: Readonly<Record<string, unknown>>): string {
    const environment = new Environment()
    const globals: Record<string, unknown> = {
      false: false,
      true: true,
      none: null,
      False: false,
      True: true,
      None: null,
      range: boundedRange,
      strftime_now: strftime,
      raise_exception: (text: string) => {
        throw new ValueError(text)
      },
    }
    try {
      for (const [name, value] of Object.entries({ ...globals, ...variables, messages })) {
        if (value !== undefined) environment.set(name, value)
      }
      return String(new Budget(environment).run(this.#program).value)
    } catch (error) {
      throw new ValueError(`chat template: ${reason(error)}`)
    }
  }
}

function reason(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  return message.slice(0, 500)
}
