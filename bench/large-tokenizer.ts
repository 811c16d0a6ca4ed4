// A tokenizer.json of any size, for measuring: byte-level, its merges chains of prefixes over the words of
// real text (`Prom` + `i`, `Promi` + `s`, ...), most frequent words first. No tokenizer that is used has
// these merges; the file is as large and as deep as one.

import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Text files below a folder, in order, up to so many bytes. */
export function corpus(folder: string, bytes: number): string {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(?:d\.ts|md|js|mjs|cjs)$/.test(name))
    .sort()
  let text = ''
  for (const name of names) {
    if (text.length >= bytes) break
    text += readFileSync(join(folder, name), 'utf8')
  }
  if (text.length < bytes) throw new Error(`${folder} has ${text.length} bytes of text, wanted ${bytes}`)
  return text.slice(0, bytes)
}

/** GPT-2's spelling of a byte. */
const SPELLED: readonly string[] = (() => {
  let next = 0x100
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad)
    return String.fromCharCode(printable ? byte : next++)
  })
})()

/** Writes a tokenizer of `entries` tokens whose merges are of words of `text`. */
export function writeLargeTokenizer(path: string, text: string, entries: number): void {
  const counts = new Map<string, number>()
  for (const [word] of text.matchAll(/ ?[A-Za-z]{2,24}/g)) counts.set(word, (counts.get(word) ?? 0) + 1)
  const words = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).map(([word]) => word)
  const vocab = new Map(SPELLED.map((token, id) => [token, id]))
  const merges: [string, string][] = []
  const add = (word: string): void => {
    const bytes = [...Buffer.from(word)].map((byte) => SPELLED[byte] as string)
    let prefix = bytes[0] as string
    for (const byte of bytes.slice(1)) {
      const merged = prefix + byte
      if (!vocab.has(merged)) {
        if (vocab.size === entries) return
        vocab.set(merged, vocab.size)
        merges.push([prefix, byte])
      }
      prefix = merged
    }
  }
  for (const word of words) add(word)
  // where the text has too few words, pairs of them make more
  for (let i = 0; vocab.size < entries; i++) {
    const [a = '', b = ''] = [words[i % words.length], words[(i * 7919 + 1) % words.length]]
    add(`${a}${b.trimStart()}`)
  }
  const json = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(vocab),
      merges,
    },
  }
  writeFileSync(path, JSON.stringify(json))
}
