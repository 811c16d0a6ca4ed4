// Attention and products at the sizes of real models, where kernels take other tiles than in the op
// matrix: bf16 on a CUDA device beside the CPU's in float32, on the same rounded inputs.

import type { Device } from '../../lib/index.ts'
import { type AttentionCase, worstOfAttention } from './attention.ts'
import { products, type Sizes, worstOf } from './products.ts'

const attention: readonly AttentionCase[] = [
  { name: 'D 64', B: 2, T: 1024, S: 1024, D: 64 },
  { name: 'D 128', T: 2048, S: 2048, D: 128 },
  { name: 'odd lengths', T: 1029, S: 1501, D: 128 },
  { name: 'D padded', T: 515, S: 515, D: 80 },
  { name: 'D 256', T: 515, S: 515, D: 256 },
  { name: 'all keys', T: 513, S: 1027, D: 64, causal: false },
  { name: 'a window', T: 2048, S: 2048, D: 128, window: 300 },
  { name: 'documents', B: 2, T: 1100, S: 1100, D: 64, first: (t) => t - (t % 389) },
  { name: 'queries that see nothing', B: 2, T: 300, S: 260, D: 128, first: (t) => (t < 140 ? 400 : 0) },
]

const sizes: readonly Sizes[] = [
  { m: 4096, k: 768, n: 2304 },
  { m: 1000, k: 1032, n: 1004 },
  { m: 1, k: 2048, n: 768 },
  { m: 257, k: 511, n: 129 },
]

export interface Compared {
  readonly name: string
  /** The largest error as a share of what is allowed; infinite for NaN. */
  readonly worst: number
}

export async function* shapes(devices: {
  readonly cpu: Device
  readonly cuda: Device
}): AsyncGenerator<Compared> {
  for (const c of attention) {
    const shares = await worstOfAttention(devices, c)
    for (const [name, worst] of Object.entries(shares)) yield { name: `attention, ${c.name}: ${name}`, worst }
  }
  for (const name of Object.keys(products)) {
    for (const size of sizes) {
      for (const dtype of ['bf16', 'f32'] as const) {
        const { m, k, n } = size
        yield {
          name: `${name} ${dtype} ${m} x ${k} x ${n}`,
          worst: await worstOf(devices, dtype, name, size),
        }
      }
    }
  }
}
