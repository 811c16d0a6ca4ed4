// Trap 7: a tied embedding is one storage with one optimizer state, its gradients add up, and it is
// saved once, without lm_head.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import {
  AdamW,
  type CausalLm,
  Device,
  Gpt2,
  Llama,
  loadModel,
  noGrad,
  ops,
  SafetensorsFile,
  saveModel,
  scope,
  type Tensor,
  tensor,
} from '../../lib/index.ts'
import { denseOperand } from '../../lib/ops/linear.ts'
import { expectBetween, expectBitwise, expectClose } from './numeric.ts'
import { adamW } from './oracle.ts'

const headOf = (m: CausalLm): Tensor => denseOperand(m.head(), 'f32').weight

const device = Device.open({ threads: 2 }).makeDefault()
const folders: string[] = []
afterAll(async () => {
  device.close()
  for (const folder of folders) await rm(folder, { recursive: true })
})

const VOCABULARY = 31
const families = {
  llama: {
    embedding: 'model.embedTokens.weight',
    make: (tied: boolean): CausalLm =>
      new Llama(
        {
          vocabSize: VOCABULARY,
          hiddenSize: 16,
          intermediateSize: 24,
          numHiddenLayers: 2,
          numAttentionHeads: 2,
          initializerRange: 0.2,
          tieWordEmbeddings: tied,
        },
        { seed: 1 },
      ),
  },
  gpt2: {
    embedding: 'transformer.wte.weight',
    make: (tied: boolean): CausalLm =>
      new Gpt2(
        {
          vocabSize: VOCABULARY,
          nEmbd: 16,
          nLayer: 2,
          nHead: 2,
          nPositions: 16,
          initializerRange: 0.2,
          tieWordEmbeddings: tied,
        },
        { seed: 1 },
      ),
  },
}

const ids = (): Tensor =>
  tensor(
    Array.from({ length: 22 }, (_, i) => (i * 7 + (i >> 2)) % VOCABULARY),
    { shape: [2, 11], dtype: 'i32' },
  )

function backward(model: CausalLm): void {
  scope(() => {
    const input = ids()
    model.loss(input, input).backward()
  })
}

/** NaN for what cannot be read: a poisoned parameter is a wrong number. */
async function read(t: Tensor | null | undefined): Promise<Float64Array> {
  try {
    return Float64Array.from((await t?.toArray()) ?? [])
  } catch {
    return new Float64Array(t?.size ?? 0).fill(Number.NaN)
  }
}

describe.each(Object.entries(families))('trap 7 %s', (name, { embedding, make }) => {
  test(`trap 7 gradients of ${name} are those of embedding and head together`, async () => {
    using tied = make(true)
    using untied = make(false)
    noGrad(() => {
      const own = tied.stateDict()
      for (const [path, target] of untied.stateDict())
        ops.copyInto(target, (own.get(path) ?? own.get(embedding)) as Tensor)
    })
    backward(tied)
    backward(untied)
    const parts = untied.namedParameters()
    const [ofEmbedding, ofHead] = [
      await read(parts.get(embedding)?.grad),
      await read(parts.get('lmHead.weight')?.grad),
    ]
    const sum = ofEmbedding.map((v, i) => v + (ofHead[i] ?? Number.NaN))
    expectBetween('largest gradient of the head', Math.max(...ofHead.map(Math.abs)), 1e-3, 10)
    expectClose('gradient', await read(tied.namedParameters().get(embedding)?.grad), sum, {
      rtol: 1e-5,
      atol: 1e-7,
    })
  })

  test(`trap 7 ${name} has one storage and one optimizer state, updated once`, async () => {
    using model = make(true)
    const weight = model.namedParameters().get(embedding) as Tensor
    expect(headOf(model)).toBe(weight)
    // whoever collects parameters by module meets the weight twice
    const optimizer = new AdamW({
      parameters: [...model.namedParameters(), ['lmHead.weight', headOf(model)]],
      learningRate: 1e-2,
      clipNorm: 0,
    })
    const states = [...optimizer.stateDict().values()].filter(({ shape }) => shape[0] === VOCABULARY)
    expectBetween('states of the size of the vocabulary', states.length, 2, 2)
    const before = await read(weight)
    backward(model)
    const gradient = await read(weight.grad)
    optimizer.step().dispose()
    const expected = before.map((p, i) => {
      const options = { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.01 }
      return adamW({ p, m: 0, v: 0 }, gradient[i] ?? Number.NaN, 1, options).p
    })
    expectClose('weight after a step', await read(weight), expected, { rtol: 1e-5, atol: 1e-6 })
    optimizer.dispose()
  })

  test(`trap 7 ${name} is saved once, and an untied head with its own weights`, async () => {
    for (const tied of [true, false]) {
      const folder = await mkdtemp(join(tmpdir(), 'fuselm-tied-'))
      folders.push(folder)
      using model = make(tied)
      await saveModel(model, folder)
      const file = await SafetensorsFile.open(join(folder, 'model.safetensors'))
      const sized = [...file.tensors].filter(([, { shape }]) => shape[0] === VOCABULARY).map(([path]) => path)
      await file.close()
      expectBetween(
        `matrices of the vocabulary, tied ${tied}: ${sized}`,
        sized.length,
        tied ? 1 : 2,
        tied ? 1 : 2,
      )
      expectBetween(
        'heads',
        sized.filter((path) => path.startsWith('lm_head')).length,
        tied ? 0 : 1,
        tied ? 0 : 1,
      )
      using loaded = await loadModel(folder)
      expect(headOf(loaded) === loaded.namedParameters().get(embedding)).toBe(tied)
      const logits = (m: CausalLm): Tensor => noGrad(() => scope(() => m.forward(ids())))
      const [a, b] = [logits(model), logits(loaded)]
      expectBitwise('logits', await read(b), await read(a))
      a.dispose()
      b.dispose()
    }
  })
})
