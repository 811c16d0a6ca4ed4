// The scripts that people copy, run at a tiny size, one on what the other left: a model is trained, measured,
// quantised, exported and talked to.

import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { chat } from '../../examples/chat.ts'
import { fineTune, serve } from '../../examples/fine-tune.ts'
import { trainMlp } from '../../examples/from-below.ts'
import { measureQuantizeExport } from '../../examples/measure-quantize-export.ts'
import { trainFromScratch } from '../../examples/train-from-scratch.ts'
import { Decoder, Device, TextDataset, Tokenizer } from '../../lib/index.ts'

let device: Device
let out: string
let text: string
beforeAll(async () => {
  device = Device.open().makeDefault()
  out = await mkdtemp(join(tmpdir(), 'fuselm-examples-'))
  text = join(out, 'text.txt')
  const animals = ['cat', 'dog', 'owl', 'fox', 'hen']
  const places = ['mat', 'log', 'sea', 'hill', 'tree']
  const line = (i: number): string =>
    `The ${animals[i % 5]} sat by the ${places[(i * 7 + (i >> 3)) % 5]} and saw the ${animals[(i * 3) % 5]}.`
  await writeFile(text, Array.from({ length: 2000 }, (_, i) => line(i)).join('\n'))
  vi.spyOn(console, 'log').mockImplementation(() => undefined)
})
afterAll(async () => {
  vi.restoreAllMocks()
  await rm(out, { recursive: true })
  await device.close()
})

describe('train, measure, quantize, export, chat', () => {
  test('a model is trained from text files', async () => {
    const { liveTensors } = device.memory()
    const sizes = { vocabSize: 300, hiddenSize: 64, contextLength: 64 }
    const { validation } = await trainFromScratch([text], out, {
      ...sizes,
      batchSize: 8,
      steps: 60,
      evalEvery: 30,
      schedule: { warmup: 5 },
      optimizer: { learningRate: 5e-3 },
    })
    using decoder = await Decoder.load(join(out, 'model'))
    const { perplexity } = await decoder.evaluate(validation)
    await validation.close()
    expect(perplexity).toBeLessThan(10) // 300 before
    decoder.dispose()
    expect(device.memory().liveTensors).toBe(liveTensors)
  }, 120_000)

  test('its perplexity holds in int8, and its folders are there', async () => {
    const { before, after } = await measureQuantizeExport(join(out, 'model'), join(out, 'small'), [text], {
      group: 64,
    })
    expect(before).toBeLessThan(10)
    expect(after / before).toBeGreaterThan(0.99)
    expect(after / before).toBeLessThan(1.01)
    expect(readdirSync(join(out, 'small', 'onnx', 'onnx'))).toEqual(['model_int8.onnx'])
    using small = await Decoder.load(join(out, 'small', 'int8'))
    expect(await small.generate('The ', { maxNewTokens: 8, temperature: 0 }).text()).toMatch(/\w/)
  })

  test('it is fine-tuned on rows while it serves; the adapter is there for PEFT', async () => {
    using decoder = await Decoder.load(join(out, 'model'))
    async function* rows(): AsyncGenerator<{ prompt: string; completion: string }> {
      for (let i = 0; i < 60; i++)
        yield { prompt: `The owl sat by ${i % 4}`, completion: ' and sang all night.' }
    }
    const server = serve(decoder).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const ask = async (): Promise<string> => {
      const response = await fetch(`http://127.0.0.1:${port}`, { method: 'POST', body: 'The owl sat by 1' })
      expect(response.status).toBe(200)
      return response.text()
    }
    const judged = await TextDataset.from(rows(), { tokenizer: decoder.tokenizer, contextLength: 64 })
    const before = await decoder.evaluate(judged)
    let done = false
    const training = fineTune(decoder, rows(), join(out, 'tuned'), {
      contextLength: 64,
      batchSize: 8,
      epochs: 20,
      optimizer: { learningRate: 1e-2 },
      saveEvery: 10,
    }).finally(() => {
      done = true
    })
    let answers = 0
    for (; !done; answers++) expect(await ask()).not.toBe('')
    await training
    expect(answers).toBeGreaterThan(1)
    const after = await decoder.evaluate(judged, { adapter: 'support' })
    expect(after.loss).toBeLessThan(before.loss / 2)
    expect(await decoder.evaluate(judged)).toEqual(before)
    await judged.close()
    expect(readdirSync(join(out, 'tuned', 'adapter')).sort()).toEqual([
      'adapter_config.json',
      'adapter_model.safetensors',
    ])
    server.close()
  }, 60_000)

  test('it answers, line after line, in int8', async () => {
    const template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    const tokenizer = await Tokenizer.load(join(out, 'model'))
    await tokenizer.withChatTemplate(template).save(join(out, 'model'))
    using decoder = await Decoder.load(join(out, 'model'), { weights: 'int8' })
    async function* lines(): AsyncGenerator<string> {
      yield 'The cat sat'
      yield 'And then?'
    }
    const pieces: string[] = []
    for await (const piece of chat(decoder, lines(), { maxNewTokens: 6, seed: 1 })) pieces.push(piece)
    expect(pieces.filter((piece) => piece === '\n').length).toBeGreaterThanOrEqual(2)
    expect(pieces.length).toBeGreaterThan(4)
  })
})

test('from below: a network of one class learns what another gives', async () => {
  const { liveTensors } = device.memory()
  const { loss, accuracy } = await trainMlp(300)
  expect(accuracy).toBeGreaterThan(0.7) // a tenth by chance
  expect(loss).toBeLessThan(0.8) // ln 10 = 2.3 by chance
  expect(device.memory().liveTensors).toBe(liveTensors)
})
