// Whole folders of transformers: model, tokenizer, chat template, generation config (test/golden/interop/make.py).
// FUSELM_INTEROP names a folder of more of them, which scripts/check-interop.mjs makes.

import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ChatMessage, Decoder, noGrad, scope, tensor } from '../../lib/index.ts'
import { readSafetensors } from '../ops/runner/golden.ts'
import { expectNoLeaks } from '../unit/leaks.ts'

interface Expected {
  readonly texts: [text: string, ids: number[]][]
  readonly chat: { readonly messages: ChatMessage[]; readonly text: string; readonly ids: number[] }
  readonly ends: number[]
}

const committed = fileURLToPath(new URL('../golden/interop/', import.meta.url))
const more = process.env['FUSELM_INTEROP']
const folders = [
  join(committed, 'llama'),
  ...(more === undefined ? [] : (await readdir(more)).map((name) => join(more, name))),
]

let out: string
beforeAll(async () => {
  out = await mkdtemp(join(tmpdir(), 'fuselm-interop-'))
})
afterAll(() => rm(out, { recursive: true }))

const json = async (path: string): Promise<unknown> => JSON.parse(await readFile(path, 'utf8'))

describe.each(folders)('%s', (folder) => {
  expectNoLeaks()

  test('logits, ids, conversation and ends are theirs; so they are of a folder saved here', async () => {
    const expected = (await json(join(folder, 'expected.json'))) as Expected
    const { tensors } = readSafetensors(join(folder, 'expected.safetensors'))
    const [ids, logits] = [tensors.get('ids'), tensors.get('logits')]
    const saved = await mkdtemp(join(out, 'saved-'))
    for (const path of [folder, saved]) {
      using decoder = await Decoder.load(path, path === folder ? { dtype: 'f32' } : {})
      const { tokenizer } = decoder
      for (const [text, theirs] of expected.texts) expect([...tokenizer.encode(text)], text).toEqual(theirs)
      const { messages, text, ids: chatIds } = expected.chat
      expect(tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true })).toBe(text)
      expect([...(await tokenizer.encodeChat(messages, { addGenerationPrompt: true }))]).toEqual(chatIds)
      expect(decoder.eosTokenIds).toEqual(expected.ends)

      const found = noGrad(() =>
        scope(() =>
          decoder.model.forward(tensor(ids?.values ?? [], { shape: ids?.shape ?? [], dtype: 'i32' })),
        ),
      )
      const values = await found.toArray()
      found.dispose()
      const largest = Math.max(
        ...(logits?.values ?? []).map((value, i) => Math.abs(value - (values[i] ?? NaN))),
      )
      expect(largest).toBeLessThan(1e-4)
      if (path === folder) await decoder.save(saved)
    }
    // what we have no use for is kept
    const theirs = (await json(join(folder, 'generation_config.json'))) as object
    expect(await json(join(saved, 'generation_config.json'))).toEqual(theirs)
    expect(await readFile(join(saved, 'chat_template.jinja'), 'utf8')).toBe(
      await readFile(join(folder, 'chat_template.jinja'), 'utf8'),
    )
  })
})

test('every end of a list ends an answer', async () => {
  const folder = join(out, 'one-end')
  await cp(join(committed, 'llama'), folder, { recursive: true })
  for (const name of ['config.json', 'generation_config.json']) {
    const { eos_token_id: _, ...rest } = (await json(join(folder, name))) as Record<string, unknown>
    await writeFile(join(folder, name), JSON.stringify(rest))
  }
  using both = await Decoder.load(join(committed, 'llama'))
  using one = await Decoder.load(folder)
  expect([both.eosTokenIds, one.eosTokenIds]).toEqual([[1, 2], [1]])
  let ended = 0
  for (let seed = 0; seed < 12; seed++) {
    const options = { seed, temperature: 3, maxNewTokens: 60 }
    const [a, b] = await Promise.all(
      [both, one].map((decoder) => decoder.generate('the fox', options).completion()),
    )
    const end = b?.tokenIds.indexOf(2) ?? -1
    expect(a?.tokenIds).toEqual(end < 0 ? b?.tokenIds : b?.tokenIds.slice(0, end))
    if (end >= 0) ended++
  }
  expect(ended).toBeGreaterThan(0)
})

test.each([
  ['[]', /generation_config.json: expected an object, found/],
  ['null', /generation_config.json: expected an object, found null/],
  ['{"eos_token_id": [1, 2', /generation_config.json: expected JSON/],
])('a generation_config.json that is %s is refused by name', async (text, message) => {
  const folder = await mkdtemp(join(out, 'bad-'))
  await cp(join(committed, 'llama'), folder, { recursive: true })
  await writeFile(join(folder, 'generation_config.json'), text)
  await expect(Decoder.load(folder)).rejects.toThrow(message)
})
