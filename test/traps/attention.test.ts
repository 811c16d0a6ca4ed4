// Traps 3 (rope: half-split, far positions) and 4 (documents, left padding, empty intervals).

import { afterAll, describe, test } from 'vitest'
import { type CausalLm, Device, Gpt2, Llama, scope, type Tensor, tensor } from '../../lib/index.ts'
import { attention } from '../../lib/ops/attention.ts'
import { rope } from '../../lib/ops/rope.ts'
import { random } from '../ops/random.ts'
import { expectClose } from './numeric.ts'
import { ropeHalfSplit } from './oracle.ts'

const device = Device.open({ threads: 2 }).makeDefault()
afterAll(() => device.close())

function normals(seed: string, count: number): Float64Array {
  const { normal } = random(seed)
  return Float64Array.from({ length: count }, () => Math.fround(normal()))
}

describe('trap 03: rotary positions', () => {
  // at 2^16 a float32 phase is off by up to 4e-3, a bf16 position by 256
  for (const { theta, positions } of [
    { theta: 10000, positions: [0, 1, 2, 3, 17, 100, 1000, 4095] },
    { theta: 10000, positions: [65535, 65536, 65537, 70001, 100003, 131071, 262147, 999983] },
    { theta: 500000, positions: [65535, 65536, 65537, 70001, 100003, 131071, 262147, 999983] },
  ]) {
    test(`trap 03 half-split pairs at positions up to ${positions.at(-1)}, theta ${theta}`, async () => {
      const [heads, size] = [2, 16]
      const x = normals('trap 03', positions.length * heads * size)
      const y = scope(() =>
        rope(tensor(x, { shape: [1, positions.length, heads, size], dtype: 'f32' }), {
          theta,
          positions: tensor(positions, { shape: [1, positions.length], dtype: 'i32' }),
        }),
      )
      const expected = positions.flatMap((position, t) =>
        Array.from({ length: heads }, (_, h) =>
          ropeHalfSplit(x.subarray((t * heads + h) * size, (t * heads + h + 1) * size), position, theta),
        ).flat(),
      )
      expectClose('y', await y.toArray(), expected, { rtol: 2e-6, atol: 2e-6 })
      y.dispose()
    })
  }
})

const CONFIG = {
  vocabSize: 37,
  hiddenSize: 32,
  intermediateSize: 48,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  initializerRange: 0.3,
} as const

function i32(values: readonly number[], batch: number): Tensor {
  return tensor(values, { shape: [batch, values.length / batch], dtype: 'i32' })
}

const iota = (n: number): number[] => Array.from({ length: n }, (_, i) => i)

async function gradients(model: CausalLm): Promise<Map<string, Float64Array>> {
  const found = new Map<string, Float64Array>()
  for (const [name, p] of model.namedParameters()) {
    found.set(name, Float64Array.from((await p.grad?.toArray()) ?? [Number.NaN]))
    p.grad = null
  }
  return found
}

