// Ids, decoded text and trained merges equal those of the Hugging Face library (test/golden/tokenizer/make.py).

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gunzipSync } from 'node:zlib'
import { Tokenizer } from 'fuselm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

interface Goldens {
  readonly texts: readonly string[]
  readonly kinds: Readonly<
    Record<string, { readonly ids: number[][]; readonly random: number[][]; readonly decoded: string[] }>
  >
}

const golden = (name: string): string =>
  fileURLToPath(new URL(`../golden/tokenizer/${name}`, import.meta.url))
const goldens = JSON.parse(gunzipSync(readFileSync(golden('goldens.json.gz'))).toString()) as Goldens

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-tokenizer-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

describe.each(['gpt2', 'llama3', 'qwen2', 'deepseek', 'llama2', 'metaspace'])('%s', (kind) => {
  const expected = goldens.kinds[kind] as Goldens['kinds'][string]
  let tokenizer: Tokenizer
  beforeAll(async () => {
    tokenizer = await Tokenizer.load(golden(`${kind}.json`))
  })

  test('10,000 texts have the same ids, one by one and together', async () => {
    expect(goldens.texts.length).toBe(10_000)
    goldens.texts.forEach((text, i) => {
      expect([...tokenizer.encode(text)], JSON.stringify(text)).toEqual(expected.ids[i])
    })
    const together = await tokenizer.encodeAsync(goldens.texts)
    expect(together.map((ids) => [...ids])).toEqual(expected.ids)
  })

  test('random ids decode to the same text, at once and as a stream', () => {
    let compared = 0
    expected.random.forEach((ids, i) => {
      // Of byte tokens in a row the other library shows all as U+FFFD when one is out of place. A stream
      // cannot know that yet, so here the characters that are whole are shown.
      const byteFallback = kind === 'llama2' || kind === 'metaspace'
      if (byteFallback && expected.decoded[i]?.includes('\ufffd')) return
      compared++
      expect(tokenizer.decode(ids), String(ids)).toBe(expected.decoded[i])
      const stream = tokenizer.decodeStream()
      expect(ids.map((id) => stream.push(id)).join('') + stream.end()).toBe(expected.decoded[i])
    })
    expect(compared).toBeGreaterThan(300)
  })

  test('saved and loaded, it is the same', async () => {
    const path = join(folder, kind)
    mkdirSync(path)
    await tokenizer.save(path)
    const again = await Tokenizer.load(path)
    const sample = goldens.texts.slice(0, 500)
    expect(await again.encodeAsync(sample)).toEqual(await tokenizer.encodeAsync(sample))
    const original = JSON.parse(readFileSync(golden(`${kind}.json`), 'utf8'))
    const written = JSON.parse(readFileSync(join(path, 'tokenizer.json'), 'utf8'))
    expect(written.model.vocab).toEqual(original.model.vocab)
    expect(written.model.merges).toEqual(original.model.merges)
    expect(written.added_tokens).toEqual(original.added_tokens)
    expect(written.pre_tokenizer).toEqual(original.pre_tokenizer)
  })
})

test('training makes the same vocabulary and merges', async () => {
  const trained = JSON.parse(readFileSync(golden('trained.json'), 'utf8'))
  const tokenizer = await Tokenizer.train({
    texts: goldens.texts.filter((text) => [...text].length < 2048),
    vocabSize: 2000,
  })
  await tokenizer.save(folder)
  const { model } = JSON.parse(readFileSync(join(folder, 'tokenizer.json'), 'utf8'))
  expect(model.merges).toEqual(trained.merges)
  expect(model.vocab).toEqual(trained.vocab)
})

test('training on a file in parts equals training on the text', async () => {
  const lines = goldens.texts.map((text) => text.replace(/\s+/g, ' ').trim()).filter((text) => text !== '')
  const text = `${lines.join('\n')}\n`.repeat(12)
  expect(text.length).toBeGreaterThan(2 ** 21)
  const path = join(folder, 'corpus.txt')
  writeFileSync(path, `\ufeff${text}`)
  const fromFile = await Tokenizer.train({ files: [path], vocabSize: 1500 })
  const fromText = await Tokenizer.train({ texts: [text], vocabSize: 1500 })
  const ids = Array.from({ length: 1500 }, (_, id) => id)
  expect(ids.map((id) => fromFile.idToToken(id))).toEqual(ids.map((id) => fromText.idToToken(id)))
})
