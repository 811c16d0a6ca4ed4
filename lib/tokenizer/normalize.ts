// Normalizers and pre-tokenizers of tokenizer.json: text to normalized text, text to pieces.
// Source of types and options: https://huggingface.co/docs/tokenizers (components).

import type { JsonValue } from './json.ts'
import { quotePattern, SplitPattern } from './pattern.ts'

export type Normalize = (text: string) => string
/** Cuts a text; `first` tells whether it begins the whole input. */
export type PreTokenize = (text: string, first: boolean, piece: (piece: string) => void) => void

/** The patterns of known families, by name. */
export const SPLIT_PATTERNS = {
  gpt2: "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
  llama3:
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  qwen2:
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
} as const

export type SplitPatternName = keyof typeof SPLIT_PATTERNS

function patternOf(json: JsonValue): SplitPattern {
  const text = json.get('String')
  return new SplitPattern(text.missing ? json.get('Regex').string() : quotePattern(text.string()))
}

/** @throws FormatError for a normalizer that is not known, by name */
export function parseNormalizer(json: JsonValue): Normalize {
  if (json.missing) return (text) => text
  const type = json
    .get('type')
    .oneOf('Sequence', 'NFC', 'NFD', 'NFKC', 'NFKD', 'Prepend', 'Replace', 'Lowercase')
  switch (type) {
    case 'NFC':
    case 'NFD':
    case 'NFKC':
    case 'NFKD':
      return (text) => text.normalize(type)
    case 'Lowercase':
      return (text) => text.toLowerCase()
    case 'Prepend': {
      const prefix = json.get('prepend').string()
      return (text) => (text === '' ? text : prefix + text)
    }
    case 'Replace': {
      const content = json.get('content').string()
      const plain = json.get('pattern').get('String')
      if (!plain.missing) {
        const from = plain.string()
        return from === '' ? (text) => text : (text) => text.replaceAll(from, () => content)
      }
      const pattern = patternOf(json.get('pattern'))
      return (text) => {
        let result = ''
        let at = 0
        pattern.forEach(text, (begin, end) => {
          result += text.slice(at, begin) + content
          at = end
        })
        return result + text.slice(at)
      }
    }
    case 'Sequence': {
      const steps = json.get('normalizers').items().map(parseNormalizer)
      return (text) => steps.reduce((value, step) => step(value), text)
    }
  }
  return type satisfies never
}

type Behavior = 'Removed' | 'Isolated' | 'MergedWithPrevious' | 'MergedWithNext' | 'Contiguous'

function split(pattern: SplitPattern, behavior: Behavior, invert: boolean): PreTokenize {
  return (text, _first, piece) => {
    // a piece not yet handed on, [from, to), which a later part may join
    let from = 0
    let to = 0
    let held: 'none' | 'match' | 'gap' = 'none'
    const flush = (): void => {
      if (held !== 'none' && to > from) piece(text.slice(from, to))
      held = 'none'
    }
    const hold = (begin: number, end: number, kind: 'match' | 'gap'): void => {
      flush()
      from = begin
      to = end
      held = kind
    }
    const part = (begin: number, end: number, isMatch: boolean): void => {
      if (begin === end) return
      const joins =
        (behavior === 'MergedWithPrevious' && isMatch && held === 'gap') ||
        (behavior === 'MergedWithNext' && !isMatch && held === 'match') ||
        (behavior === 'Contiguous' && isMatch && held === 'match')
      if (behavior === 'Removed' && isMatch) flush()
      else if (!joins) hold(begin, end, isMatch ? 'match' : 'gap')
      else {
        to = end
        // what joined is whole: nothing more may be added, but for a run of matches
        if (behavior !== 'Contiguous') flush()
      }
    }
    let at = 0
    pattern.forEach(text, (begin, end) => {
      part(at, begin, invert)
      part(begin, end, !invert)
      at = end
    })
    part(at, text.length, invert)
    flush()
  }
}

function metaspace(json: JsonValue): PreTokenize {
  const replacement = json.get('replacement').string()
  const scheme = json.get('prepend_scheme')
  const prepend = scheme.missing
    ? json.get('add_prefix_space').boolean(true)
      ? 'always'
      : 'never'
    : scheme.oneOf('always', 'first', 'never')
  const cut = json.get('split').boolean(true)
    ? split(new SplitPattern(quotePattern(replacement)), 'MergedWithNext', false)
    : null
  return (text, first, piece) => {
    let replaced = text.replaceAll(' ', () => replacement)
    const wanted = prepend === 'always' || (prepend === 'first' && first)
    if (wanted && !replaced.startsWith(replacement)) replaced = replacement + replaced
    if (cut === null) piece(replaced)
    else cut(replaced, first, piece)
  }
}

/** @throws FormatError for a pre-tokenizer that is not known, by name */
export function parsePreTokenizer(json: JsonValue): PreTokenize {
  if (json.missing) return (text, _first, piece) => piece(text)
  const type = json.get('type').oneOf('Sequence', 'Split', 'ByteLevel', 'Digits', 'Metaspace')
  switch (type) {
    case 'Split': {
      const behavior = json
        .get('behavior')
        .oneOf('Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous')
      return split(patternOf(json.get('pattern')), behavior, json.get('invert').boolean(false))
    }
    case 'Digits': {
      const individual = json.get('individual_digits').boolean(false)
      return split(new SplitPattern('\\p{N}'), individual ? 'Isolated' : 'Contiguous', false)
    }
    case 'ByteLevel': {
      const prefixed = json.get('add_prefix_space').boolean(true)
      const cut = json.get('use_regex').boolean(true)
        ? split(new SplitPattern(SPLIT_PATTERNS.gpt2), 'Isolated', false)
        : null
      return (text, first, piece) => {
        const whole = prefixed && !text.startsWith(' ') ? ` ${text}` : text
        if (cut === null) piece(whole)
        else cut(whole, first, piece)
      }
    }
    case 'Metaspace':
      return metaspace(json)
    case 'Sequence':
      return json
        .get('pretokenizers')
        .items()
        .map(parsePreTokenizer)
        .reduceRight<PreTokenize>(
          (rest, step) => (text, first, piece) => {
            let begins = first
            step(text, first, (part) => {
              rest(part, begins, piece)
              begins = false
            })
          },
          (text, _first, piece) => piece(text),
        )
  }
  return type satisfies never
}

/** Whether the model's symbols are bytes: the pre-tokenizer has a ByteLevel step. */
export function isByteLevel(json: JsonValue): boolean {
  if (json.missing) return false
  const type = json.get('type').value
  if (type === 'Sequence') return json.get('pretokenizers').items().some(isByteLevel)
  return type === 'ByteLevel'
}
