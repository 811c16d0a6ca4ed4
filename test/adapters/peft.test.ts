// Adapters that PEFT made (test/golden/peft/make.py): their logits, merged and beside the base, the way
// back to a file, and the losses of the first training steps.

import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  AdamW,
  type CausalLm,
  type LoraAdapter,
  loadAdapter,
  loadModel,
  noGrad,
  quantizeLinears,
  scope,
  type Tensor,
  tensor,
} from '../../lib/index.ts'
import type { WeightAdapter } from '../../lib/nn/layers.ts'
import { LOGITS_LIMIT, relativeL2 } from '../models/parity.ts'
import { readSafetensors } from '../ops/runner/golden.ts'
import { expectNoLeaks } from '../unit/leaks.ts'

const golden = fileURLToPath(new URL('../golden/peft/', import.meta.url))
const names = (await readdir(golden, { withFileTypes: true }))
  .filter((entry) => entry.isDirectory() && entry.name !== 'training')
  .map(({ name }) => name)

let out: string
beforeAll(async () => {
  out = await mkdtemp(join(tmpdir(), 'fuselm-peft-'))
})
afterAll(() => rm(out, { recursive: true }))
expectNoLeaks()

function expectNear(actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  let worst = 0
  for (let i = 0; i < expected.length; i++) {
    worst = Math.max(worst, Math.abs((actual[i] ?? Number.NaN) - (expected[i] ?? Number.NaN)))
  }
  expect(actual.length).toBe(expected.length)
  expect(worst).toBeLessThan(1e-4)
}

async function json(path: string): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>
}

test('there are folders', () => {
  expect(names.length).toBeGreaterThanOrEqual(7)
})

describe.each(names)('%s', (name) => {
  const folder = golden + name
  const { tensors } = readSafetensors(join(folder, 'expected.safetensors'))
  const values = (key: string): Float64Array => tensors.get(key)?.values ?? new Float64Array()
  const shape = tensors.get('ids')?.shape ?? []

  async function logits(model: CausalLm, adapter: WeightAdapter | null): Promise<ArrayLike<number>> {
    const ids = (): Tensor => tensor(values('ids'), { shape, dtype: 'i32' })
    const found = noGrad(() => scope(() => model.forward(ids(), { adapter })))
    try {
      return await found.toArray()
    } finally {
      found.dispose()
    }
  }

  test('logits are those of PEFT; without the adapter those of the base', async () => {
    using model = await loadModel(join(folder, 'base'), { dtype: 'f32' })
    using adapter = await loadAdapter(model, join(folder, 'adapter'))
    expectNear(await logits(model, adapter), values('logits'))
    expectNear(await logits(model, null), values('base'))
  })

  test('bf16 weights, float32 adapter', async () => {
    using model = await loadModel(join(folder, 'base'), { dtype: 'bf16' })
    using adapter = await loadAdapter(model, join(folder, 'adapter'))
    const terms = [...adapter.namedParameters()].filter(([key]) => key.includes('lora_'))
    expect(terms.every(([, { dtype }]) => dtype === 'f32')).toBe(true)
    expect(relativeL2(await logits(model, adapter), values('logits'))).toBeLessThan(LOGITS_LIMIT.bf16)
  })

  test('the copy for generation, token by token over a cache', async () => {
    using model = await loadModel(join(folder, 'base'), { dtype: 'f32' })
    using adapter = await loadAdapter(model, join(folder, 'adapter'))
    const [batch = 0, steps = 0] = shape
    const lease = adapter.lease()
    using cache = model.makeCache({ capacity: steps, batch })
    const last: number[][] = []
    for (let t = 0; t < steps; t++) {
      const ids = Array.from({ length: batch }, (_, b) => values('ids')[b * steps + t] ?? 0)
      const row = noGrad(() =>
        scope(() =>
          model.forward(tensor(ids, { shape: [batch, 1], dtype: 'i32' }), { cache, adapter: lease.weights }),
        ),
      )
      last.push([...(await row.toArray())])
      row.dispose()
    }
    lease.release()
    const vocabulary = (last[0]?.length ?? 0) / batch
    const inOrder = Array.from({ length: batch }, (_, b) =>
      last.flatMap((row) => row.slice(b * vocabulary, (b + 1) * vocabulary)),
    ).flat()
    expectNear(inOrder, values('logits'))
  })

  test('merged: PEFT’s logits without naming it; taken out again, the base bit for bit', async () => {
    using model = await loadModel(join(folder, 'base'), { dtype: 'f32' })
    using adapter = await loadAdapter(model, join(folder, 'adapter'))
    if (name === 'gpt2-embedding') {
      expect(() => adapter.merge()).toThrow(/wte is tied to the output layer/)
      return
    }
    const before = await logits(model, null)
    adapter.merge()
    expectNear(await logits(model, null), values(tensors.has('merged') ? 'merged' : 'logits'))
    await expect(logits(model, adapter)).rejects.toThrow(/merged into its base/)
    adapter.unmerge()
    expect(await logits(model, null)).toEqual(before)
    expectNear(await logits(model, adapter), values('logits'))
  })

  test('saved, the file says what PEFT’s says', async () => {
    using model = await loadModel(join(folder, 'base'), { dtype: 'f32' })
    using adapter = await loadAdapter(model, join(folder, 'adapter'))
    await adapter.save(join(out, name))
    const theirs = readSafetensors(join(folder, 'adapter/adapter_model.safetensors'))
    const ours = readSafetensors(join(out, name, 'adapter_model.safetensors'))
    const expected = [...theirs.tensors].filter(([key]) => !key.endsWith('.base_layer.weight'))
    expect(new Map(ours.tensors)).toEqual(new Map(expected))
    const config = await json(join(out, name, 'adapter_config.json'))
    const original = await json(join(folder, 'adapter/adapter_config.json'))
    expect(Object.keys(config)).toEqual(Object.keys(config).sort())
    const { base_model_name_or_path: base, ...rest } = config
    expect(base).toBe(null)
    expect(original).toMatchObject(rest)
  })

  test('over int8 weights: those of the int8 base with the same terms', async () => {
    using model = await loadModel(join(folder, 'base'), { dtype: 'f32' })
    using adapter = await loadAdapter(model, join(folder, 'adapter'))
    quantizeLinears(model, { include: (path) => path !== 'lmHead' })
    using again = await loadAdapter(model, join(folder, 'adapter'))
    const found = await logits(model, adapter)
    expect(await logits(model, again)).toEqual(found)
    // the weights themselves are off by half a step of 127
    expect(relativeL2(found, values('logits'))).toBeLessThan(5e-2)
    expect(() => adapter.merge()).toThrow(/holds int8 weights|is tied/)
  })
})

