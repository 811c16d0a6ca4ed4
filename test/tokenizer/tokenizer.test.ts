import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Tokenizer } from 'fuselm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const GPT2 = fileURLToPath(new URL('../golden/tokenizer/gpt2.json', import.meta.url))
const LLAMA2 = fileURLToPath(new URL('../golden/tokenizer/llama2.json', import.meta.url))
const LLAMA3 = fileURLToPath(new URL('../golden/tokenizer/llama3.json', import.meta.url))

let folder: string
let tokenizer: Tokenizer
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-tokenizer-'))
  tokenizer = await Tokenizer.train({ texts: ['the cat sat on the mat. '.repeat(20)], vocabSize: 280 })
})
afterAll(() => rmSync(folder, { recursive: true }))

describe('trained', () => {
  test('special tokens come first and have their roles', () => {
    expect(tokenizer.bosTokenId).toBe(0)
    expect(tokenizer.eosTokenId).toBe(1)
    expect(tokenizer.padTokenId).toBe(2)
    expect(tokenizer.unkTokenId).toBe(3)
    expect(tokenizer.idToToken(1)).toBe('<eos>')
    expect(tokenizer.tokenToId('<pad>')).toBe(2)
    expect(tokenizer.idToToken(tokenizer.vocabSize)).toBeUndefined()
    expect(tokenizer.tokenToId('nothing such')).toBeUndefined()
  })

  test('any text comes back', () => {
    for (const text of ['', 'the cat', '你好 👍\r\n\t', 'e\u0301\u0000\ufeff']) {
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text)
    }
    expect(tokenizer.decode(tokenizer.encode('a\ud800b'))).toBe('a\ufffdb')
  })

  test('a vocabulary ends where the text gives no more pairs', () => {
    expect(tokenizer.vocabSize).toBeLessThanOrEqual(280)
    expect(tokenizer.vocabSize).toBeGreaterThan(262)
  })

  test('special tokens in a text can be taken as text', () => {
    expect([...tokenizer.encode('<eos>')]).toEqual([1])
    const ids = tokenizer.encode('<eos>', { splitSpecialTokens: true })
    expect(ids.length).toBeGreaterThan(1)
    expect(tokenizer.decode(ids)).toBe('<eos>')
  })
})

describe('streams never give half a character', () => {
  test.each([
    ['byte-level', GPT2],
    ['byte fallback', LLAMA2],
  ])('%s', async (_, path) => {
    const loaded = await Tokenizer.load(path)
    const text = 'naïve 你好 👨‍👩‍👧‍👦 🏳️‍🌈 été \u{10FFFF} 𝔘𝔫𝔦'
    const stream = loaded.decodeStream()
    const pieces = [...loaded.encode(text)].map((id) => stream.push(id))
    pieces.push(stream.end())
    expect(pieces.join('')).toBe(text)
    for (const piece of pieces) {
      expect(piece.isWellFormed()).toBe(true)
      expect(piece).not.toContain('\ufffd')
    }
  })

  test('an unfinished character shows at the end, and the stream begins anew', async () => {
    const [first = 0] = tokenizer.encode('你')
    const stream = tokenizer.decodeStream()
    expect(stream.push(first)).toBe('')
    expect(stream.end()).toBe('\ufffd')
    const text = 'the'
    expect([...tokenizer.encode(text)].map((id) => stream.push(id)).join('') + stream.end()).toBe(text)
  })
})

describe('chat templates', () => {
  const template =
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
  const messages = [
    { role: 'user', content: ' Hi ' },
    { role: 'assistant', content: 'Hello' },
  ]

  test('render, with and without the opening of an answer', () => {
    const chat = tokenizer.withChatTemplate(template)
    const text = '<bos><|user|>\nHi<eos>\n<|assistant|>\nHello<eos>\n'
    expect(chat.applyChatTemplate(messages)).toBe(text)
    expect(chat.applyChatTemplate(messages, { addGenerationPrompt: true })).toBe(`${text}<|assistant|>\n`)
  })

  test('a template that begins with <bos> gives one, though the tokenizer adds its own', async () => {
    const path = join(folder, 'tokenizer.json')
    writeFileSync(path, readFileSync(LLAMA3))
    const config = { bos_token: { content: '<bos>' }, eos_token: '<eos>', chat_template: template }
    writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(config))
    const chat = await Tokenizer.load(folder)
    const bos = chat.bosTokenId as number
    expect([...chat.encode('Hi')].filter((id) => id === bos)).toHaveLength(1)
    expect([...(await chat.encodeChat(messages))].filter((id) => id === bos)).toHaveLength(1)
  })

  test('chat_template.jinja wins over the one in tokenizer_config.json, and both are written', async () => {
    const loadedFrom = mkdtempSync(join(folder, 'jinja-'))
    await tokenizer.withChatTemplate('A{{ messages[0].content }}').save(loadedFrom)
    writeFileSync(join(loadedFrom, 'chat_template.jinja'), 'B{{ messages[0].content }}')
    const loaded = await Tokenizer.load(loadedFrom)
    expect(loaded.applyChatTemplate(messages)).toBe('B Hi ')
    await loaded.save(loadedFrom)
    const config = JSON.parse(readFileSync(join(loadedFrom, 'tokenizer_config.json'), 'utf8'))
    expect(config.chat_template).toBe('B{{ messages[0].content }}')
    expect(config.bos_token).toBe('<bos>')
  })

  test.each([
    ['a huge range', '{% for i in range(1000000000000) %}x{% endfor %}', /range: expected at most/],
    [
      'loops in loops',
      '{% for i in range(9000) %}{% for j in range(9000) %}x{% endfor %}{% endfor %}',
      /expected at most \d+ steps/,
    ],
    [
      'a text that doubles',
      "{% set n = namespace(a='aaaaaaaaaaaaaaaa') %}{% for i in range(100) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
      /expected texts of at most/,
    ],
    [
      'a list that doubles',
      '{% set n = namespace(a=[1,2]) %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}',
      /expected lists of at most/,
    ],
    ['a constructor', "{{ ''.constructor.constructor('return process')() }}", /not a function/],
    ['macros without end', '{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}', /chat template: /],
    ['an indent of a gigabyte', "{{ 'a\nb' | indent(1000000000) }}", /chat template: /],
    ['raise_exception', "{{ raise_exception('roles must alternate') }}", /roles must alternate/],
  ])('refuse %s', (_, source, message) => {
    const chat = tokenizer.withChatTemplate(source)
    expect(() => chat.applyChatTemplate(messages)).toThrow(
      expect.objectContaining({ code: 'ERR_VALUE', message: expect.stringMatching(message) }),
    )
    expect(tokenizer.decode(tokenizer.encode('the cat'))).toBe('the cat')
  })

  test('refuse what is no Jinja, and a tokenizer without one', () => {
    expect(() => tokenizer.withChatTemplate('{% for %}')).toThrow(
      expect.objectContaining({ code: 'ERR_FORMAT' }),
    )
    expect(() => tokenizer.applyChatTemplate(messages)).toThrow(/has no chat template/)
  })
})

