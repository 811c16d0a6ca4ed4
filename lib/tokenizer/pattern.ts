// Split patterns of tokenizers: a small regular-expression engine over code points, in the syntax that
// tokenizer.json files use (that of Rust's and Oniguruma's: `(?i:...)`, possessive quantifiers), with a
// budget of steps. V8's own engine knows neither on Node 20, and `^(a+)+$` makes it run for minutes.
//
// A matcher takes a place and what follows it, and returns where the whole match ends, or -1. Repeats of
// a single character loop; only repeats of groups recurse.

import { FormatError } from '../runtime/errors.ts'

type Next = (at: number) => number
type Matcher = (at: number, next: Next) => number
type Test = (codePoint: number) => boolean

interface Parsed {
  readonly match: Matcher
  /** Set when this is exactly one character of a set. */
  readonly one?: Test
}

const MAX_PATTERN = 20_000 // UTF-16 units; the longest known has 1,000
const MAX_DEPTH = 2_000 // repeats of groups on the stack
const STEPS_PER_UNIT = 100 // of text; known patterns take at most 12
const MAX_REPEAT = 1_000

const width = (codePoint: number): number => (codePoint > 0xffff ? 2 : 1)

/** Whether a code point is in a class of JavaScript's syntax; each is asked once. */
function memberOf(source: string, ignoreCase: boolean): Test {
  const expression = new RegExp(`^${source}$`, ignoreCase ? 'iu' : 'u')
  const known = new Uint8Array(0x10000) // 0 not asked yet, 1 no, 2 yes
  const beyond = new Map<number, boolean>()
  return (codePoint) => {
    if (codePoint < 0x10000) {
      const answer = known[codePoint]
      if (answer !== 0) return answer === 2
      const is = expression.test(String.fromCharCode(codePoint))
      known[codePoint] = is ? 2 : 1
      return is
    }
    let is = beyond.get(codePoint)
    if (is === undefined) {
      is = expression.test(String.fromCodePoint(codePoint))
      beyond.set(codePoint, is)
    }
    return is
  }
}

// \s is Unicode's White_Space: JavaScript's own also takes U+FEFF and leaves out U+0085.
const CLASS_ESCAPES: Readonly<Record<string, string>> = {
  s: '\\p{White_Space}',
  S: '\\P{White_Space}',
  d: '\\p{Nd}',
  D: '\\P{Nd}',
  w: '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}',
}
const CONTROL_ESCAPES: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9, f: 12, v: 11, 0: 0 }
const SYNTAX = /[\^$\\.*+?()[\]{}|/-]/

const quoted = (codePoint: number): string => `\\u{${codePoint.toString(16)}}`

/** A compiled pattern; it holds no state between calls. */
export class SplitPattern {
  readonly source: string
  readonly #match: Matcher
  #text = ''
  #steps = 0
  #depth = 0

  /** @throws FormatError for syntax this engine does not know, naming it and where */
  constructor(source: string) {
    this.source = source
    if (source.length > MAX_PATTERN) {
      throw new FormatError(
        `split pattern: expected at most ${MAX_PATTERN} characters, found ${source.length}`,
      )
    }
    this.#match = this.#parse(source)
  }

  /**
   * Every match in order: `found(begin, end)`, as UTF-16 units; empty matches are skipped.
   * @throws FormatError when the pattern takes more steps than a text of this length may
   */
  forEach(text: string, found: (begin: number, end: number) => void): void {
    this.#text = text
    this.#steps = STEPS_PER_UNIT * text.length + 10_000
    this.#depth = 0
    const done: Next = (at) => at
    for (let at = 0; at < text.length; ) {
      const end = this.#match(at, done)
      if (end > at) {
        found(at, end)
        at = end
      } else {
        at += width(text.codePointAt(at) as number)
      }
    }
    this.#text = ''
  }

  /**
   * Whether the pattern matches the whole text.
   * @throws FormatError when it takes more steps than a text of this length may
   */
  fullMatch(text: string): boolean {
    this.#text = text
    this.#steps = STEPS_PER_UNIT * text.length + 10_000
    this.#depth = 0
    const matched = this.#match(0, (at) => (at === text.length ? at : -1)) >= 0
    this.#text = ''
    return matched
  }

