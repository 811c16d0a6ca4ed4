// Added tokens: texts that are tokens whatever surrounds them, cut out before the model sees the rest.

import type { JsonValue } from './json.ts'

export interface AddedToken {
  readonly id: number
  readonly content: string
  /** Control tokens: dropped by decode unless asked for. */
  readonly special: boolean
  /** Takes the white space on its left with it. */
  readonly lstrip: boolean
  readonly rstrip: boolean
  /** Only where no letter, digit or underscore touches it. */
  readonly singleWord: boolean
  /** Looked for in normalized text; otherwise in the text as given. */
  readonly normalized: boolean
}

export function parseAddedToken(json: JsonValue): AddedToken {
  const content = json.get('content').string()
  if (content === '') json.get('content').fail('a text that is not empty')
  const special = json.get('special').boolean(false)
  return {
    id: json.get('id').integer(0, 2 ** 31 - 2),
    content,
    special,
    lstrip: json.get('lstrip').boolean(false),
    rstrip: json.get('rstrip').boolean(false),
    singleWord: json.get('single_word').boolean(false),
    normalized: json.get('normalized').boolean(!special),
  }
}

export function writeAddedToken(token: AddedToken): Record<string, unknown> {
  const { id, content, singleWord, lstrip, rstrip, normalized, special } = token
  return { id, content, single_word: singleWord, lstrip, rstrip, normalized, special }
}

const WORD = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]/u
const SPACE = /\p{White_Space}/u

/** Cuts a text at the added tokens: the leftmost first, of several there the longest. */
export class AddedTokenSplitter {
  readonly #expression: RegExp | null
  readonly #byContent: ReadonlyMap<string, AddedToken>

  constructor(tokens: readonly AddedToken[], normalize: (text: string) => string = (text) => text) {
    this.#byContent = new Map(tokens.map((token) => [normalize(token.content), token]))
    const contents = [...this.#byContent.keys()].sort((a, b) => b.length - a.length)
    const source = contents.map((text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')).join('|')
    this.#expression = source === '' ? null : new RegExp(source, 'gu')
  }

  forEach(
    text: string,
    plain: (text: string, begin: number) => void,
    token: (token: AddedToken) => void,
  ): void {
    let at = 0
    if (this.#expression !== null) {
      for (const match of text.matchAll(this.#expression)) {
        const found = this.#byContent.get(match[0]) as AddedToken
        let begin = match.index
        let end = begin + match[0].length
        // an earlier one may have taken the space that this began with
        if (begin < at) continue
        if (found.singleWord && touchesWord(text, begin, end)) continue
        if (found.lstrip) while (begin > at && SPACE.test(text[begin - 1] as string)) begin--
        if (found.rstrip) while (end < text.length && SPACE.test(text[end] as string)) end++
        if (begin > at) plain(text.slice(at, begin), at)
        token(found)
        at = end
      }
    }
    if (at < text.length) plain(text.slice(at), at)
  }
}

function touchesWord(text: string, begin: number, end: number): boolean {
  const before = begin > 0 ? text.slice(begin > 1 ? begin - 2 : 0, begin) : ''
  const last = [...before].at(-1) ?? ''
  const after = end < text.length ? String.fromCodePoint(text.codePointAt(end) as number) : ''
  return WORD.test(last) || WORD.test(after)
}