describe('trap 04: no attention across documents, none to padding', () => {
  const { integer } = random('trap 04')
  const documents = [7, 5, 9].map((length) => Array.from({ length }, () => integer(0, CONFIG.vocabSize)))

  const { vocabSize, hiddenSize: nEmbd, initializerRange } = CONFIG
  const gpt2 = { vocabSize, nEmbd, nLayer: 2, nHead: 4, nPositions: 32, initializerRange }
  test.each([
    ['llama', () => new Llama(CONFIG, { seed: 4 })],
    ['gpt2, its learned positions reset', () => new Gpt2(gpt2, { seed: 4 })],
  ] as const)(
    'trap 04 packed documents give the loss and gradients of unpacked ones: %s',
    async (_, make) => {
      const model = make()
      const targets = documents.reduce((n, d) => n + d.length - 1, 0)
      const scale = (): Tensor => tensor(1 / targets)
      const packed = scope(() => {
        const starts = documents.map((_, d) => documents.slice(0, d).reduce((n, o) => n + o.length, 0))
        const loss = model.loss(
          i32(documents.flat(), 1),
          // the first token of a document is predicted by nothing
          i32(
            documents.flatMap((d) => d.map((id, t) => (t === 0 ? -100 : id))),
            1,
          ),
          {
            first: i32(
              documents.flatMap((d, k) => d.map(() => starts[k] ?? 0)),
              1,
            ),
            positions: i32(
              documents.flatMap((d) => iota(d.length)),
              1,
            ),
            scale: scale(),
          },
        )
        loss.backward()
        return loss
      })
      const packedGradients = await gradients(model)
      const single = scope(() =>
        documents.map((d) => {
          const loss = model.loss(i32(d, 1), i32(d, 1), { scale: scale() })
          loss.backward()
          return loss
        }),
      )
      const expected = (await Promise.all(single.map((l) => l.item()))).reduce((a, b) => a + b, 0)
      expectClose('loss', [await packed.item()], [expected], { rtol: 2e-6, atol: 0 })
      for (const [name, values] of await gradients(model)) {
        expectClose(`gradient of ${name}`, packedGradients.get(name) ?? [], values, {
          rtol: 1e-4,
          atol: 1e-6,
        })
      }
      for (const loss of [packed, ...single]) loss.dispose()
      model.dispose()
    },
  )

  test('trap 04 left-padded rows give the logits of single rows', async () => {
    const model = new Llama(CONFIG, { seed: 5 })
    const width = 9
    const pads = documents.map((d) => width - d.length)
    const batch = scope(() =>
      model.forward(
        i32(
          documents.flatMap((d, k) => [...iota(pads[k] ?? 0).map(() => 0), ...d]),
          3,
        ),
        {
          // a padding token sees no key at all: its interval is empty
          first: i32(
            documents.flatMap((_, k) => iota(width).map(() => pads[k] ?? 0)),
            3,
          ),
          positions: i32(
            documents.flatMap((d, k) => [...iota(pads[k] ?? 0).map(() => 0), ...iota(d.length)]),
            3,
          ),
        },
      ),
    )
    const values = await batch.toArray()
    for (const [k, d] of documents.entries()) {
      const single = scope(() => model.forward(i32(d, 1)))
      const begin = (k * width + (pads[k] ?? 0)) * CONFIG.vocabSize
      const row = values.subarray(begin, begin + d.length * CONFIG.vocabSize)
      expectClose(`logits of row ${k}`, row, await single.toArray(), { rtol: 1e-4, atol: 1e-4 })
      single.dispose()
    }
    batch.dispose()
    model.dispose()
  })

  for (const dtype of ['f32', 'bf16'] as const) {
    test(`trap 04 an empty interval gives zeros and zero gradients in ${dtype}`, async () => {
      const [t, heads, size] = [20, 2, 16]
      const empty = [0, 3, 4, 19]
      const make = (name: string): Tensor =>
        tensor(normals(`trap 04 ${name}`, t * heads * size), {
          shape: [1, t, heads, size],
          dtype,
          requiresGrad: true,
        })
      const { q, k, v, out } = scope(() => {
        const [q, k, v] = [make('q'), make('k'), make('v')]
        const out = attention(q, k, v, {
          first: i32(
            iota(t).map((i) => (empty.includes(i) ? t : 0)),
            1,
          ),
        })
        out.backward(tensor(normals('trap 04 dy', t * heads * size), { shape: out.shape, dtype }))
        return { q, k, v, out }
      })
      const zeros = new Float64Array(heads * size)
      const [y, dq] = [await out.toArray(), (await q.grad?.toArray()) ?? []]
      for (const i of empty) {
        const row = (x: ArrayLike<number>): number[] =>
          Array.from(x).slice(i * heads * size, (i + 1) * heads * size)
        expectClose(`output of query ${i}`, row(y), zeros, { rtol: 0, atol: 0 })
        expectClose(`gradient of query ${i}`, row(dq), zeros, { rtol: 0, atol: 0 })
      }
      for (const [name, x] of [
        ['k', k],
        ['v', v],
      ] as const) {
        const grad = (await x.grad?.toArray()) ?? [Number.NaN]
        expectClose(`finiteness of d${name}`, [Array.from(grad).every(Number.isFinite) ? 1 : 0], [1], {
          rtol: 0,
          atol: 0,
        })
      }
      for (const x of [q, k, v, out]) x.dispose()
    })
  }
})