describe('long texts and misuse', () => {
  test('a long text goes over in parts, cut anywhere: the ids are those of the whole', async () => {
    // characters of two units, so that a part ends between the halves of one
    const text = `a${'😀 the cat '.repeat(25_000)}`
    const [whole, again, short] = await Promise.all([
      tokenizer.encodeAsync(text),
      tokenizer.encodeAsync([text, 'the']),
      tokenizer.encodeAsync('the cat'),
    ])
    expect(whole).toEqual(tokenizer.encodeHere(text, true))
    expect(again).toEqual([whole, tokenizer.encode('the')])
    expect(short).toEqual(tokenizer.encode('the cat'))
    const many = Array.from({ length: 5000 }, (_, i) => 'the cat '.slice(0, i % 9))
    expect(await tokenizer.encodeAsync(many)).toEqual(many.map((part) => tokenizer.encode(part)))
  }, 120_000)

  test('encode refuses more than 64 KiB and names encodeAsync', async () => {
    const text = 'the cat '.repeat(10_000)
    expect(() => tokenizer.encode(text)).toThrow(/at most 65536 characters, received 80000; use encodeAsync/)
    expect(tokenizer.decode(await tokenizer.encodeAsync(text))).toBe(text)
  })

  test('a word of five megabytes, without hanging', { timeout: 120_000 }, async () => {
    const word = 'thecatsatonthemat'.repeat(300_000)
    const ids = await tokenizer.encodeAsync(word)
    expect(tokenizer.decode(ids)).toBe(word)
  })

  test('an abort ends the wait with its reason; the tokenizer goes on', async () => {
    const controller = new AbortController()
    const pending = tokenizer.encodeAsync('the cat '.repeat(100_000), { signal: controller.signal })
    controller.abort(new Error('enough'))
    await expect(pending).rejects.toThrow('enough')
    expect((await tokenizer.encodeAsync('the cat')).length).toBeGreaterThan(0)
  })

  test.each([
    ['a vocabulary too small', { texts: ['x'], vocabSize: 257 }, 'ERR_CONFIG', /at least 260/],
    ['NaN', { texts: ['x'], vocabSize: Number.NaN }, 'ERR_VALUE', /vocabSize must be an integer/],
    ['no text', { texts: [], vocabSize: 300 }, 'ERR_CONFIG', /expected some text/],
    [
      'equal special tokens',
      { texts: ['x'], vocabSize: 300, specialTokens: ['a', 'a'] },
      'ERR_CONFIG',
      /differ/,
    ],
    [
      'an unknown option',
      { texts: ['x'], vocabSize: 300, vocabulary: 3 },
      'ERR_CONFIG',
      /unknown option 'vocabulary'/,
    ],
  ])('training refuses %s', async (_, options, code, message) => {
    await expect(Tokenizer.train(options as never)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    })
  })

  test('training refuses a file that is not UTF-8, naming the byte, and one that is not there', async () => {
    const path = join(folder, 'latin1.txt')
    writeFileSync(path, Buffer.concat([Buffer.from('caf'), Buffer.of(0xe9, 0x20)]))
    await expect(Tokenizer.train({ files: [path], vocabSize: 300 })).rejects.toMatchObject({
      code: 'ERR_FORMAT',
      message: expect.stringContaining(`${path}: byte 3: expected UTF-8`),
    })
    await expect(Tokenizer.train({ files: [join(folder, 'none')], vocabSize: 300 })).rejects.toMatchObject({
      code: 'ENOENT',
    })
  })
})
