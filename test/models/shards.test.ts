// Weights in several files: those of transformers load, ours come back, and a save in another number of
// files leaves nothing of the one before. test/golden/sharded/make.py made the folder; with a folder as its
// argument it loads that one by transformers.

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  type CausalLm,
  Llama,
  loadModel,
  noGrad,
  ops,
  saveModel,
  scope,
  tensor,
  writeSafetensors,
} from '../../lib/index.ts'
import { loadModelInto } from '../../lib/models/folder.ts'
import { readSafetensors } from '../ops/runner/golden.ts'
import { expectNoLeaks } from '../unit/leaks.ts'
import { LOGITS_LIMIT, relativeL2 } from './parity.ts'

const golden = fileURLToPath(new URL('../golden/sharded/', import.meta.url))
const expected = readSafetensors(`${golden}expected.safetensors`).tensors

let out: string
beforeAll(() => {
  out = mkdtempSync(join(tmpdir(), 'fuselm-shards-'))
})
afterAll(() => rmSync(out, { recursive: true }))
expectNoLeaks()

async function logits(model: CausalLm): Promise<number[]> {
  const { values = [], shape = [] } = expected.get('ids') ?? {}
  const found = noGrad(() => scope(() => model.forward(tensor(values, { shape, dtype: 'i32' }))))
  const all = [...(await found.toArray())] as number[]
  found.dispose()
  return all
}

const weightsIn = (folder: string): string[] =>
  readdirSync(folder)
    .filter((name) => name.startsWith('model'))
    .sort()

interface Index {
  metadata: { total_size: number }
  weight_map: Record<string, string>
}
const indexOf = (folder: string): Index =>
  JSON.parse(readFileSync(join(folder, 'model.safetensors.index.json'), 'utf8'))

test.each(['f32', 'bf16'] as const)('shards of transformers load: its logits in %s', async (dtype) => {
  using model = await loadModel(`${golden}model`, { dtype })
  expect(relativeL2(await logits(model), expected.get('logits')?.values ?? [])).toBeLessThan(
    LOGITS_LIMIT[dtype],
  )
})

test('saved in shards it has the index, the names and the tensors of transformers', async () => {
  using model = await loadModel(`${golden}model`)
  const folder = join(out, 'ours')
  await saveModel(model, folder, { maxShardBytes: 16_000 })
  const [ours, theirs] = [indexOf(folder), indexOf(`${golden}model`)]
  expect(Object.keys(ours.weight_map)).toEqual(Object.keys(theirs.weight_map))
  expect(ours.metadata.total_size).toBeGreaterThanOrEqual(theirs.metadata.total_size)
  const shards = weightsIn(folder).filter((name) => name.endsWith('.safetensors'))
  expect(shards).toEqual(shards.map((_, i) => `model-0000${i + 1}-of-0000${shards.length}.safetensors`))
  expect(shards.length).toBeGreaterThan(2)
  let total = 0
  for (const shard of shards) {
    const { tensors, metadata } = readSafetensors(join(folder, shard))
    expect(metadata.get('format')).toBe('pt')
    const own = Object.entries(ours.weight_map).filter(([, name]) => name === shard)
    expect([...tensors.keys()].sort()).toEqual(own.map(([name]) => name).sort())
    const file = readFileSync(join(folder, shard))
    const bytes = file.length - 8 - Number(file.readBigUInt64LE(0))
    expect(bytes).toBeLessThanOrEqual(16_000)
    total += bytes
  }
  expect(total).toBe(ours.metadata.total_size)

  using again = await loadModel(folder)
  expect(await logits(again)).toEqual(await logits(model))
  using other = new Llama({ ...(model.config as Llama['config']) }, { dtype: 'bf16', seed: 7 })
  await loadModelInto(other, folder)
  expect(await logits(other)).toEqual(await logits(model))
})

test('half floats load, as f32 when nobody says', async () => {
  using model = await loadModel(`${golden}model`, { dtype: 'f32' })
  const folder = join(out, 'half')
  await saveModel(model, folder)
  const { tensors } = readSafetensors(join(folder, 'model.safetensors'))
  const halves = [...tensors].map(([name, { shape, values }]) => ({
    name,
    dtype: 'F16' as const,
    shape,
    // of numbers that are exact in both: the sign, the exponent, the first ten bits behind it
    data: new Uint8Array(
      Uint16Array.from(values, (value) => {
        const bits = new Uint32Array(Float32Array.of(value).buffer)[0] as number
        const exponent = ((bits >>> 23) & 255) - 112
        return ((bits >>> 16) & 0x8000) | (exponent <= 0 ? 0 : (exponent << 10) | ((bits >>> 13) & 1023))
      }).buffer,
    ),
  }))
  await writeSafetensors(join(folder, 'model.safetensors'), halves)
  using half = await loadModel(folder)
  expect(half.parameters().every(({ dtype }) => dtype === 'f32')).toBe(true)
  expect(relativeL2(await logits(half), await logits(model))).toBeLessThan(1e-4)
})

test('a save in another number of files leaves nothing of the one before, and other files alone', async () => {
  using model = await loadModel(`${golden}model`)
  const folder = join(out, 'again')
  await saveModel(model, folder, { maxShardBytes: 8_000 })
  writeFileSync(join(folder, 'model-card.safetensors'), 'mine')
  const many = weightsIn(folder)
  await saveModel(model, folder, { maxShardBytes: 16_000 })
  expect(weightsIn(folder).length).toBeLessThan(many.length)
  using fewer = await loadModel(folder)
  expect(await logits(fewer)).toEqual(await logits(model))
  await saveModel(model, folder)
  expect(weightsIn(folder)).toEqual(['model-card.safetensors', 'model.safetensors'])
  await saveModel(model, folder, { maxShardBytes: 16_000 })
  expect(weightsIn(folder)).not.toContain('model.safetensors')
  using shards = await loadModel(folder)
  expect(await logits(shards)).toEqual(await logits(model))
})

test('a model that is trained while it is saved is not saved, and the old one stays', async () => {
  using model = await loadModel(`${golden}model`)
  const folder = join(out, 'moving')
  await saveModel(model, folder)
  const before = readFileSync(join(folder, 'model.safetensors'))
  const saving = saveModel(model, folder, { maxShardBytes: 16_000 })
  saving.catch(() => undefined)
  const [weight] = model.parameters()
  if (weight === undefined) throw new Error('no parameters')
  await new Promise((done) => setTimeout(done, 1))
  scope(() =>
    noGrad(() =>
      ops.copyInto(weight, ops.mul(weight, tensor([2], { shape: [1], dtype: weight.dtype as 'bf16' }))),
    ),
  )
  await expect(saving).rejects.toThrow(/changed while/)
  expect(weightsIn(folder)).toEqual(['model.safetensors'])
  expect(readFileSync(join(folder, 'model.safetensors')).equals(before)).toBe(true)
  expect(readdirSync(folder).filter((name) => name.startsWith('.'))).toEqual([])
})

test.each([0, -1, 1.5, Number.NaN, '5GB'])('maxShardBytes %j is refused', async (maxShardBytes) => {
  using model = await loadModel(`${golden}model`)
  await expect(saveModel(model, join(out, 'none'), { maxShardBytes } as never)).rejects.toThrow(
    /maxShardBytes must be an integer/,
  )
})