test('20 steps of training have PEFT’s losses, norms and end', async () => {
  const folder = join(golden, 'training')
  const { tensors } = readSafetensors(join(folder, 'expected.safetensors'))
  const ids = tensors.get('ids')
  const [steps = 0, batch = 0, length = 0] = ids?.shape ?? []
  using model = await loadModel(join(folder, 'base'), { dtype: 'f32' })
  for (const weight of model.parameters()) weight.requiresGrad = false
  using adapter: LoraAdapter = await loadAdapter(model, join(folder, 'adapter'))
  using optimizer = new AdamW({
    parameters: adapter.namedParameters(),
    learningRate: 1e-2,
    betas: [0.9, 0.95],
    weightDecay: 0.01,
  })
  for (let step = 0; step < steps; step++) {
    const values = ids?.values.slice(step * batch * length, (step + 1) * batch * length) ?? []
    const [loss, norm] = scope(() => {
      const x = tensor(values, { shape: [batch, length], dtype: 'i32' })
      const loss = model.loss(x, x, { adapter })
      loss.backward()
      return [loss, optimizer.step()]
    })
    const expected = tensors.get('losses')?.values[step] ?? Number.NaN
    expect(Math.abs((await loss.item()) / expected - 1), `loss of step ${step}`).toBeLessThan(2e-6)
    const theirs = tensors.get('norms')?.values[step] ?? Number.NaN
    expect(Math.abs((await norm.item()) / theirs - 1), `norm of step ${step}`).toBeLessThan(1e-4)
    loss.dispose()
    norm.dispose()
  }
  const trained = readSafetensors(join(folder, 'trained/adapter_model.safetensors')).tensors
  for (const [key, parameter] of adapter.namedParameters()) {
    const found = await parameter.toArray()
    expect(relativeL2(found, trained.get(`base_model.model.${key}`)?.values ?? []), key).toBeLessThan(1e-3)
  }
})
