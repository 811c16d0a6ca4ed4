// Scans the JSON header of a safetensors file, as bytes and without recursion. The grammar is
//   { "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"k": "v"} }
// and nothing else; integers are unsigned, of at most 2^53 - 1.
import {
  CLOSE_BRACKET,
  COMMA,
  JsonScanner,
  MAX_NAME_BYTES,
  OPEN_BRACE,
  OPEN_BRACKET,
} from './json-scanner.ts'

/** One tensor as the header states it; nothing about it has been checked against another. */
export interface ScannedTensor {
  readonly name: string
  readonly dtype: string
  readonly shape: readonly number[]
  readonly begin: number
  readonly end: number
}

// Far above any real file; what they bound is the memory that a hostile header can ask for.
export const MAX_TENSORS = 100_000
const MAX_METADATA_KEYS = 10_000
const MAX_METADATA_BYTES = 1 << 24 // of one value
const MAX_DIMENSIONS = 64

export class HeaderScanner extends JsonScanner {
  constructor(bytes: Uint8Array, file: string) {
    super(bytes, { place: (at) => `${file}, header byte ${8 + at}`, whole: 'the header' })
  }

  scan(): { metadata: Map<string, string>; tensors: ScannedTensor[] } {
    const names = new Set<string>()
    const tensors: ScannedTensor[] = []
    let metadata: Map<string, string> | undefined
    if (this.bytes[0] !== OPEN_BRACE) this.fail('"{"') // by the format, before any white space
    this.members((name, at) => {
      if (name === '__metadata__') {
        if (metadata !== undefined) this.fail('one "__metadata__"', 'a second one', at)
        metadata = this.#metadata()
        return
      }
      if (names.has(name)) this.fail('each name once', `${JSON.stringify(name)} again`, at)
      if (names.size === MAX_TENSORS) this.fail(`at most ${MAX_TENSORS} tensors`, 'more', at)
      names.add(name)
      tensors.push(this.#tensor(name))
    })
    this.end()
    return { metadata: metadata ?? new Map(), tensors }
  }

  #metadata(): Map<string, string> {
    const metadata = new Map<string, string>()
    this.members((key, at) => {
      if (metadata.has(key)) this.fail('each metadata key once', `${JSON.stringify(key)} again`, at)
      if (metadata.size === MAX_METADATA_KEYS)
        this.fail(`at most ${MAX_METADATA_KEYS} metadata keys`, 'more', at)
      metadata.set(key, this.string(MAX_METADATA_BYTES))
    })
    return metadata
  }

  #tensor(name: string): ScannedTensor {
    const start = this.at
    let dtype: string | undefined
    let shape: number[] | undefined
    let offsets: number[] | undefined
    this.members((key, at) => {
      if (key === 'dtype' && dtype === undefined) dtype = this.string(MAX_NAME_BYTES)
      else if (key === 'shape' && shape === undefined) shape = this.#integers()
      else if (key === 'data_offsets' && offsets === undefined) offsets = this.#integers()
      else
        this.fail(
          `"dtype", "shape" and "data_offsets" of ${JSON.stringify(name)}, each once`,
          JSON.stringify(key.slice(0, 40)),
          at,
        )
    })
    if (dtype === undefined || shape === undefined || offsets === undefined) {
      const missing = dtype === undefined ? 'dtype' : shape === undefined ? 'shape' : 'data_offsets'
      this.fail(`"${missing}" of ${JSON.stringify(name)}`, 'none', start)
    }
    const [begin, end] = offsets
    if (begin === undefined || end === undefined || offsets.length !== 2) {
      this.fail(`two data_offsets of ${JSON.stringify(name)}`, String(offsets.length), start)
    }
    return { name, dtype, shape, begin, end }
  }

  #integers(): number[] {
    const values: number[] = []
    this.expect(OPEN_BRACKET, '"["')
    this.space()
    if (this.bytes[this.at] === CLOSE_BRACKET) {
      this.at++
      return values
    }
    for (;;) {
      values.push(this.integer())
      if (values.length > MAX_DIMENSIONS) this.fail(`at most ${MAX_DIMENSIONS} numbers`, 'more')
      this.space()
      if (this.bytes[this.at] === CLOSE_BRACKET) break
      this.expect(COMMA, '"," or "]"')
    }
    this.at++
    return values
  }
}
