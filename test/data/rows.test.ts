// Datasets against a plain reading of the same documents.

import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Batch, type DataProgress, type DataRow, TextDataset, Tokenizer } from 'fuselm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { permutation } from '../../lib/data/permutation.ts'

let folder: string
let tokenizer: Tokenizer
const EOS = 1
const PAD = 2

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-data-'))
  tokenizer = await Tokenizer.train({ texts: ['abc abd. '.repeat(50)], vocabSize: 270 })
})
afterAll(() => rmSync(folder, { recursive: true }))

const rowOf = ({ ids, labels, positions, first, length }: Batch, row: number) => {
  const part = (array: Int32Array): number[] => [...array.subarray(row * length, (row + 1) * length)]
  return { ids: part(ids), labels: part(labels), positions: part(positions), first: part(first) }
}

describe('permutation', () => {
  test.each([1, 2, 3, 7, 64, 1000, 4097])('of %i is one, by seed and epoch', (size) => {
    const all = (seed: number, epoch: number): number[] => {
      const at = permutation(size, seed, epoch)
      return Array.from({ length: size }, (_, i) => at(i))
    }
    const sorted = Array.from({ length: size }, (_, i) => i)
    expect(all(1, 0).sort((a, b) => a - b)).toEqual(sorted)
    expect(all(1, 0)).toEqual(all(1, 0))
    if (size < 64) return
    expect(all(1, 0)).not.toEqual(all(2, 0))
    expect(all(1, 0)).not.toEqual(all(1, 1))
    // no order left: neighbours stand n/3 apart on average, with a standard error of about n/4/sqrt(n)
    const order = all(5, 3)
    const distance =
      order.slice(1).reduce((sum, value, i) => sum + Math.abs(value - (order[i] as number)), 0) / (size - 1)
    expect(Math.abs(distance / size - 1 / 3)).toBeLessThan(1 / Math.sqrt(size))
  })
})

describe('stream', () => {
  const texts = ['abc abd', 'aa', 'bb cc dd', 'abd. abc', 'dcba', 'a b c d']
  let dataset: TextDataset
  let tokens: number[]
  let starts: number[]
  beforeAll(async () => {
    dataset = await TextDataset.from(texts, { tokenizer, contextLength: 8, seed: null })
    tokens = []
    starts = []
    for (const text of texts) {
      starts.push(tokens.length)
      tokens.push(...tokenizer.encode(text), EOS)
    }
  })
  afterAll(() => dataset.close())

  test('fewer rows than there are lie spread over the source', async () => {
    const all: number[][] = []
    for await (const batch of dataset.once(1)) all.push(rowOf(batch, 0).ids)
    expect(all).toHaveLength(dataset.rows)
    const half = Math.floor(dataset.rows / 2)
    expect(half).toBeGreaterThan(1)
    const spread: number[][] = []
    for await (const batch of dataset.once(1, { maxRows: 2 })) spread.push(rowOf(batch, 0).ids)
    expect(spread).toEqual([all[0], all[half]])
  })

  test('rows share one token, so each token is a target once', async () => {
    expect(dataset.tokens).toBe(tokens.length)
    expect(dataset.documents).toBe(texts.length)
    expect(dataset.rows).toBe(Math.floor((tokens.length - 1) / 7))
    const batch = await dataset.batch(0, dataset.rows)
    let targets = 0
    for (let row = 0; row < dataset.rows; row++) {
      const { ids, labels, positions, first } = rowOf(batch, row)
      const begin = row * 7
      expect(ids).toEqual(tokens.slice(begin, begin + 8))
      ids.forEach((id, i) => {
        const start = Math.max(0, Math.max(...starts.filter((place) => place <= begin + i)) - begin)
        expect(first[i]).toBe(start)
        expect(positions[i]).toBe(i - start)
        // what begins a document is not to be told from the one before
        const begins = i > 0 && starts.includes(begin + i)
        expect(labels[i]).toBe(begins ? -100 : id)
        if (i > 0 && !begins) targets++
      })
    }
    expect(batch.targets).toBe(targets)
  })

  test('a seed shuffles rows anew in each epoch; any place can be read by itself', async () => {
    const shuffled = await TextDataset.from(texts, { tokenizer, contextLength: 8, seed: 3 })
    const { rows } = shuffled
    const all = await shuffled.batch(0, 2 * rows)
    const text = (row: number): string => String(rowOf(all, row).ids)
    const epoch = (e: number): string[] => Array.from({ length: rows }, (_, i) => text(e * rows + i))
    expect([...epoch(0)].sort()).toEqual([...epoch(1)].sort())
    expect(epoch(0)).not.toEqual(epoch(1))
    for (const row of [0, 1, rows - 1, rows, 2 * rows - 1]) {
      expect(String(rowOf(await shuffled.batch(row, 1), 0).ids)).toBe(text(row))
    }
    let row = rows - 1
    for await (const batch of shuffled.batches(1, { from: row })) {
      expect(String(rowOf(batch, 0).ids)).toBe(text(row))
      if (++row === rows + 2) break
    }
    await shuffled.close()
  })

  test('once goes through all rows in order, the last batch may be small', async () => {
    const sizes: number[] = []
    const seen: number[] = []
    for await (const batch of dataset.once(2)) {
      sizes.push(batch.rows)
      for (let row = 0; row < batch.rows; row++) seen.push(rowOf(batch, row).ids[0] as number)
    }
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(dataset.rows)
    expect(seen).toEqual(Array.from({ length: dataset.rows }, (_, row) => tokens[row * 7]))
  })

  test('duplicates are dropped, and a share is held out', async () => {
    const many = Array.from({ length: 400 }, (_, i) => `text ${i} abc abd`)
    const progress: DataProgress[] = []
    const options = {
      tokenizer,
      contextLength: 16,
      holdOut: 0.2,
      onProgress: (p: DataProgress) => progress.push(p),
    }
    const { train, validation } = await TextDataset.from([...many, ...many], options)
    expect(progress.at(-1)).toMatchObject({ documents: 400, duplicates: 400 })
    expect(train.documents + validation.documents).toBe(400)
    expect(Math.abs(validation.documents - 80)).toBeLessThan(10)
    const again = await TextDataset.from([...many], options)
    expect(again.validation.documents).toBe(validation.documents)
    for (const set of [train, validation, again.train, again.validation]) await set.close()
  })
})

