// Attention of a CUDA device in bf16 beside the CPU's kernels in float32, on the same rounded inputs.

import { type Device, noGrad, type Tensor, tensor, withDevice } from '../../lib/index.ts'
import { attentionBackwardOp, attentionOp } from '../../lib/ops/attention.ts'
import { normal } from './normal.ts'

export type AttentionCase = {
  readonly name: string
  readonly B?: number
  readonly T: number
  readonly S: number
  readonly D: number
  readonly causal?: boolean
  readonly window?: number
  readonly first?: (t: number) => number
}
const H = 2
const Hkv = 1

async function run(
  device: Device,
  dtype: 'f32' | 'bf16',
  c: AttentionCase,
): Promise<Map<string, Float32Array>> {
  const { B = 1 } = c
  const make = (seed: number, length: number, heads: number): Tensor =>
    tensor(normal(B * length * heads * c.D, seed), { shape: [B, length, heads, c.D], dtype, device })
  const q = make(1, c.T, H)
  q.requiresGrad = true // makes the log-sum-exp
  const k = make(2, c.S, Hkv)
  const v = make(3, c.S, Hkv)
  const dout = make(4, c.T, H)
  const { first: at } = c
  const first =
    at === undefined
      ? null
      : tensor(
          Int32Array.from({ length: B * c.T }, (_, i) => at(i % c.T)),
          { shape: [B, c.T], dtype: 'i32', device },
        )
  const attributes = [1 / Math.sqrt(c.D), c.causal ?? true, c.window ?? 0] as const
  const made = withDevice(device, () => {
    const [out, lse] = attentionOp([q, k, v, first, null], attributes)
    if (lse === null) throw new Error('no log-sum-exp')
    const [dq, dk, dv] = noGrad(() => attentionBackwardOp([dout, q, k, v, out, lse, first, null], attributes))
    return { out, lse, dq, dk, dv }
  })
  const results = new Map<string, Float32Array>()
  for (const [name, t] of Object.entries(made)) results.set(name, (await t.toArray()) as Float32Array)
  return results
}

/** By result (output, log-sum-exp, gradients), the largest error as a share of what is allowed; infinite for NaN. */
export async function worstOfAttention(
  { cpu, cuda }: { readonly cpu: Device; readonly cuda: Device },
  c: AttentionCase,
): Promise<Record<string, number>> {
  const expected = await run(cpu, 'f32', c)
  const received = await run(cuda, 'bf16', c)
  const shares: Record<string, number> = {}
  for (const [name, reference] of expected) {
    const values = received.get(name) ?? new Float32Array()
    // those of the case table in bf16; the log-sum-exp is float32 sums of bf16 products
    const [relative, absolute] = name === 'lse' ? [1e-5, 1e-4] : [1.6e-2, 3e-2]
    let worst = values.length === reference.length ? 0 : Number.POSITIVE_INFINITY
    for (const [i, b] of reference.entries()) {
      const a = values[i] ?? Number.NaN
      if (a === b) continue // infinities, too
      const share = Math.abs(a - b) / (absolute + relative * Math.abs(b))
      worst = Math.max(worst, Number.isNaN(share) ? Number.POSITIVE_INFINITY : share)
    }
    shares[name] = worst
  }
  return shares
}
