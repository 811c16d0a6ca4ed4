// Attention and products at the sizes of real models, where kernels take other tiles than in the op
// matrix: bf16 on a CUDA device beside the CPU's in float32, on the same rounded inputs.

import type { Device } from '../../lib/index.ts'
import { type AttentionCase, worstOfAttention } from './attention.ts'
import { differingRows, type Int8Product, worstOfInt8 } from './int8.ts'
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

type Devices = { readonly cpu: Device; readonly cuda: Device }

async function* ofAttention(devices: Devices, results: RegExp): AsyncGenerator<Compared> {
  for (const c of attention) {
    for (const [name, worst] of Object.entries(await worstOfAttention(devices, c))) {
      if (results.test(name)) yield { name: `attention, ${c.name}: ${name}`, worst }
    }
  }
}

async function* ofProducts(devices: Devices): AsyncGenerator<Compared> {
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

async function* ofInt8(devices: Devices): AsyncGenerator<Compared> {
  const kinds: readonly Int8Product[] = ['linear_int8', 'linear_int8.dx', 'linear_int8_dynamic']
  for (const size of sizes) {
    const { m, k, n } = size
    for (const group of [0, 32, 64, 128]) {
      for (const kind of kinds) {
        const name = `${kind} ${m} x ${k} x ${n}, groups of ${group}`
        yield { name, worst: await worstOfInt8(devices, kind, size, group) }
      }
      const differ = await differingRows(
        devices.cuda,
        size,
        group,
        [1, 7, 100].filter((rows) => rows < m),
      )
      const name = `bits of a row ${m} x ${k} x ${n}, groups of ${group}`
      yield { name, worst: differ.length === 0 ? 0 : Number.POSITIVE_INFINITY }
    }
  }
}

/** By the names that FUSELM_CUDA_WGMMA has for them; `forward` and `backward` are of attention. */
const kernels: Record<string, (devices: Devices) => AsyncGenerator<Compared>> = {
  forward: (devices) => ofAttention(devices, /^(out|lse)$/),
  backward: (devices) => ofAttention(devices, /^d[qkv]$/),
  product: ofProducts,
  int8: ofInt8,
}
export const KERNELS = Object.keys(kernels)

/** Of one of KERNELS, or of all. */
export async function* shapes(devices: Devices, kernel?: string): AsyncGenerator<Compared> {
  const chosen = kernel === undefined ? Object.values(kernels) : [kernels[kernel]]
  for (const compared of chosen) {
    if (compared === undefined) throw new Error(`one of ${KERNELS.join(', ')}, not ${kernel}`)
    yield* compared(devices)
  }
}
