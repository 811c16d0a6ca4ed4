// Text, JSONL and token files that are wrong: each a typed error that names file and line, and nothing left behind.

import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { TextDataset, Tokenizer } from 'fuselm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

let folder: string
let tokenizer: Tokenizer
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-data-'))
  tokenizer = await Tokenizer.train({ texts: ['abc abd. '.repeat(50)], vocabSize: 270 })
})
afterAll(() => rmSync(folder, { recursive: true }))

const good = '{"text":"abc abd abc"}\n'
const files: [string, string | Uint8Array, RegExp][] = [
  ['a scalar row', `${good}3\n`, /:2: expected an object, found 3/],
  ['a list', `${good}[1,2]\n`, /:2: expected an object, found \[1,2\]/],
  ['null', `null\n`, /:1: expected an object, found null/],
  ['missing fields', `{"txt":"a"}\n`, /:1: expected one of "text".*found \["txt"\]/],
  ['a text that is a number', `{"text":3}\n`, /:1: expected a text as "text", found 3/],
  ['a truncated last line', `${good}{"text":"ab`, /:2: expected JSON, found/],
  ['bytes that are not UTF-8', Buffer.concat([Buffer.from(good), Buffer.of(0x22, 0xff, 0x22)]), /:2: expected UTF-8/],
  ['a completion of nothing', '{"prompt":"a","completion":""}\n', /:1: expected something to learn/],
  ['a prompt alone', '{"prompt":"a"}\n', /:1: expected a text as "completion", found null/],
  ['messages of nothing', '{"messages":[]}\n', /:1: expected a list as "messages", found \[\]/],
  ['a message without a role', '{"messages":[{"content":"a"}]}\n', /:1: messages\[0\]: expected a text as "role"/],
  ['a chat nobody answers', '{"messages":[{"role":"user","content":"a"}]}\n', /:1: expected something to learn/],
  ['an unknown speaker', '{"conversations":[{"from":"alien","value":"a"}]}\n', /"from" to be one of human/],
  ['an id past the vocabulary', '{"input_ids":[1,99999]}\n', /:1: expected ids from 0 to \d+, found 99999/],
  ['ids that are texts', '{"input_ids":["a"]}\n', /:1: expected integers in "input_ids", found "a"/],
  ['labels that do not fit', '{"input_ids":[1,2],"labels":[1]}\n', /:1: expected 2 labels, found 1/],
  ['labels of other ids', '{"input_ids":[1,2],"labels":[1,3]}\n', /found 3 for 2/],
  ['labels all masked', '{"input_ids":[5,6],"labels":[-100,-100]}\n', /:1: expected something to learn/],
]

describe('rows', () => {
  test.each(files)('%s', async (name, body, message) => {
    const path = join(folder, `${name.replace(/\W/g, '_')}.jsonl`)
    const cache = join(folder, 'cache')
    writeFileSync(path, body)
    const chat = tokenizer.withChatTemplate(
      '{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}',
    )
    await expect(
      TextDataset.fromFiles([path], { tokenizer: chat, contextLength: 4, cache }),
    ).rejects.toMatchObject({ code: 'ERR_FORMAT', message: expect.stringMatching(message) })
    expect(existsSync(cache)).toBe(false)
  })

  test('a template that rewrites earlier turns', async () => {
    const chat = tokenizer.withChatTemplate('{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}')
    const turn = (content: string) => [
      { role: 'user', content },
      { role: 'assistant', content },
    ]
    await expect(
      TextDataset.from([{ messages: [...turn('a'), ...turn('b')] }], { tokenizer: chat, contextLength: 4 }),
    ).rejects.toMatchObject({ code: 'ERR_FORMAT', message: expect.stringContaining('row 0: expected a chat template') })
  })

  test('a row that cannot be copied to another thread', async () => {
    await expect(
      TextDataset.from([{ text: () => 'a' } as never], { tokenizer, contextLength: 4 }),
    ).rejects.toMatchObject({ code: 'ERR_VALUE' })
  })
})

describe('corpora', () => {
  test.each([
    ['empty file', ''],
    ['too little text', 'a'],
  ])('%s', async (_, text) => {
    const path = join(folder, 'little.txt')
    writeFileSync(path, text)
    await expect(TextDataset.fromFiles([path], { tokenizer, contextLength: 64 })).rejects.toMatchObject({
      code: 'ERR_CONFIG',
      message: expect.stringMatching(/expected at least one row of 64 tokens, found \d+ tokens/),
    })
  })

  test('no files, a file that is not there, a folder', async () => {
    const options = { tokenizer, contextLength: 8 }
    expect(() => TextDataset.fromFiles([], options)).toThrow(/expected some files/)
    await expect(TextDataset.fromFiles([join(folder, 'none')], options)).rejects.toMatchObject({ code: 'ENOENT' })
    await expect(TextDataset.fromFiles([folder], options)).rejects.toMatchObject({ code: 'EISDIR' })
  })

  test('options', async () => {
    const text = ['abc abd']
    await expect(TextDataset.from(text, { tokenizer, contextLength: 1 })).rejects.toMatchObject({ code: 'ERR_VALUE' })
    await expect(
      TextDataset.from(text, { tokenizer, contextLength: 4, holdOut: 0.9 }),
    ).rejects.toMatchObject({ code: 'ERR_VALUE' })
    await expect(
      TextDataset.from(text, { tokenizer, contextLength: 4, contextlength: 4 } as never),
    ).rejects.toThrow(/unknown option 'contextlength'; did you mean 'contextLength'/)
  })

  test('an abort, with its reason', async () => {
    const controller = new AbortController()
    const endless = (function* () {
      for (let i = 0; ; i++) {
        if (i === 5000) controller.abort(new Error('enough'))
        yield `abc ${i}`
      }
    })()
    await expect(
      TextDataset.from(endless, { tokenizer, contextLength: 8, signal: controller.signal }),
    ).rejects.toThrow('enough')
  })
})

describe('token files', () => {
  test('cut, changed, unfinished', async () => {
    const cache = join(folder, 'tokens')
    const dataset = await TextDataset.from(['abc abd abc abd'], { tokenizer, contextLength: 4, cache })
    await dataset.close()
    const valid = readFileSync(cache)
    const open = { contextLength: 4, layout: 'stream' } as const
    for (let size = 0; size < valid.length; size++) {
      writeFileSync(cache, valid.subarray(0, size))
      await expect(TextDataset.open(cache, open)).rejects.toMatchObject({
        code: 'ERR_FORMAT',
        message: expect.stringContaining(cache),
      })
    }
    for (const [at, value] of [
      [0, 0x58],
      [8, 3],
      [16, 0xff],
      [24, 0xff],
      [valid.length - 1, 0xff],
    ] as const) {
      const bytes = Buffer.from(valid)
      bytes[at] = value
      writeFileSync(cache, bytes)
      await expect(TextDataset.open(cache, open)).rejects.toMatchObject({ code: 'ERR_FORMAT' })
    }
  })

  test('cut while it is read', async () => {
    const cache = join(folder, 'cut')
    const text = Array.from({ length: 200 }, (_, i) => `abc ${i}`)
    const dataset = await TextDataset.from(text, { tokenizer, contextLength: 8, cache })
    truncateSync(cache, 100)
    await expect(dataset.batch(0, dataset.rows)).rejects.toMatchObject({
      code: 'ERR_FORMAT',
      message: expect.stringMatching(/the file was cut short/),
    })
    await dataset.close()
  })
})
