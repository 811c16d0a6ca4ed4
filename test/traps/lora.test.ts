// Trap 10: how a LoRA adapter begins, what it counts for, that all of it learns, and that taking it out of
// the weights gives them back.

import { describe, test } from 'vitest'
import {
  AdamW,
  type CausalLm,
  Gpt2,
  Llama,
  LoraAdapter,
  type LoraOptions,
  noGrad,
  ops,
  randn,
  randomKey,
  type SequenceOptions,
  scope,
  type Tensor,
  tensor,
} from '../../lib/index.ts'
import type { Linear } from '../../lib/nn/layers.ts'
import { expectNoLeaks } from '../unit/leaks.ts'
import { expectBetween, expectBitwise, expectClose } from './numeric.ts'

expectNoLeaks()

const LLAMA = {
  vocabSize: 50,
  hiddenSize: 32,
  intermediateSize: 48,
  numHiddenLayers: 3,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 32,
}
const GPT2 = { vocabSize: 50, nEmbd: 32, nLayer: 3, nHead: 4, nPositions: 32 }
const families: [string, (dtype?: 'f32' | 'bf16') => CausalLm][] = [
  ['llama', (dtype = 'f32') => new Llama(LLAMA, { dtype, seed: 1 })],
  ['gpt2', (dtype = 'f32') => new Gpt2(GPT2, { dtype, seed: 1 })],
]
const IDS = Int32Array.from({ length: 24 }, (_, i) => (i * 7 + 3) % 50)
const ids = (): Tensor => tensor(IDS, { shape: [2, 12], dtype: 'i32' })

/** Base frozen, as a Trainer has it. */
function frozen(model: CausalLm): CausalLm {
  for (const weight of model.parameters()) weight.requiresGrad = false
  return model
}

function fill(tensors: Iterable<Tensor>, std: number): void {
  let call = 0
  for (const target of tensors) {
    noGrad(() =>
      scope(() => {
        const values = randn(target.shape, randomKey(5, { call: call++ }), { std })
        ops.copyInto(target, ops.cast(values, target.dtype))
      }),
    )
  }
}

/** Gradients by name; zeros where a loss has none. */
async function gradients(
  model: CausalLm,
  adapter: LoraAdapter,
  options: SequenceOptions,
): Promise<Map<string, ArrayLike<number>>> {
  scope(() => {
    const loss = model.loss(ids(), ids(), { ...options, adapter })
    if (loss.requiresGrad) loss.backward()
  })
  const found = new Map<string, ArrayLike<number>>()
  for (const [name, parameter] of adapter.namedParameters()) {
    found.set(name, (await parameter.grad?.toArray()) ?? new Float32Array(parameter.size))
    parameter.grad = null
  }
  return found
}

