// tokenizer.json files that are wrong in one place: each a FormatError that names file, place, expected, found.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Tokenizer } from 'fuselm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const valid = readFileSync(fileURLToPath(new URL('../golden/tokenizer/gpt2.json', import.meta.url)), 'utf8')

interface File {
  added_tokens: { id: number; content: string }[]
  model: Record<string, unknown> & { vocab: Record<string, number>; merges: unknown[] }
  pre_tokenizer: unknown
  normalizer: unknown
  decoder: unknown
  post_processor: unknown
}

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-tokenizer-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

const split = (regex: string): unknown => ({
  type: 'Sequence',
  pretokenizers: [
    { type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false },
    { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
  ],
})

const wrong: [string, (file: File) => unknown, RegExp][] = [
  ['a negative id', (f) => (f.model.vocab['!'] = -1), /expected ids from 0 to \d+ without gaps, found -1/],
  ['a fractional id', (f) => (f.model.vocab['!'] = 0.5), /found 0\.5 for "!"/],
  ['an id past the vocabulary', (f) => (f.model.vocab['!'] = 2 ** 31), /found 2147483648/],
  ['an id that repeats', (f) => (f.model.vocab['!'] = f.model.vocab['"'] as number), /expected one token of id/],
  ['a gap', (f) => delete f.model.vocab['!'], /without gaps/],
  ['an empty token', (f) => (f.model.vocab[''] = 1000), /found|expected/],
  ['a vocabulary that is a list', (f) => Object.assign(f.model, { vocab: [1] }), /model\.vocab: expected an object/],
  ['a merge of absent tokens', (f) => f.model.merges.push(['zzzz', 'q']), /expected "zzzz" in the vocabulary/],
  ['a merge of one', (f) => f.model.merges.push(['a']), /merges\[\d+\]: expected two tokens/],
  ['a merge without a space', (f) => f.model.merges.push('ab'), /expected two tokens and a space/],
  ['a merge again', (f) => f.model.merges.push(f.model.merges[0]), /expected each pair once/],
  [
    'an added token with the id of another',
    (f) => ((f.added_tokens[0] as { id: number }).id = 200),
    /expected (one token of id|id \d+)/,
  ],
  ['an added token twice', (f) => f.added_tokens.push(f.added_tokens[0] as never), /once, found it again/],
  ['an added token without text', (f) => ((f.added_tokens[0] as { content: string }).content = ''), /not empty/],
  ['another model', (f) => (f.model['type'] = 'Unigram'), /model\.type: expected one of BPE, found "Unigram"/],
  ['dropout', (f) => (f.model['dropout'] = 0.1), /model\.dropout/],
  ['word-end marks', (f) => (f.model['end_of_word_suffix'] = '</w>'), /end_of_word_suffix/],
  ['an unknown token that is none', (f) => (f.model['unk_token'] = 'zzzzz'), /unk_token/],
  ['an unknown normalizer', (f) => (f.normalizer = { type: 'Precompiled' }), /normalizer\.type: expected one of/],
  ['an unknown pre-tokenizer', (f) => (f.pre_tokenizer = { type: 'Whitespace' }), /pre_tokenizer\.type/],
  ['an unknown decoder', (f) => (f.decoder = { type: 'WordPiece' }), /decoder\.type/],
  ['an unknown post-processor', (f) => (f.post_processor = { type: 'BertProcessing' }), /post_processor\.type/],
  ['a pattern that does not parse', (f) => (f.pre_tokenizer = split('(a')), /split pattern .*character 2: expected "\)"/],
  ['a backreference', (f) => (f.pre_tokenizer = split('(?:a)\\1')), /expected an escape that is known/],
  ['a property that is none', (f) => (f.pre_tokenizer = split('\\p{Nope}')), /expected a property of Unicode/],
  ['a range that descends', (f) => (f.pre_tokenizer = split('[z-a]')), /expected a range that ascends/],
  ['a huge count', (f) => (f.pre_tokenizer = split('a{1000000}')), /expected counts that ascend/],
]

describe('refused', () => {
  test.each(wrong)('%s', async (name, change, message) => {
    const file = JSON.parse(valid) as File
    change(file)
    const path = join(folder, `${name.replace(/\W/g, '_')}.json`)
    writeFileSync(path, JSON.stringify(file))
    await expect(Tokenizer.load(path)).rejects.toMatchObject({
      code: 'ERR_FORMAT',
      message: expect.stringMatching(message),
    })
  })

  test('parts inside parts without end, in the parts that may hold others', async () => {
    const nested = (type: string, key: string, depth: number): string =>
      `${`{"type":"${type}","${key}":[`.repeat(depth)}${']}'.repeat(depth)}`
    const { normalizer: _n, pre_tokenizer: _p, decoder: _d, post_processor: _o, ...rest } = JSON.parse(valid)
    for (const [part, key] of [
      ['normalizer', 'normalizers'],
      ['pre_tokenizer', 'pretokenizers'],
      ['decoder', 'decoders'],
      ['post_processor', 'processors'],
      ['truncation', 'x'],
    ] as const) {
      const path = join(folder, 'nested.json')
      writeFileSync(path, `${JSON.stringify(rest).slice(0, -1)},"${part}":${nested('Sequence', key, 50_000)}}`)
      const error = await Tokenizer.load(path).then(
        () => undefined,
        (reason) => reason,
      )
      // what nobody reads may be anything
      if (part === 'truncation' && error === undefined) continue
      expect(error, part).toMatchObject({ code: 'ERR_FORMAT', message: expect.stringContaining(path) })
    }
  })

  test('lone surrogates, wherever a text may be', async () => {
    const text = valid.trim()
    for (const changed of [
      text.replace('"!":', '"\\ud800":'),
      text.replace('"merges":[', '"merges":["\\ud800 a",'),
      text.replace('"content":"', '"content":"\\udfff'),
    ]) {
      expect(changed).not.toBe(text)
      const path = join(folder, 'surrogates.json')
      writeFileSync(path, changed)
      await expect(Tokenizer.load(path)).rejects.toMatchObject({ code: 'ERR_FORMAT' })
    }
  })

  test('a file cut anywhere', async () => {
    for (let end = 0; end < valid.length - 1; end += Math.ceil(valid.length / 40)) {
      const path = join(folder, 'cut.json')
      writeFileSync(path, valid.slice(0, end))
      await expect(Tokenizer.load(path)).rejects.toMatchObject({
        code: 'ERR_FORMAT',
        message: expect.stringContaining(path),
      })
    }
  })

  test('bytes that are not UTF-8', async () => {
    const path = join(folder, 'bytes.json')
    writeFileSync(path, Buffer.of(0x7b, 0xff, 0x7d))
    await expect(Tokenizer.load(path)).rejects.toMatchObject({ code: 'ERR_FORMAT' })
  })

  test('a pattern that backtracks without end, when it is used', async () => {
    const file = JSON.parse(valid) as File
    file.pre_tokenizer = split('^(a+)+$')
    const path = join(folder, 'catastrophe.json')
    writeFileSync(path, JSON.stringify(file))
    const tokenizer = await Tokenizer.load(path)
    const text = `${'a'.repeat(2000)}b`
    expect(() => tokenizer.encode(text)).toThrow(expect.objectContaining({ code: 'ERR_FORMAT' }))
    await expect(tokenizer.encodeAsync(text)).rejects.toMatchObject({ code: 'ERR_FORMAT' })
    expect([...tokenizer.encode('b')]).toHaveLength(1)
  })
})

describe('accepted', () => {
  test('a token named __proto__', async () => {
    const file = JSON.parse(valid) as File
    const size = Object.keys(file.model.vocab).length + file.added_tokens.length
    const text = JSON.stringify(file).replace('"vocab":{', `"vocab":{"__proto__":${size - 1},`)
    // ids without gaps: the last added token moves up
    const moved = text.replace(`"id":${size - 1},`, `"id":${size},`)
    const path = join(folder, 'proto.json')
    writeFileSync(path, moved)
    const error = await Tokenizer.load(path).then(
      (tokenizer) => tokenizer.tokenToId('__proto__'),
      (reason: Error) => reason.message,
    )
    expect({}.constructor).toBe(Object)
    expect(error === size - 1 || /without gaps|one token of id/.test(String(error))).toBe(true)
  })
})
