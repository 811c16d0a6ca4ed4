// Inputs of a gigabyte (sparse files), and inputs that change while they are used. What is refused is refused
// soon; what is taken (FUSELM_HOSTILE_GB=1: it takes minutes) stays within bounded memory.

import { mkdtempSync, openSync, readFileSync, rmSync, truncateSync, unlinkSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Decoder, Device, FuselmError, TextDataset, Tokenizer, Trainer } from 'fuselm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const GIB = 2 ** 30
let folder: string
let tokenizer: Tokenizer
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-large-'))
  tokenizer = await Tokenizer.train({ texts: ['abc abd. '.repeat(50)], vocabSize: 270 })
})
afterAll(() => rmSync(folder, { recursive: true }))

/** The most memory that the process had more while `body` ran, worker threads included. */
async function peakOf(body: () => Promise<unknown>): Promise<number> {
  const rss = (): number => process.memoryUsage().rss
  const before = rss()
  let most = before
  const timer = setInterval(() => {
    most = Math.max(most, rss())
  }, 5)
  try {
    await body()
  } finally {
    clearInterval(timer)
  }
  return Math.max(most, rss()) - before
}

function sparse(name: string, head: string, bytes: number): string {
  const path = join(folder, name)
  writeFileSync(path, head)
  truncateSync(path, bytes)
  return path
}

describe('a gigabyte', () => {
  test('a line of JSONL', async () => {
    const path = sparse('line.jsonl', '{"text":"abc"}\n{"text":"', GIB)
    const peak = await peakOf(() =>
      expect(TextDataset.fromFiles([path], { tokenizer, contextLength: 8 })).rejects.toMatchObject({
        code: 'ERR_FORMAT',
        message: expect.stringMatching(/line\.jsonl:2: expected lines of at most 67108864 bytes, found more/),
      }),
    )
    // 64 MiB of the line are held, and what reading ahead and the thread itself take
    expect(peak).toBeLessThan(64e6 + 128e6)
  })

  test('a tokenizer.json', async () => {
    const path = sparse('tokenizer.json', '{', GIB)
    const peak = await peakOf(() =>
      expect(Tokenizer.load(path)).rejects.toMatchObject({
        code: 'ERR_FORMAT',
        message: expect.stringMatching(/tokenizer\.json: expected at most \d+ bytes, found 1073741824/),
      }),
    )
    expect(peak).toBeLessThan(64e6 + 64e6)
  })

  test.runIf(process.env['FUSELM_HOSTILE_GB'] !== undefined)(
    'a text of one line',
    async () => {
      const path = sparse('line.txt', 'abc', GIB)
      let dataset: TextDataset | undefined
      const peak = await peakOf(async () => {
        dataset = await TextDataset.fromFiles([path], { tokenizer, contextLength: 64, dedupe: false })
      })
      expect(dataset?.tokens).toBeGreaterThan(GIB - 16)
      await dataset?.close()
      console.log(`a line of 1 GiB: ${(peak / 2 ** 20).toFixed(0)} MiB more memory at most`)
      expect(peak).toBeLessThan(512e6)
    },
    1_200_000,
  )
})

describe('files that change', () => {
  const lines = (count: number): string =>
    Array.from({ length: count }, (_, i) => `{"text":"abc ${i} abd"}\n`).join('')

  test('one of several is gone: nothing is left behind', async () => {
    const [first, second] = [join(folder, 'first.jsonl'), join(folder, 'second.jsonl')]
    writeFileSync(first, lines(2000))
    writeFileSync(second, lines(10))
    const cache = join(folder, 'gone-cache')
    const building = TextDataset.fromFiles([first, second], { tokenizer, contextLength: 8, cache })
    unlinkSync(second)
    await expect(building).rejects.toMatchObject({ code: 'ENOENT' })
    expect(() => readFileSync(cache)).toThrow(/ENOENT/)
  })

  test('a source removed after it was read does no harm', async () => {
    const path = join(folder, 'removed.txt')
    writeFileSync(path, 'abc abd abc. '.repeat(100))
    const dataset = await TextDataset.fromFiles([path], { tokenizer, contextLength: 8 })
    unlinkSync(path)
    expect((await dataset.batch(0, 2)).targets).toBeGreaterThan(5)
    await dataset.close()
  })

  test('tokens that turn into others while a run reads them: an error, and the weights as they were', async () => {
    const cache = join(folder, 'turned')
    const text = ['abc abd abc. '.repeat(400)]
    const dataset = await TextDataset.from(text, { tokenizer, contextLength: 16, cache })
    const shape = { hiddenSize: 16, numHiddenLayers: 1, numAttentionHeads: 2, intermediateSize: 24 }
    using decoder = Decoder.create({ ...shape, maxPositionEmbeddings: 32 }, { tokenizer, seed: 1 })
    const file = openSync(cache, 'r+')
    writeSync(file, new Uint8Array(2 * dataset.tokens).fill(0x7f), 0, 2 * dataset.tokens, 32)
    const before = await decoder.model.inputEmbedding.toArray()
    const run = new Trainer(decoder, { train: dataset, out: join(folder, 'run'), steps: 3, batchSize: 2 })
    const error = await run.finish().then(
      () => undefined,
      (reason) => reason,
    )
    expect(error).toBeInstanceOf(FuselmError)
    expect(error).toMatchObject({ code: expect.stringMatching(/ERR_(VALUE|FORMAT)/) })
    expect(await decoder.model.inputEmbedding.toArray()).toEqual(before)
    await Device.default().sync().catch(() => undefined)
    expect((await decoder.generate('abc', { maxNewTokens: 2 }).completion()).tokenIds.length).toBeGreaterThan(0)
    await dataset.close()
  })
})

describe('text', () => {
  test('bytes that are not UTF-8 name their place, wherever a part ends', async () => {
    for (const at of [0, 5, 2 ** 20 - 1, 2 ** 20, 2 ** 20 + 1]) {
      const path = join(folder, 'bytes.txt')
      const bytes = Buffer.alloc(at + 10, 'a')
      bytes[at] = 0xff
      writeFileSync(path, bytes)
      await expect(TextDataset.fromFiles([path], { tokenizer, contextLength: 8 })).rejects.toMatchObject({
        code: 'ERR_FORMAT',
        message: expect.stringMatching(new RegExp(`bytes\\.txt: byte ${at}: expected UTF-8`)),
      })
      await expect(Tokenizer.train({ files: [path], vocabSize: 300 })).rejects.toMatchObject({ code: 'ERR_FORMAT' })
    }
  })

  test('a row deeper than the stack, and lone surrogates', async () => {
    const path = join(folder, 'deep.jsonl')
    const deep = `${'['.repeat(200_000)}${']'.repeat(200_000)}`
    for (const row of [`{"text":${deep}}`, deep, `{"messages":${deep}}`, `{"input_ids":${deep}}`]) {
      writeFileSync(path, `${row}\n`)
      const error = await TextDataset.fromFiles([path], { tokenizer, contextLength: 8 }).then(
        () => undefined,
        (reason) => reason,
      )
      expect(error, row.slice(0, 20)).toMatchObject({ code: 'ERR_FORMAT' })
      expect((error as Error).message.length).toBeLessThan(1000)
    }
    writeFileSync(path, `${'{"text":"abc \\ud800 abd \\udc00 abc abd abc abd"}\n'.repeat(3)}`)
    const dataset = await TextDataset.fromFiles([path], { tokenizer, contextLength: 8 })
    expect(dataset.tokens).toBeGreaterThan(8)
    await dataset.close()
  })
})
