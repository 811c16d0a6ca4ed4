// Text to ids: added tokens, normalizer, pre-tokenizer, model, post-processor; one thread's state.

import { type AddedToken, AddedTokenSplitter } from './added.ts'
import { Bpe, IdList } from './bpe.ts'
import { type AddedText, type DecoderSpec, parseDecoder } from './decode.ts'
import { JsonValue } from './json.ts'
import { type Normalize, type PreTokenize, parseNormalizer, parsePreTokenizer } from './normalize.ts'
import type { TokenizerSpec } from './tokenizer-json.ts'

interface Template {
  readonly before: readonly number[]
  readonly after: readonly number[]
}

/** What a post-processor puts around one sequence. */
function parsePostProcessor(json: JsonValue): Template {
  const nothing = { before: [], after: [] }
  if (json.missing) return nothing
  const type = json.get('type').oneOf('TemplateProcessing', 'ByteLevel', 'Sequence')
  switch (type) {
    case 'ByteLevel': // it only moves offsets, which nobody here asks for
      return nothing
    case 'Sequence':
      return json
        .get('processors')
        .items()
        .map(parsePostProcessor)
        .reduce(
          (inner, outer) => ({
            before: [...outer.before, ...inner.before],
            after: [...inner.after, ...outer.after],
          }),
          nothing,
        )
    case 'TemplateProcessing': {
      const before: number[] = []
      const after: number[] = []
      let seen = false
      const special = json.get('special_tokens')
      for (const item of json.get('single').items()) {
        if (!item.get('Sequence').missing) {
          if (seen) item.fail('one sequence')
          seen = true
          continue
        }
        const ids = special.get(item.get('SpecialToken').get('id').string()).get('ids').items()
        ;(seen ? after : before).push(...ids.map((id) => id.integer(0, 2 ** 31 - 2)))
      }
      return { before, after }
    }
  }
  return type satisfies never
}

export class Encoder {
  readonly decoder: DecoderSpec
  /** Added tokens by id, as decoding sees them: those looked for in normalized text read normalized. */
  readonly addedTexts: ReadonlyMap<number, AddedText>
  readonly #bpe: Bpe
  readonly #normalize: Normalize
  readonly #preTokenize: PreTokenize
  readonly #raw: AddedTokenSplitter
  readonly #normalized: AddedTokenSplitter
  readonly #plain: AddedTokenSplitter
  readonly #plainNormalized: AddedTokenSplitter
  readonly #template: Template

  /** @throws FormatError for parts of the file that are not known */
  constructor(spec: TokenizerSpec) {
    const part = (name: string, value: unknown): JsonValue => new JsonValue(value, `${spec.where}: ${name}`)
    this.decoder = parseDecoder(part('decoder', spec.decoder))
    this.#bpe = new Bpe(spec.tables, spec.model)
    this.#normalize = parseNormalizer(part('normalizer', spec.normalizer))
    this.#preTokenize = parsePreTokenizer(part('pre_tokenizer', spec.preTokenizer))
    this.#template = parsePostProcessor(part('post_processor', spec.postProcessor))
    this.addedTexts = new Map(
      spec.added.map(({ id, content, special, normalized }) => [
        id,
        { special, text: normalized ? this.#normalize(content) : content },
      ]),
    )
    const splitter = (keep: (token: AddedToken) => boolean, normalize?: Normalize): AddedTokenSplitter =>
      new AddedTokenSplitter(spec.added.filter(keep), normalize)
    this.#raw = splitter((token) => !token.normalized)
    this.#normalized = splitter((token) => token.normalized, this.#normalize)
    this.#plain = splitter((token) => !token.normalized && !token.special)
    this.#plainNormalized = splitter((token) => token.normalized && !token.special, this.#normalize)
  }

  /**
   * Appends the ids of a text.
   * @param options.addSpecialTokens what the post-processor puts around it (a <bos>); true when not said
   * @param options.splitSpecialTokens special tokens in the text are text: for input not to be trusted
   */
  encode(
    text: string,
    out: IdList,
    { addSpecialTokens = true, splitSpecialTokens = false }: EncodeOptions = {},
  ): void {
    const { before, after } = this.#template
    if (addSpecialTokens) for (const id of before) out.push(id)
    const raw = splitSpecialTokens ? this.#plain : this.#raw
    const normalized = splitSpecialTokens ? this.#plainNormalized : this.#normalized
    const token = ({ id }: AddedToken): void => out.push(id)
    const piece = (part: string): void => {
      if (part !== '') this.#bpe.encode(part, out)
    }
    // lone surrogates are no text: they become U+FFFD here, before anything looks at them
    raw.forEach(
      text.isWellFormed() ? text : text.toWellFormed(),
      (part, begin) =>
        normalized.forEach(
          this.#normalize(part),
          (rest, at) => this.#preTokenize(rest, begin === 0 && at === 0, piece),
          token,
        ),
      token,
    )
    if (addSpecialTokens) for (const id of after) out.push(id)
  }

  ids(text: string, options?: EncodeOptions): Int32Array {
    const out = new IdList(Math.ceil(text.length / 2) + 16)
    this.encode(text, out, options)
    return out.take()
  }
}

export interface EncodeOptions {
  /** Adds what the tokenizer's post-processor adds (a `<bos>`, where it has one). Default true. */
  readonly addSpecialTokens?: boolean
  /** Takes the spelling of special tokens as plain text: for input that is not trusted. Default false. */
  readonly splitSpecialTokens?: boolean
}
