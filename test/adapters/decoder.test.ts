// Adapters as an app has them: names, answers with one or several, sessions, merge.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Decoder, type LoraAdapter, noGrad, ops, randn, randomKey, scope, Tokenizer } from 'fuselm'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { expectNoLeaks } from '../unit/leaks.ts'

let folder: string
let tokenizer: Tokenizer
let decoder: Decoder

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-adapters-'))
  tokenizer = await Tokenizer.train({
    texts: ['the cat sat on the mat and the dog on the log '],
    vocabSize: 280,
  })
})
afterAll(() => rmSync(folder, { recursive: true }))
expectNoLeaks()
beforeEach(() => {
  decoder = make()
})
afterEach(() => decoder.dispose())

function make(): Decoder {
  const shape = {
    hiddenSize: 32,
    numHiddenLayers: 2,
    numAttentionHeads: 2,
    intermediateSize: 48,
    maxPositionEmbeddings: 64,
  }
  return Decoder.create(shape, { tokenizer, seed: 3 })
}

let call = 0
function randomize(adapter: LoraAdapter): LoraAdapter {
  for (const target of adapter.namedParameters().values()) {
    noGrad(() =>
      scope(() => ops.copyInto(target, randn(target.shape, randomKey(5, { call: call++ }), { std: 0.5 }))),
    )
  }
  return adapter
}

const ASK = { maxNewTokens: 8, temperature: 1 } as const
const one = async (prompt: string, adapter: string | null, seed: number): Promise<readonly number[]> =>
  (await decoder.generate(prompt, { ...ASK, seed, adapter }).completion()).tokenIds

describe('names', () => {
  test('a name that is taken, none, another one', async () => {
    const first = decoder.addAdapter('support', { rank: 2 })
    expect(() => decoder.addAdapter('support')).toThrow(/there is an adapter 'support' already/)
    expect(() => decoder.addAdapter('')).toThrow(/name must be a text/)
    expect(() => decoder.generate('x', { adapter: 'suport' })).toThrow(
      /no adapter "suport"; did you mean 'support'/,
    )
    expect(() => decoder.generate('x', { adaptor: 'support' } as never)).toThrow(/did you mean 'adapter'/)
    await expect(decoder.generateBatch(['a', 'b'], { adapters: ['support'] })).rejects.toThrow(
      /must be 2 of them/,
    )
    await first.save(join(folder, 'support'))
    await expect(decoder.loadAdapter(join(folder, 'support'))).rejects.toThrow(/already/)
    const loaded = await decoder.loadAdapter(join(folder, 'support'), { name: 'other' })
    expect([...decoder.adapters.keys()]).toEqual(['support', 'other'])
    first.dispose()
    expect([...decoder.adapters.keys()]).toEqual(['other'])
    expect(() => decoder.generate('x', { adapter: 'support' })).toThrow(/known: other|did you mean/)
    await expect(first.save(join(folder, 'gone'))).rejects.toThrow(/was disposed/)
    const again = decoder.addAdapter('support', { rank: 2 })
    expect(loaded.terms).toEqual(again.terms)
    using stranger = make()
    expect(() => stranger.generate('x', { adapter: loaded })).toThrow(/belongs to another model/)
  })
})

describe('answers', () => {
  test('a fresh adapter answers as the base; a trained one otherwise', async () => {
    const adapter = decoder.addAdapter('a', { rank: 4 })
    expect(await one('the ', 'a', 1)).toEqual(await one('the ', null, 1))
    randomize(adapter)
    expect(await one('the ', 'a', 1)).not.toEqual(await one('the ', null, 1))
  })

  test('one adapter per row: each as it would be alone', async () => {
    randomize(decoder.addAdapter('a', { rank: 4, targets: ['q_proj', 'v_proj', 'down_proj'] }))
    randomize(decoder.addAdapter('b', { rank: 2 }))
    const prompts = ['the cat', 'the dog on', 'a', 'mat and the log', 'the cat']
    const adapters = ['a', null, 'b', 'a', 'b']
    const answers = await decoder.generateBatch(prompts, { ...ASK, seed: 7, adapters })
    for (const [row, prompt] of prompts.entries()) {
      // a row draws with its number
      expect(answers[row]?.tokenIds, `row ${row}`).toEqual(await one(prompt, adapters[row] ?? null, 7 + row))
    }
    const all = await decoder.generateBatch(prompts, { ...ASK, seed: 7, adapter: 'b' })
    expect(all[4]?.tokenIds).toEqual(answers[4]?.tokenIds)
  })

  test('a session answers as fresh generation does, also after the adapter changed', async () => {
    const adapter = randomize(decoder.addAdapter('a', { rank: 4 }))
    using session = decoder.session({ adapter: 'a' })
    const turn = async (prompt: string): Promise<readonly number[]> =>
      (await session.generate(prompt, { ...ASK, seed: 3 }).completion()).tokenIds
    expect(await turn('the cat')).toEqual(await one('the cat', 'a', 3))
    expect(session.length).toBeGreaterThan(0)
    expect(await turn('the cat sat on')).toEqual(await one('the cat sat on', 'a', 3))
    randomize(adapter)
    expect(await turn('the cat sat on the')).toEqual(await one('the cat sat on the', 'a', 3))
  })

  test('an answer that has begun goes on with the copy it began with', async () => {
    const adapter = randomize(decoder.addAdapter('a', { rank: 4 }))
    const expected = await one('the ', 'a', 1)
    const found: number[] = []
    for await (const { tokenId } of decoder.generate('the ', { ...ASK, seed: 1, adapter })) {
      found.push(tokenId)
      if (found.length === 2) {
        randomize(adapter)
        await adapter.publish()
      }
      if (found.length === 4) adapter.dispose()
    }
    expect(found).toEqual(expected)
  })
})

describe('merge', () => {
  test('the merged model answers as the adapter does, is saved, and comes back', async () => {
    const adapter = randomize(decoder.addAdapter('a', { rank: 4 }))
    const [base, adapted] = [await one('the ', null, 1), await one('the ', 'a', 1)]
    adapter.merge()
    expect(await one('the ', null, 1)).toEqual(adapted)
    await expect(one('the ', 'a', 1)).rejects.toThrow(/merged into its base/)
    expect(() => adapter.merge()).toThrow(/merged into its base/)
    await decoder.save(join(folder, 'merged'))
    adapter.unmerge()
    expect(await one('the ', null, 1)).toEqual(base)
    expect(await one('the ', 'a', 1)).toEqual(adapted)
    using loaded = await Decoder.load(join(folder, 'merged'))
    const answer = await loaded.generate('the ', { ...ASK, seed: 1 }).completion()
    expect(answer.tokenIds).toEqual(adapted)
  })

  test('disposed of while merged: the base keeps it; out of order: refused', async () => {
    const first = randomize(decoder.addAdapter('a', { rank: 4, targets: ['o_proj'] }))
    const second = randomize(decoder.addAdapter('b', { rank: 4, targets: ['o_proj', 'up_proj'] }))
    const base = await one('the ', null, 1)
    const adapted = await one('the ', 'a', 1)
    first.merge()
    second.merge()
    expect(() => first.unmerge()).toThrow(/o_proj\.weight was written or merged into since/)
    second.unmerge()
    first.unmerge()
    expect(await one('the ', null, 1)).toEqual(base)
    expect(() => first.unmerge()).toThrow(/not merged/)
    first.merge()
    first.dispose()
    expect(await one('the ', null, 1)).toEqual(adapted)
  })
})
