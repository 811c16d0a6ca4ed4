// Generation as transformers' generate has it, on the folders of test/golden/parity.

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Completion, Decoder, type GenerateOptions, parseSafetensors, Tokenizer } from 'fuselm'
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

describe('generation_config.json', () => {
  let here: string
  beforeAll(async () => {
    here = join(folder, 'defaults')
    cpSync(golden('parity/model'), here, { recursive: true })
    await (await Tokenizer.train({ texts: ['the cat sat on the mat. '.repeat(9)], vocabSize: 280 })).save(
      here,
    )
  })
  const load = async (json: Record<string, unknown>): Promise<Decoder> => {
    writeFileSync(join(here, 'generation_config.json'), JSON.stringify(json))
    return Decoder.load(here, { dtype: 'f32' })
  }
  const prompt = values('llama.prompt') as Int32Array
  const greedy = [...values('llama.greedy')]
  const saysGreedy = { do_sample: false, temperature: 0.6, repetition_penalty: 1.3, max_new_tokens: 24 }

  test('decides what the caller does not: tokens of transformers for answers, batches and sessions', async () => {
    using decoder = await load(saysGreedy)
    expect(decoder.generationDefaults).toEqual({ temperature: 0, repetitionPenalty: 1.3, maxNewTokens: 24 })
    using session = decoder.session()
    const answers: Completion[] = [
      await decoder.generate(prompt).completion(),
      ...(await decoder.generateBatch([prompt, prompt.subarray(3)])).slice(0, 1),
      await session.generate(prompt).completion(),
    ]
    for (const { tokenIds } of answers) expect(tokenIds).toEqual(greedy)
  })

  test('gives way to what the caller says, option by option', async () => {
    using decoder = await load({ ...saysGreedy, top_k: 9, top_p: 0.8, min_p: 0.05 })
    using plain = await load({})
    expect(plain.generationDefaults).toEqual({})
    const of = async (model: Decoder, options: GenerateOptions): Promise<readonly number[]> =>
      (await model.generate(prompt, { seed: 4, ...options }).completion()).tokenIds
    expect(await of(decoder, { maxNewTokens: 5 })).toEqual(greedy.slice(0, 5))
    const drawn = await of(decoder, { temperature: 0.7, topK: 5 })
    const rest = { topP: 0.8, minP: 0.05, repetitionPenalty: 1.3, maxNewTokens: 24 }
    expect(drawn).toEqual(await of(plain, { ...rest, temperature: 0.7, topK: 5 }))
    expect(drawn).not.toEqual(greedy)
  })

  test.each([
    [{ do_sample: true }, { topK: 50 }],
    [
      { do_sample: true, temperature: 0.6, top_p: 0.9, top_k: 0 },
      { temperature: 0.6, topP: 0.9, topK: 0 },
    ],
    [
      { temperature: 0.6, top_k: 20 },
      { temperature: 0.6, topK: 20 },
    ],
    [{ do_sample: null, temperature: null, top_k: -1 }, { topK: 0 }],
  ])('%j', async (json, defaults) => {
    using decoder = await load(json)
    expect(decoder.generationDefaults).toEqual(defaults)
    // as it was, when it is saved
    await decoder.save(here)
    expect(JSON.parse(readFileSync(join(here, 'generation_config.json'), 'utf8'))).toMatchObject(
      Object.fromEntries(Object.entries(json).filter(([, value]) => value !== null)),
    )
  })
})