test('one long text has a validation set, too, and nothing is in both', async () => {
  const lines = Array.from({ length: 8000 }, (_, i) => `line ${i} abc abd`)
  const options = { tokenizer, contextLength: 64, seed: null, holdOut: 0.1 }
  const { train, validation } = await TextDataset.from([lines.join('\n')], options)
  expect(validation.tokens / (train.tokens + validation.tokens)).toBeGreaterThan(0.08)
  expect(validation.tokens / (train.tokens + validation.tokens)).toBeLessThan(0.12)
  const numbers = async (set: TextDataset): Promise<Set<string>> => {
    const found = new Set<string>()
    for await (const batch of set.once(64)) {
      for (let row = 0; row < batch.rows; row++) {
        const text = tokenizer.decode(rowOf(batch, row).ids)
        for (const match of text.matchAll(/line (\d+) abc abd/g)) found.add(match[1] as string)
      }
    }
    return found
  }
  const [a, b] = [await numbers(train), await numbers(validation)]
  expect([...b].filter((number) => a.has(number))).toEqual([])
  expect(a.size + b.size).toBeGreaterThan(6000) // rows cut some lines in two
  for (const set of [train, validation]) await set.close()
})

describe('examples', () => {
  const template =
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"

  test('answers are targets, questions are not', async () => {
    const chat = tokenizer.withChatTemplate(template)
    const rows: DataRow[] = [
      {
        messages: [
          { role: 'user', content: 'abc' },
          { role: 'assistant', content: 'abd' },
          { role: 'user', content: 'x' },
          { role: 'assistant', content: 'y' },
        ],
      },
    ]
    const dataset = await TextDataset.from(rows, { tokenizer: chat, contextLength: 64, seed: null })
    const { ids, labels } = rowOf(await dataset.batch(0, 1), 0)
    const used = dataset.tokens
    const text = (keep: (i: number) => boolean): string =>
      chat.decode(
        ids.filter((_, i) => i < used && keep(i)),
        { skipSpecialTokens: false },
      )
    expect(text(() => true)).toBe('[user]abc[assistant]abd<eos>[user]x[assistant]y<eos>')
    expect(text((i) => labels[i] !== -100)).toBe('abd<eos>y<eos>')
    await dataset.close()
  })

  test('several fit into a row, apart from each other; the rest is padding that nobody sees', async () => {
    const rows: DataRow[] = [
      { prompt: 'ab', completion: 'cd' },
      { prompt: 'x', completion: 'yz' },
      { prompt: 'q'.repeat(30), completion: 'r' },
      { prompt: 's', completion: 't' },
    ]
    const dataset = await TextDataset.from(rows, { tokenizer, contextLength: 16, seed: null })
    const lengths = rows.map((row) => {
      const { prompt, completion } = row as { prompt: string; completion: string }
      return tokenizer.encode(prompt).length + tokenizer.encode(completion).length + 1
    })
    expect(lengths[2]).toBeGreaterThan(16)
    expect(dataset.rows).toBe(3) // two together, the long one cut, the last
    const batch = await dataset.batch(0, 3)
    const { ids, labels, positions, first } = rowOf(batch, 0)
    const [a = 0, b = 0] = lengths
    for (let i = 0; i < 16; i++) {
      const start = i < a ? 0 : i < a + b ? a : i + 1
      expect(first[i]).toBe(start)
      expect(positions[i]).toBe(i < a + b ? i - start : 0)
      if (i >= a + b) expect([ids[i], labels[i]]).toEqual([PAD, -100])
    }
    expect(labels[a]).toBe(-100)
    const long = rowOf(batch, 1)
    expect(long.ids).toHaveLength(16)
    expect(long.first.every((place) => place === 0)).toBe(true)
    await dataset.close()
  })

  test('rows of ids are taken as they are', async () => {
    const rows: DataRow[] = [
      { input_ids: [5, 6, 7, 8, 9], attention_mask: [0, 1, 1, 1, 1], labels: [-100, -100, 7, 8, 9] },
    ]
    const dataset = await TextDataset.from(rows, { tokenizer, contextLength: 6, seed: null })
    const { ids, labels } = rowOf(await dataset.batch(0, 1), 0)
    expect(ids).toEqual([6, 7, 8, 9, PAD, PAD])
    expect(labels).toEqual([-100, 7, 8, 9, -100, -100])
    await dataset.close()
  })
})

