// The same training on the CPU and on a CUDA device: a small LLaMA from the same weights on the same
// tokens. The limits are those against PyTorch (test/models/parity.ts): float32 differs by rounding
// alone, bf16 by as much as PyTorch's own.

import {
  AdamW,
  Device,
  Llama,
  opStats,
  schedule,
  scope,
  type Tensor,
  tensor,
  withDevice,
} from '../../lib/index.ts'

export const LIMITS = { f32: 1e-4, bf16: 2e-2 } as const

const SIZE = {
  vocabSize: 96,
  hiddenSize: 64,
  intermediateSize: 160,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 64,
}
const BATCH = 4
const CONTEXT = 48

/** Tokens with something to learn: each follows from the one before, with exceptions. */
function tokens(step: number): Int32Array {
  let state = 977 * (step + 1)
  const next = (below: number): number => {
    state = (state * 1103515245 + 12345) % 2 ** 31
    return Math.floor(state / 65536) % below
  }
  const ids = new Int32Array(BATCH * CONTEXT)
  for (let i = 0; i < ids.length; i++) {
    const before = i % CONTEXT === 0 ? next(96) : (ids[i - 1] ?? 0)
    ids[i] = next(8) === 0 ? next(96) : (before * 7 + 3) % 96
  }
  return ids
}

async function train(device: Device, dtype: 'f32' | 'bf16', steps: number): Promise<number[]> {
  const model = new Llama(SIZE, { dtype, seed: 3, device })
  const optimizer = new AdamW({ parameters: model.namedParameters(), clipNorm: 1, weightDecay: 0.01 })
  const rate = schedule({ learningRate: 3e-3, steps, warmup: 5, decay: 'cosine' })
  const losses: number[] = []
  for (let step = 0; step < steps; step++) {
    optimizer.learningRate = rate(step)
    const loss = withDevice(device, () =>
      scope((): Tensor => {
        const ids = tensor(tokens(step), { shape: [BATCH, CONTEXT], dtype: 'i32' })
        const loss = model.loss(ids, ids)
        loss.backward()
        optimizer.step()
        return loss
      }),
    )
    losses.push(await loss.item())
    loss.dispose()
  }
  optimizer.dispose()
  model.dispose()
  return losses
}

/** Losses by step on both, and the largest relative difference. */
export async function parity(
  plugin: string,
  dtype: 'f32' | 'bf16',
  steps: number,
): Promise<{ cpu: number[]; cuda: number[]; worst: number; served: string[] }> {
  using onCpu = Device.open({ device: 'cpu' })
  using onCuda = Device.open({ device: 'cuda', cudaPlugin: plugin })
  const cpu = await train(onCpu, dtype, steps)
  const before = new Map([...opStats()].map(([name, { reference }]) => [name, reference]))
  const cuda = await train(onCuda, dtype, steps)
  const served = [...opStats()]
    .filter(([name, { reference }]) => reference > (before.get(name) ?? 0))
    .map(([name]) => name)
  const worst = Math.max(...cpu.map((loss, i) => Math.abs((cuda[i] ?? Number.NaN) - loss) / loss))
  return { cpu, cuda, worst: Number.isNaN(worst) ? Number.POSITIVE_INFINITY : worst, served }
}
