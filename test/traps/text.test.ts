// Traps 12 (one <bos>, whole characters in a stream) and 13 (counts and memory of training a tokenizer).

import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, test } from 'vitest'
import { documentOf } from '../../lib/data/documents.ts'
import type { TokenFileWriter } from '../../lib/data/token-file.ts'
import { writeDocument } from '../../lib/data/tokenize.ts'
import { Tokenizer } from '../../lib/index.ts'
import { parseTokenizerJson } from '../../lib/tokenizer/tokenizer-json.ts'
import { PieceCounter, trainBpe } from '../../lib/tokenizer/train.ts'
import { expectBetween, expectBitwise } from './numeric.ts'

/** A golden tokenizer, parsed on this thread. */
function golden(name: string): Tokenizer {
  const path = fileURLToPath(new URL(`../golden/tokenizer/${name}.json`, import.meta.url))
  const spec = parseTokenizerJson(readFileSync(path, 'utf8'), path)
  const id = (token: string): number | null => spec.added.find(({ content }) => content === token)?.id ?? null
  const bosTokenId = id('<bos>') ?? id('<s>')
  const special = { bosTokenId, eosTokenId: null, padTokenId: null, unkTokenId: null }
  return Tokenizer.fromParts({ spec, special, chatTemplate: null, config: {} })
}

describe('trap 12: <bos> once', () => {
  const template =
    "{{ bos_token }}{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{% endfor %}" +
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
  const messages = [
    { role: 'user', content: 'hi' },
    { role: 'assistant', content: 'hello' },
    { role: 'user', content: 'bye' },
    { role: 'assistant', content: 'see you' },
  ]
  const tokenizer = golden('llama3').withChatTemplate(template)
  const bosIn = (ids: Iterable<number>): number => [...ids].filter((id) => id === tokenizer.bosTokenId).length

  test('trap 12 a prompt whose template writes it', async () => {
    expectBetween('<bos> of a plain text', bosIn(tokenizer.encode('hi')), 1, 1)
    const ids = await tokenizer.encodeChat(messages, { addGenerationPrompt: true })
    expectBetween('<bos> of a conversation', bosIn(ids), 1, 1)
    expectBetween('its place', ids.indexOf(tokenizer.bosTokenId as number), 0, 0)
  })

  test('trap 12 a conversation to learn from', async () => {
    const ids: number[] = []
    const writer = {
      append: async (more: ArrayLike<number>) => void ids.push(...Array.from(more)),
      endDocument: () => undefined,
    }
    await writeDocument(writer as unknown as TokenFileWriter, documentOf({ messages }, 'row'), tokenizer)
    expectBetween('<bos>', bosIn(ids), 1, 1)
  })
})

describe('trap 12: whole characters', () => {
  const TEXT = 'é ä 漢字 한국어 🙂👩‍👩‍👧 नमस्ते \u{1F9FF}\u0301 ok'
  for (const name of ['gpt2', 'llama3', 'llama2']) {
    test(`trap 12 a stream of ${name} never gives half a character`, () => {
      const tokenizer = golden(name)
      const ids = tokenizer.encode(TEXT, { addSpecialTokens: false })
      const stream = tokenizer.decodeStream()
      const pieces = [...Array.from(ids, (id) => stream.push(id)), stream.end()]
      const bad = pieces.filter((piece) => piece.includes('\ufffd') || !piece.isWellFormed())
      expectBetween('pieces with half a character', bad.length, 0, 0)
      const code = (text: string): number[] => Array.from(text, (character) => character.codePointAt(0) ?? -1)
      expectBitwise('characters', code(pieces.join('')), code(TEXT))
      // several tokens make one character: the stream had something to hold back
      expectBetween('empty pieces', pieces.slice(0, -1).filter((piece) => piece === '').length, 3, ids.length)
    })
  }
})

describe('trap 13: training a tokenizer', () => {
  test('trap 13 counts past 32 bits', () => {
    const counts = new Map([
      ['ab', 2 ** 32 + 3],
      ['cd', 3 * 2 ** 30],
      ['ef', 3 * 2 ** 30],
      [' ef', 3 * 2 ** 30], // e f: 6 x 2^30 in two words
      ['gh', 100],
    ])
    const options = { vocabSize: 260, specialTokens: [], pattern: 'llama3', minFrequency: 2 } as const
    const { tables } = trainBpe(counts, options)
    const byte = (text: string): number => text.charCodeAt(0) - 33 // bytes come first, in order from '!'
    const space = 220 // as in GPT-2's vocabulary
    expectBitwise(
      'merges, most frequent first',
      [...tables.merges],
      [...'efabcd'].map(byte).concat(space, 256),
    )
  })

  test('trap 13 memory goes by distinct words, not by the text', () => {
    setFlagsFromString('--expose-gc')
    const gc = runInNewContext('gc') as () => void
    const counter = new PieceCounter('llama3')
    const heap = (): number => {
      gc()
      return process.memoryUsage().heapUsed / 2 ** 20
    }
    counter.add('some words to begin with. '.repeat(1000))
    const before = heap()
    for (let text = 0; text < 48; text++) {
      const word = ` extraordinarily${String.fromCharCode(97 + (text % 26), 97 + Math.floor(text / 26))}`
      counter.add('the same few words again. '.repeat(4000) + word) // 100 kB
    }
    expectBetween('distinct words', counter.counts.size, 55, 75)
    expectBetween('MiB kept of 5 MiB of text', heap() - before, -4, 2)
  })
})
