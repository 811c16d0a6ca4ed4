// Generation as transformers' generate has it, on the folders of test/golden/parity.

import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Decoder, parseSafetensors, Tokenizer } from 'fuselm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const golden = (path: string): string => fileURLToPath(new URL(`../golden/${path}`, import.meta.url))
const expected = parseSafetensors(readFileSync(golden('generate/expected.safetensors')))

function values(name: string): Int32Array | Float32Array {
  const entry = expected.tensors.get(name)
  if (entry === undefined) throw new Error(`the golden has no ${name}`)
  const bytes = Uint8Array.from(entry.data).buffer
  return entry.dtype === 'I32' ? new Int32Array(bytes) : new Float32Array(bytes)
}

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-generate-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

describe.each([
  ['llama', 'parity/model'],
  ['gpt2', 'parity/gpt2/model'],
])('%s', (name, path) => {
  let decoder: Decoder
  beforeAll(async () => {
    const here = join(folder, name)
    cpSync(golden(path), here, { recursive: true })
    // ids are what counts; some tokenizer has to spell them
    await (await Tokenizer.train({ texts: ['the cat sat on the mat. '.repeat(9)], vocabSize: 280 })).save(
      here,
    )
    decoder = await Decoder.load(here, { dtype: 'f32' })
  })
  afterAll(() => decoder.dispose())
  const prompt = values(`${name}.prompt`) as Int32Array

  test('greedy with a repetition penalty, and log-probabilities', async () => {
    const pieces: { tokenId: number; logprob: number }[] = []
    const options = { temperature: 0, repetitionPenalty: 1.3, maxNewTokens: 24 }
    for await (const piece of decoder.generate(prompt, options)) pieces.push(piece)
    expect(pieces.map(({ tokenId }) => tokenId)).toEqual([...values(`${name}.greedy`)])
    const logprobs = values(`${name}.logprobs`)
    // float32 against float64
    for (const [i, { logprob }] of pieces.entries()) expect(logprob).toBeCloseTo(logprobs[i] ?? 0, 3)
  })

  test('penalty, temperature, top-k and top-p together, as a distribution', async () => {
    const probabilities = values(`${name}.probabilities`)
    const draws = 2048
    const options = {
      temperature: 0.8,
      topK: 40,
      topP: 0.9,
      repetitionPenalty: 1.4,
      maxNewTokens: 1,
      seed: 1,
    }
    const counts = new Array<number>(probabilities.length).fill(0)
    for (let at = 0; at < draws; at += 256) {
      const rows = new Array<Int32Array>(256).fill(prompt)
      const answers = await decoder.generateBatch(rows, { ...options, seed: 1 + at })
      for (const { tokenIds, finishReason } of answers) {
        // the golden's distribution knows of no end
        const id = finishReason === 'eos' ? 1 : (tokenIds[0] as number)
        counts[id] = (counts[id] ?? 0) + 1
      }
    }
    for (const [id, p] of probabilities.entries()) {
      const count = counts[id] ?? 0
      if (p === 0) expect(count, `token ${id} is cut`).toBe(0)
      // five standard deviations, and the draws are seeded
      else expect(Math.abs(count - draws * p), `token ${id}`).toBeLessThan(5 * Math.sqrt(draws * p) + 1)
    }
  })
})