  #spend(): void {
    if (--this.#steps < 0) {
      throw new FormatError(
        `split pattern ${this.source.slice(0, 80)}: expected at most ${STEPS_PER_UNIT} steps a character, found more`,
      )
    }
  }

  #parse(source: string): Matcher {
    let at = 0
    const fail = (expected: string): never => {
      const found = at < source.length ? JSON.stringify(source.slice(at, at + 10)) : 'the end'
      throw new FormatError(
        `split pattern ${source.slice(0, 80)}, character ${at}: expected ${expected}, found ${found}`,
      )
    }
    const take = (text: string): boolean => {
      if (!source.startsWith(text, at)) return false
      at += text.length
      return true
    }
    const point = (): number => {
      const codePoint = source.codePointAt(at)
      if (codePoint === undefined) return fail('a character')
      at += width(codePoint)
      return codePoint
    }

    const property = (negated: boolean): string => {
      const name = /^(?:\{\^?[\w=]+\}|[A-Z])/.exec(source.slice(at))?.[0] ?? fail('a property such as {L}')
      at += name.length
      const bare = name.replace(/[{}]/g, '')
      const positive = bare.startsWith('^') === negated
      const text = `\\${positive ? 'p' : 'P'}{${bare.replace('^', '')}}`
      try {
        new RegExp(text, 'u')
      } catch {
        at -= name.length
        fail('a property of Unicode')
      }
      return text
    }
    /** After a backslash: the text of a class, or a single code point. */
    const escaped = (): string | number => {
      const letter = source[at++]
      if (letter === undefined) return fail('an escape')
      if (letter === 'p' || letter === 'P') return property(letter === 'P')
      const known = CLASS_ESCAPES[letter]
      if (known !== undefined) return known
      const control = CONTROL_ESCAPES[letter]
      if (control !== undefined) return control
      if (letter === 'x' || letter === 'u') {
        const hex = /^(?:\{([0-9a-fA-F]{1,6})\}|([0-9a-fA-F]{2}))/.exec(source.slice(at))
        const four = letter === 'u' ? /^[0-9a-fA-F]{4}/.exec(source.slice(at)) : null
        const match = four ?? hex ?? fail('a number in hexadecimal')
        at += match[0].length
        const value = Number.parseInt(match[1] ?? match[0], 16)
        return value <= 0x10ffff ? value : fail('a code point')
      }
      if (/[A-Za-z0-9]/.test(letter)) {
        at--
        return fail('an escape that is known')
      }
      at--
      return point()
    }
    const characterClass = (): string => {
      let text = take('^') ? '^' : ''
      if (source[at] === ']') fail('a class that is not empty')
      while (!take(']')) {
        if (at >= source.length) fail('"]"')
        if (source.startsWith('&&', at) || source[at] === '[') fail('a class without sets in it')
        const from = take('\\') ? escaped() : point()
        if (source[at] === '-' && source[at + 1] !== ']' && source[at + 1] !== undefined) {
          at++
          const to = take('\\') ? escaped() : point()
          if (typeof from === 'string' || typeof to === 'string' || to < from)
            return fail('a range that ascends')
          text += `${quoted(from)}-${quoted(to)}`
        } else {
          text += typeof from === 'string' ? from : quoted(from)
        }
      }
      return `[${text}]`
    }

    const single = (one: Test): Parsed => ({
      one,
      match: (i, next) => {
        this.#spend()
        const codePoint = this.#text.codePointAt(i)
        return codePoint !== undefined && one(codePoint) ? next(i + width(codePoint)) : -1
      },
    })
    const literal = (codePoint: number, ignoreCase: boolean): Parsed => {
      const insensitive = ignoreCase && String.fromCodePoint(codePoint).match(/\p{L}/u) !== null
      return single(insensitive ? memberOf(quoted(codePoint), true) : (found) => found === codePoint)
    }

    const atom = (ignoreCase: boolean, depth: number): Parsed => {
      if (take('(')) {
        if (depth > 50) fail('groups at most 50 deep')
        if (take('?!') || source.startsWith('?=', at)) {
          const negative = source[at - 1] === '!'
          if (!negative) at += 2
          const inner = alternatives(ignoreCase, depth + 1)
          if (!take(')')) fail('")"')
          return { match: (i, next) => (inner(i, (end) => end) >= 0 === negative ? -1 : next(i)) }
        }
        let insensitive = ignoreCase
        let atomic = false
        if (take('?i:')) insensitive = true
        else if (take('?>')) atomic = true
        else if (!take('?:') && source[at] === '?') fail('one of (?: (?i: (?> (?! (?=')
        const inner = alternatives(insensitive, depth + 1)
        if (!take(')')) fail('")"')
        if (!atomic) return { match: inner }
        return { match: onlyFirst(inner) }
      }
      if (take('[')) return single(memberOf(characterClass(), ignoreCase))
      if (take('\\')) {
        const found = escaped()
        return typeof found === 'string' ? single(memberOf(`[${found}]`, false)) : literal(found, ignoreCase)
      }
      if (take('.')) return single((codePoint) => codePoint !== 10)
      if (take('^')) return { match: (i, next) => (i === 0 ? next(i) : -1) }
      if (take('$')) return { match: (i, next) => (i === this.#text.length ? next(i) : -1) }
      if (/[*+?{]/.test(source[at] ?? '')) fail('something to repeat')
      return literal(point(), ignoreCase)
    }

    const onlyFirst =
      (inner: Matcher): Matcher =>
      (i, next) => {
        const end = inner(i, (place) => place)
        return end < 0 ? -1 : next(end)
      }

    const quantified = (ignoreCase: boolean, depth: number): Matcher => {
      const repeated = atom(ignoreCase, depth)
      let min = 1
      let max = 1
      if (take('?')) min = 0
      else if (take('*')) [min, max] = [0, Number.POSITIVE_INFINITY]
      else if (take('+')) max = Number.POSITIVE_INFINITY
      else if (source[at] === '{') {
        const counts = /^\{(\d+)(,?)(\d*)\}/.exec(source.slice(at)) ?? fail('a count such as {1,3}')
        at += counts[0].length
        min = Number(counts[1])
        max = counts[3] ? Number(counts[3]) : counts[2] ? Number.POSITIVE_INFINITY : min
        if (min > MAX_REPEAT || (max > MAX_REPEAT && Number.isFinite(max)) || max < min) {
          fail(`counts that ascend, at most ${MAX_REPEAT}`)
        }
      } else return repeated.match
      const lazy = take('?')
      const possessive = !lazy && take('+')
      if (/[*+?{]/.test(source[at] ?? '')) fail('one quantifier')
      const { one } = repeated
      const matcher =
        one === undefined
          ? this.#repeatGroup(repeated.match, min, max, lazy)
          : lazy
            ? this.#repeatLazily(one, min, max)
            : this.#repeatOne(one, min, max)
      return possessive ? onlyFirst(matcher) : matcher
    }

    const sequence = (ignoreCase: boolean, depth: number): Matcher => {
      const parts: Matcher[] = []
      while (at < source.length && source[at] !== '|' && source[at] !== ')') {
        parts.push(quantified(ignoreCase, depth))
      }
      const chain = (i: number): Matcher => {
        const part = parts[i]
        if (part === undefined) return (place, next) => next(place)
        if (i === parts.length - 1) return part
        const rest = chain(i + 1)
        return (place, next) => part(place, (end) => rest(end, next))
      }
      return chain(0)
    }

    const alternatives = (ignoreCase: boolean, depth: number): Matcher => {
      const choices = [sequence(ignoreCase, depth)]
      while (take('|')) choices.push(sequence(ignoreCase, depth))
      const [only] = choices
      if (choices.length === 1 && only !== undefined) return only
      return (i, next) => {
        for (const choice of choices) {
          const end = choice(i, next)
          if (end >= 0) return end
        }
        return -1
      }
    }

    const match = alternatives(false, 0)
    if (at < source.length) fail('the end')
    return match
  }

  #repeatOne(one: Test, min: number, max: number): Matcher {
    return (begin, next) => {
      const text = this.#text
      let at = begin
      let count = 0
      while (count < max && at < text.length) {
        this.#spend()
        const codePoint = text.codePointAt(at) as number
        if (!one(codePoint)) break
        at += width(codePoint)
        count++
      }
      for (; count >= min; count--) {
        const end = next(at)
        if (end >= 0) return end
        if (count === min) return -1
        this.#spend()
        at -= at >= 2 && at - 2 >= begin && (text.codePointAt(at - 2) as number) > 0xffff ? 2 : 1
      }
      return -1
    }
  }

  #repeatLazily(one: Test, min: number, max: number): Matcher {
    return (begin, next) => {
      let at = begin
      for (let count = 0; ; count++) {
        if (count >= min) {
          const end = next(at)
          if (end >= 0) return end
        }
        this.#spend()
        const codePoint = this.#text.codePointAt(at)
        if (count >= max || codePoint === undefined || !one(codePoint)) return -1
        at += width(codePoint)
      }
    }
  }

  #repeatGroup(inner: Matcher, min: number, max: number, lazy: boolean): Matcher {
    const again = (count: number, at: number, next: Next): number => {
      this.#spend()
      if (++this.#depth > MAX_DEPTH) {
        throw new FormatError(
          `split pattern ${this.source.slice(0, 80)}: expected a group to repeat at most ${MAX_DEPTH} times, found more`,
        )
      }
      try {
        const more = (): number =>
          count < max
            ? inner(at, (end) => (end === at && count >= min ? -1 : again(count + 1, end, next)))
            : -1
        if (count < min) return more()
        if (lazy) {
          const end = next(at)
          return end >= 0 ? end : more()
        }
        const end = more()
        return end >= 0 ? end : next(at)
      } finally {
        this.#depth--
      }
    }
    return (at, next) => again(0, at, next)
  }
}

/** A text as a literal pattern. */
export function quotePattern(text: string): string {
  return [...text].map((character) => (SYNTAX.test(character) ? `\\${character}` : character)).join('')
}
