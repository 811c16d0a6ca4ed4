// Trap 3, the kinds of rotary scaling: logits and frequencies of transformers' own implementations, past
// the original context of every kind. test/golden/rope_kinds/make.py made the values and says how.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { copyFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { Device, type Llama, loadLlama, nn, scope, tensor } from '../../lib/index.ts'
import { Llama as Model } from '../../lib/models/llama.ts'
import { rotarySize } from '../../lib/models/llama-config.ts'
import { readSafetensors } from '../ops/runner/golden.ts'
import { expectBetween, expectClose } from './numeric.ts'

const device = Device.open({ threads: 2 }).makeDefault()
afterAll(async () => {
  await device.sync()
  // the frequencies a model keeps go with it
  expect(device.memory().liveTensors).toBe(0)
  await device.close()
})

const folder = fileURLToPath(new URL('../golden/rope_kinds/', import.meta.url))
const { tensors, metadata } = readSafetensors(`${folder}kinds.safetensors`)
const TOLERANCE = 1e-4 // float32 against float64, logits up to 3.4
const [LAST, VOCAB, SHORT] = [8, 32, 12]

type Kind = { readonly config: Readonly<Record<string, unknown>>; readonly attention_factor: number }
const kinds = [...metadata].map(([name, text]) => ({ name, ...(JSON.parse(text) as Kind) }))

function golden(name: string): Float64Array {
  const found = tensors.get(name)
  if (found === undefined) throw new Error(`kinds.safetensors has no ${name}`)
  return found.values
}

const ids = Int32Array.from(golden('ids'))

async function load(config: Kind['config']): Promise<Llama> {
  const temporary = mkdtempSync(join(tmpdir(), 'fuselm-rope-'))
  try {
    writeFileSync(join(temporary, 'config.json'), JSON.stringify(config))
    await copyFile(join(folder, 'model.safetensors'), join(temporary, 'model.safetensors'))
    return await loadLlama(temporary)
  } finally {
    rmSync(temporary, { recursive: true })
  }
}

/** Of the last rows. */
async function logitsOf(model: Llama): Promise<Float64Array> {
  const logits = scope(() => model.forward(tensor(ids, { shape: [1, ids.length], dtype: 'i32' })))
  const values = Float64Array.from(await logits.toArray())
  logits.dispose()
  return values.subarray(values.length - LAST * VOCAB)
}

const distance = (a: Float64Array, b: Float64Array): number =>
  a.reduce((most, x, i) => Math.max(most, Math.abs(x - (b[i] ?? Number.NaN))), 0)

describe('trap 03: rotary scaling', () => {
  for (const { name, config, attention_factor } of kinds) {
    test(`trap 03 kind ${name}: frequencies and logits are those of transformers`, async () => {
      const model = await load(config)
      const rotary = { ...model.config, rotarySize: rotarySize(model.config) }
      for (const [length, key] of [
        [ids.length, 'frequencies'],
        [SHORT, 'short_frequencies'],
      ] as const) {
        const made = nn.ropeFrequencies(rotary, length)
        // transformers' are float32 throughout, powers included
        expectClose(`frequencies at ${length}`, made.frequencies, golden(`${name}.${key}`), {
          rtol: 1e-6,
          atol: 0,
        })
        expectClose('attention factor', [made.attentionFactor], [attention_factor], { rtol: 1e-12, atol: 0 })
      }
      expectClose('logits', await logitsOf(model), golden(`${name}.logits`), { rtol: 0, atol: TOLERANCE })
      model.dispose()
    })

    if (name === 'default') continue
    test(`trap 03 kind ${name}: the logits would show that it is off`, async () => {
      const model = await load(config)
      const off = { ...model.config, ropeScaling: null, partialRotaryFactor: 1 }
      const plain = new Model(off)
      plain.loadStateDict(model.stateDict())
      const moved = distance(await logitsOf(plain), golden(`${name}.logits`))
      expectBetween('what the kind moves, in tolerances', moved / TOLERANCE, 100, 1e6)
      plain.dispose()
      model.dispose()
    })
  }

  test('trap 03 frequencies follow the length of a sequence, forth and back', async () => {
    for (const name of ['dynamic', 'longrope']) {
      const { config } = kinds.find((kind) => kind.name === name) ?? { config: {} }
      const model = await load(config)
      const start = { shape: [1, SHORT], dtype: 'i32' } as const
      const short = (length = SHORT) =>
        scope(() => model.forward(tensor(ids.subarray(0, SHORT), start), { length }))
      const first = short()
      expectClose(`${name}: long`, await logitsOf(model), golden(`${name}.logits`), {
        rtol: 0,
        atol: TOLERANCE,
      })
      const again = short()
      expectClose(`${name}: back`, await again.toArray(), await first.toArray(), { rtol: 0, atol: 0 })
      // short, but said to be part of a long sequence
      const part = short(ids.length)
      const whole = scope(() => model.forward(tensor(ids, { shape: [1, ids.length], dtype: 'i32' })))
      const rows = (await whole.toArray()).subarray(0, SHORT * VOCAB)
      expectClose(`${name}: the first rows`, await part.toArray(), rows, { rtol: 0, atol: TOLERANCE })
      for (const t of [first, again, part, whole]) t.dispose()
      model.dispose()
    }
  })
})