describe('files', () => {
  test('text and JSONL, byte-order marks, CRLF, blank lines, no final newline', async () => {
    const text = join(folder, 'a.txt')
    const jsonl = join(folder, 'b.jsonl')
    writeFileSync(text, '\ufeffabc\r\nabd')
    writeFileSync(jsonl, '\ufeff{"text":"abc"}\r\n\r\n   \n{"text":"a\\u2028b"}')
    const dataset = await TextDataset.fromFiles([text, jsonl], { tokenizer, contextLength: 4, seed: null })
    expect(dataset.documents).toBe(3)
    const expected = ['abc\r\nabd', 'abc', 'a\u2028b'].flatMap((part) => [...tokenizer.encode(part), EOS])
    expect(dataset.tokens).toBe(expected.length)
    await dataset.close()
  })

  test('a cache opens again to the same rows', async () => {
    const cache = join(folder, 'tokens')
    const rows = Array.from({ length: 50 }, (_, i) => `abc ${i} abd`)
    const dataset = await TextDataset.from(rows, { tokenizer, contextLength: 8, cache })
    const expected = await dataset.batch(0, 20)
    await dataset.close()
    const again = await TextDataset.open(cache, { contextLength: 8, layout: 'stream' })
    expect(await again.batch(0, 20)).toEqual(expected)
    await again.close()
  })

  test('without a cache nothing stays behind', async () => {
    const own = mkdtempSync(join(folder, 'tmp-'))
    const before = process.env['TMPDIR']
    process.env['TMPDIR'] = own
    try {
      const dataset = await TextDataset.from(['abc abd abc'], { tokenizer, contextLength: 4 })
      await dataset.batch(0, 1)
      expect(readdirSync(own)).toEqual([])
      await dataset.close()
    } finally {
      if (before === undefined) delete process.env['TMPDIR']
      else process.env['TMPDIR'] = before
    }
  })
})

test('a long text goes to the thread in parts, cut anywhere: its tokens are those of the whole', async () => {
  const text = `a${'😀 abc abd. '.repeat(40_000)}`
  const ids = tokenizer.encodeHere(text, true)
  for (const row of [text, { text }]) {
    const dataset = await TextDataset.from([row, 'abc'], {
      tokenizer,
      contextLength: 64,
      layout: 'stream',
      seed: null,
    })
    expect(dataset.tokens).toBe(ids.length + 4) // those of "abc", and the ends of both
    // the last token of a row is the first of the next
    const { ids: found } = await dataset.batch(4000, 1)
    expect([...found]).toEqual([...ids.subarray(4000 * 63, 4000 * 63 + 64)])
    await dataset.close()
  }
})
