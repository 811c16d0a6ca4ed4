// Trap 11: what of a corpus the loss counts: real ends of texts, what the assistant says, and never nothing.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, test } from 'vitest'
import { TextDataset } from '../../lib/data/dataset.ts'
import { type DocumentPart, documentOf, readDocuments } from '../../lib/data/documents.ts'
import { TokenFileWriter } from '../../lib/data/token-file.ts'
import { writeDocument } from '../../lib/data/tokenize.ts'
import { Tokenizer } from '../../lib/index.ts'
import { PieceCounter, trainBpe } from '../../lib/tokenizer/train.ts'
import { expectBetween, expectBitwise } from './numeric.ts'

const folder = mkdtempSync(join(tmpdir(), 'fuselm-trap-11-'))
afterAll(() => rmSync(folder, { recursive: true }))

const TEMPLATE =
  "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}<eos>{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
const EOS = 1

/** A tokenizer without a thread, so that a patch reaches it; it pads with <eos>, as many models do. */
function makeTokenizer(): Tokenizer {
  const counter = new PieceCounter('llama3')
  counter.add('hello, be brief. hi there, see you. bye bye. '.repeat(5))
  const specialTokens = ['<bos>', '<eos>']
  const spec = trainBpe(counter.counts, { vocabSize: 290, specialTokens, pattern: 'llama3', minFrequency: 2 })
  const special = { bosTokenId: 0, eosTokenId: EOS, padTokenId: EOS, unkTokenId: null }
  return Tokenizer.fromParts({ spec, special, chatTemplate: TEMPLATE, config: {} })
}

const tokenizer = makeTokenizer()
let files = 0

/** Documents as rows of whole ones: one per row, when they are longer than half of it. */
async function rowsOf(parts: Iterable<DocumentPart>, contextLength: number): Promise<TextDataset> {
  const writer = await TokenFileWriter.create(join(folder, `tokens-${files++}`), tokenizer.vocabSize)
  for (const part of parts) await writeDocument(writer, part, tokenizer)
  const options = { contextLength, seed: null, padTokenId: EOS }
  return TextDataset.of(await writer.finish(), 'examples', options)
}

test('trap 11 the eos of a text is learnt, padding with the same id is not', async () => {
  const texts = ['hello there', 'see you', 'be brief. bye bye']
  const ids = texts.map((text) => [...tokenizer.encode(text), EOS])
  const length = Math.max(...ids.map((row) => row.length)) + 3
  const dataset = await rowsOf(
    texts.map((text) => documentOf(text, 'row')),
    length,
  )
  const { rows, labels, ids: given } = await dataset.batch(0, dataset.rows)
  // packed or not: an id is real when it belongs to a document, in order
  const expected: number[] = []
  const tokens: number[] = []
  let at = 0
  for (let row = 0; row < rows; row++) {
    const line: number[] = []
    const targets: number[] = []
    while (at < ids.length && line.length + (ids[at]?.length ?? 0) <= length) {
      const document = ids[at++] ?? []
      line.push(...document)
      targets.push(-100, ...document.slice(1)) // nothing predicts a first token
    }
    tokens.push(...line, ...new Array<number>(length - line.length).fill(EOS))
    expected.push(...targets, ...new Array<number>(length - line.length).fill(-100))
  }
  expectBitwise('ids', given, tokens)
  expectBitwise('labels', labels, expected)
  await dataset.close()
})

test('trap 11 a conversation is learnt where the assistant speaks, its end included', async () => {
  const messages = [
    { role: 'system', content: 'be brief' },
    { role: 'user', content: 'hi there' },
    { role: 'assistant', content: 'hello' },
    { role: 'user', content: 'bye' },
    { role: 'assistant', content: 'see you' },
  ]
  const segments: [string, boolean][] = [
    ['<|system|>be brief<eos><|user|>hi there<eos><|assistant|>', false],
    ['hello<eos>', true],
    ['<|user|>bye<eos><|assistant|>', false],
    ['see you<eos>', true],
  ]
  const expected = segments.flatMap(([text, learnt]) =>
    [...tokenizer.encode(text, { addSpecialTokens: false })].map((id) => [id, learnt ? id : -100] as const),
  )
  const dataset = await rowsOf([documentOf({ messages }, 'row')], expected.length)
  const { ids, labels } = await dataset.batch(0, 1)
  expectBitwise(
    'ids',
    ids,
    expected.map(([id]) => id),
  )
  expectBitwise(
    'labels',
    labels,
    expected.map(([, label]) => label),
  )
  await dataset.close()
})

describe('an example with nothing to learn', () => {
  const good = JSON.stringify({ text: 'hello' })
  test.each([
    ['chat', { messages: [{ role: 'user', content: 'hi there' }] }],
    ['ids', { input_ids: [5, 6, 7], labels: [-100, -100, -100] }],
    ['completion', { prompt: 'hi there', completion: '' }],
  ])('trap 11 %s: an error that names the line', async (kind, row) => {
    const path = join(folder, `${kind}.jsonl`)
    writeFileSync(path, `${good}\n\n${JSON.stringify(row)}\n${good}\n`)
    const writer = await TokenFileWriter.create(join(folder, `tokens-${files++}`), tokenizer.vocabSize)
    let line = Number.NaN
    try {
      for await (const part of readDocuments(path)) await writeDocument(writer, part, tokenizer)
    } catch (error) {
      line = Number(/\.jsonl:(\d+): expected something to learn/.exec((error as Error).message)?.[1])
    }
    await (await writer.finish()).close()
    expectBetween('line of the error', line, 3, 3)
  })
})