describe('trap 10: adapters', () => {
  test('trap 10 begins: B is zero, A Kaiming-uniform with a = sqrt 5', async () => {
    using model = new Llama(LLAMA, { seed: 1 })
    using adapter = new LoraAdapter(model, { rank: 64, seed: 2 })
    const seen = new Set<number>()
    for (const [name, parameter] of adapter.namedParameters()) {
      const values = await parameter.toArray()
      if (name.endsWith('lora_B.weight')) {
        expectBitwise(name, values, new Float32Array(values.length))
        continue
      }
      // gain sqrt(2 / (1 + 5)) over sqrt(inputs), times sqrt 3: uniform within 1 / sqrt(inputs)
      const bound = 1 / Math.sqrt(parameter.shape[1] as number)
      let sum = 0
      let squares = 0
      let largest = 0
      for (const value of values) {
        sum += value
        squares += value * value
        largest = Math.max(largest, Math.abs(value))
      }
      const n = values.length
      expectBetween(`${name}: largest / bound`, largest / bound, 0.99, 1)
      // five standard errors of a mean, and of a variance whose fourth moment is that of a uniform
      expectBetween(`${name}: mean / bound`, sum / n / bound, -5 / Math.sqrt(3 * n), 5 / Math.sqrt(3 * n))
      const spread = (3 * squares) / n / bound ** 2
      expectBetween(`${name}: variance`, spread, 1 - 5 * Math.sqrt(0.8 / n), 1 + 5 * Math.sqrt(0.8 / n))
      seen.add(values[0] as number)
    }
    expectBetween('different beginnings', seen.size, adapter.terms.length, adapter.terms.length)
  })

  test.each<[string, LoraOptions, number]>([
    ['alpha / r', { rank: 4, alpha: 6 }, 6 / 4],
    ['rsLoRA: alpha / sqrt r', { rank: 4, alpha: 6, rsLora: true }, 6 / 2],
    ['patterns', { rank: 8, alpha: 6, rankPattern: { q_proj: 4 }, alphaPattern: { q_proj: 10 } }, 10 / 4],
  ])('trap 10 scale: %s', async (_, options, scale) => {
    using model = new Llama(LLAMA, { seed: 1 })
    using adapter = new LoraAdapter(model, { ...options, targets: ['q_proj'] })
    fill(adapter.namedParameters().values(), 0.5)
    const layer = model.namedModules().get('model.layers.1.selfAttn.qProj') as Linear
    using x = scope(() => randn([3, 32], randomKey(9)))
    using y = noGrad(() => layer.forward(x, { adapter }))
    using base = noGrad(() => layer.forward(x))
    const [xs, ys, bases] = [await x.toArray(), await y.toArray(), await base.toArray()]
    const name = 'model.layers.1.self_attn.q_proj.lora_'
    const [a, b] = ['A.weight', 'B.weight'].map(
      (part) => adapter.namedParameters().get(name + part) as Tensor,
    )
    const [as, bs] = [await (a as Tensor).toArray(), await (b as Tensor).toArray()]
    const rank = (a as Tensor).shape[0] as number
    const expected = Float64Array.from(ys, (_, i) => {
      const [row, output] = [Math.floor(i / 32), i % 32]
      let term = 0
      for (let r = 0; r < rank; r++) {
        let low = 0
        for (let k = 0; k < 32; k++) low += (xs[row * 32 + k] as number) * (as[r * 32 + k] as number)
        term += low * (bs[output * rank + r] as number)
      }
      return (bases[i] as number) + scale * term
    })
    // float32 sums of 32 and 4 terms of up to 10
    expectClose('y', ys, expected, { rtol: 1e-5, atol: 5e-5 })
  })

  test.each(families)('trap 10 one step of %s: every B moved', async (_, make) => {
    using model = frozen(make())
    using adapter = new LoraAdapter(model, { rank: 4 })
    using optimizer = new AdamW({ parameters: adapter.namedParameters(), learningRate: 1e-2 })
    using zero = new LoraAdapter(model, { rank: 4 })
    using fresh = noGrad(() => scope(() => model.forward(ids(), { adapter: zero })))
    using own = noGrad(() => scope(() => model.forward(ids())))
    // a term of zeros changes nothing
    expectClose('logits of a fresh adapter', await fresh.toArray(), await own.toArray(), {
      rtol: 0,
      atol: 1e-6,
    })
    using step = scope(() => {
      model.loss(ids(), ids(), { adapter }).backward()
      return optimizer.step()
    })
    expectBetween('norm', await step.item(), 1e-6, 1e6)
    for (const [name, parameter] of adapter.namedParameters()) {
      if (!name.includes('lora_B')) continue
      const values = await parameter.toArray()
      const moved = Array.from(values).filter((value) => value !== 0).length
      expectBetween(`${name}: share that moved`, moved / values.length, 0.99, 1)
    }
  })

  test.each(families)('trap 10 checkpointed %s, frozen embedding: the same gradients', async (_, make) => {
    using model = frozen(make())
    using adapter = new LoraAdapter(model, { rank: 4 })
    fill(adapter.namedParameters().values(), 0.3)
    const plain = await gradients(model, adapter, {})
    const again = await gradients(model, adapter, { checkpoint: true })
    for (const [name, values] of plain) {
      let largest = 0
      for (let i = 0; i < values.length; i++) largest = Math.max(largest, Math.abs(values[i] as number))
      expectBetween(`gradient of ${name}`, largest, 1e-7, 1e3)
      expectBitwise(`gradient of ${name}, checkpointed`, again.get(name) ?? [], values)
    }
  })

  test.each(families)('trap 10 merge of %s, and out again: the bits of before', async (_, make) => {
    using model = make('bf16')
    using adapter = new LoraAdapter(model, { rank: 4, alpha: 32 })
    fill(adapter.namedParameters().values(), 0.5)
    const read = async (): Promise<Map<string, ArrayLike<number>>> => {
      const found = new Map<string, ArrayLike<number>>()
      for (const [name, parameter] of model.namedParameters()) found.set(name, await parameter.toArray())
      return found
    }
    const before = await read()
    adapter.merge()
    let changed = 0
    for (const [name, values] of await read()) {
      const own = before.get(name) as ArrayLike<number>
      if (Array.from(values).some((value, i) => value !== own[i])) changed++
    }
    expectBetween('weights that the merge changed', changed, adapter.terms.length, adapter.terms.length)
    adapter.unmerge()
    for (const [name, values] of await read()) expectBitwise(name, values, before.get(name) ?? [])
  })

  test('trap 10 merge: W + scale B A, rounded once', async () => {
    using model = new Llama(LLAMA, { dtype: 'bf16', seed: 1 })
    using adapter = new LoraAdapter(model, { rank: 2, alpha: 4, targets: ['o_proj'] })
    fill(adapter.namedParameters().values(), 0.3)
    const layer = model.namedModules().get('model.layers.0.selfAttn.oProj') as Linear
    const weight = await layer.weight.toArray()
    const name = 'model.layers.0.self_attn.o_proj.lora_'
    const read = (part: string): Promise<ArrayLike<number>> =>
      (adapter.namedParameters().get(name + part) as Tensor).toArray() as Promise<ArrayLike<number>>
    const [a, b] = [await read('A.weight'), await read('B.weight')]
    adapter.merge()
    const expected = Float64Array.from(weight, (value, i) => {
      const [row, column] = [Math.floor(i / 32), i % 32]
      let sum = 0
      for (let r = 0; r < 2; r++) sum += (b[row * 2 + r] as number) * (a[r * 32 + column] as number)
      return value + 2 * sum
    })
    // half a step of bf16, and a float32 sum at a tie
    expectClose('merged', await layer.weight.toArray(), expected, { rtol: 2 ** -8 * 1.01, atol: 1e-7 })
  })
})
