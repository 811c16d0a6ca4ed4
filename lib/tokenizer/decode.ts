// Ids back to text. A stream never gives half a character.

import type { JsonValue } from './json.ts'
import { spelling, type TokenTables } from './tables.ts'

/** How tokens become text. */
export interface DecoderSpec {
  readonly kind: 'bytes' | 'characters'
  /** Replacements in each token, in order: `▁` by a space. */
  readonly replace: readonly (readonly [string, string])[]
  readonly byteFallback: boolean
  /** Spaces dropped where the text begins. */
  readonly stripStart: number
  /** Between tokens. */
  readonly separator: string
}

/** An added token in the eyes of a decoder. */
export interface AddedText {
  readonly text: string
  readonly special: boolean
}

const CHARACTERS: DecoderSpec = {
  kind: 'characters',
  replace: [],
  byteFallback: false,
  stripStart: 0,
  separator: '',
}

/** @throws FormatError for a decoder that is not known, by name */
export function parseDecoder(json: JsonValue): DecoderSpec {
  if (json.missing) return { ...CHARACTERS, separator: ' ' }
  const type = json
    .get('type')
    .oneOf('ByteLevel', 'Sequence', 'Replace', 'ByteFallback', 'Fuse', 'Strip', 'Metaspace')
  switch (type) {
    case 'ByteLevel':
      return { ...CHARACTERS, kind: 'bytes' }
    case 'Replace':
      return {
        ...CHARACTERS,
        replace: [[json.get('pattern').get('String').string(), json.get('content').string()]],
      }
    case 'ByteFallback':
      return { ...CHARACTERS, byteFallback: true }
    case 'Fuse':
      return CHARACTERS
    case 'Strip':
      if (json.get('content').value !== ' ' || json.get('stop').value !== 0) {
        json.fail('a Strip of spaces at the start')
      }
      return { ...CHARACTERS, stripStart: json.get('start').integer(0, 1000) }
    case 'Metaspace': {
      const scheme = json.get('prepend_scheme')
      const prefixed = scheme.missing ? json.get('add_prefix_space').boolean(true) : scheme.value !== 'never'
      return {
        ...CHARACTERS,
        replace: [[json.get('replacement').string(), ' ']],
        stripStart: prefixed ? 1 : 0,
      }
    }
    case 'Sequence': {
      const steps = json.get('decoders').items().map(parseDecoder)
      const [first] = steps
      if (steps.length === 1 && first !== undefined) return first
      if (steps.some((step) => step.kind === 'bytes')) json.fail('ByteLevel by itself')
      return {
        ...CHARACTERS,
        replace: steps.flatMap((step) => step.replace),
        byteFallback: steps.some((step) => step.byteFallback),
        stripStart: steps.reduce((sum, step) => sum + step.stripStart, 0),
      }
    }
  }
  return type satisfies never
}

const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/
const REPLACEMENT = '\ufffd'

/** Turns ids into text as they come. */
export class DecodeStream {
  readonly #tables: TokenTables
  readonly #spec: DecoderSpec
  readonly #added: ReadonlyMap<number, AddedText>
  readonly #skipSpecialTokens: boolean
  readonly #utf8 = new TextDecoder('utf-8', { ignoreBOM: true })
  #pending: number[] = [] // bytes of fallback tokens that do not make a character yet
  #toStrip: number
  #began = false

  constructor(
    tables: TokenTables,
    spec: DecoderSpec,
    added: ReadonlyMap<number, AddedText>,
    skipSpecialTokens: boolean,
  ) {
    this.#tables = tables
    this.#spec = spec
    this.#added = added
    this.#skipSpecialTokens = skipSpecialTokens
    this.#toStrip = spec.stripStart
  }

  /** The text that an id completes; empty while a character is open. Ids past the vocabulary give nothing. */
  push(id: number): string {
    const added = this.#added.get(id)
    if (added?.special && this.#skipSpecialTokens) return ''
    if (this.#spec.kind === 'bytes') return this.#utf8.decode(this.#bytes(id, added), { stream: true })
    const token = added?.text ?? spelling(this.#tables, id)
    if (token === undefined) return ''
    const text = this.#character(token)
    const separator = this.#began ? this.#spec.separator : ''
    this.#began = true
    return separator + text
  }

  /** What was held back; an unfinished character shows as U+FFFD. The stream can begin anew. */
  end(): string {
    const rest = this.#spec.kind === 'bytes' ? this.#utf8.decode() : this.#strip(this.#flush())
    this.#toStrip = this.#spec.stripStart
    this.#began = false
    return rest
  }

  #bytes(id: number, added: AddedText | undefined): Uint8Array {
    if (added !== undefined) return new TextEncoder().encode(added.text)
    const { bytes, bytesEnds, size } = this.#tables
    if (!Number.isInteger(id) || id < 0 || id >= size) return new Uint8Array(0)
    // decoders take no shared memory
    return bytes.slice(id === 0 ? 0 : bytesEnds[id - 1], bytesEnds[id])
  }

  #character(token: string): string {
    const byte = this.#spec.byteFallback ? BYTE_TOKEN.exec(token) : null
    if (byte !== null) {
      this.#pending.push(Number.parseInt(byte[1] as string, 16))
      return this.#strip(this.#complete())
    }
    let text = token
    for (const [from, to] of this.#spec.replace) text = text.replaceAll(from, () => to)
    return this.#strip(this.#flush() + text)
  }

  /** Takes the pending bytes when they are one whole character, and those that cannot become one. */
  #complete(): string {
    const [lead = 0] = this.#pending
    const length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0
    if (length === 0 || this.#pending.slice(1).some((next) => (next & 0xc0) !== 0x80)) return this.#flush()
    return this.#pending.length < length ? '' : this.#flush()
  }

  #flush(): string {
    if (this.#pending.length === 0) return ''
    const bytes = Uint8Array.from(this.#pending)
    this.#pending = []
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    } catch {
      return REPLACEMENT.repeat(bytes.length)
    }
  }

  #strip(text: string): string {
    if (text === '' || this.#toStrip === 0) return text
    let spaces = 0
    while (spaces < this.#toStrip && text[spaces] === ' ') spaces++
    this.#toStrip = spaces === text.length ? this.#toStrip - spaces : 0
    return text.slice(spaces)
  }
}
