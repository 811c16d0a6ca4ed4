// How fast is causal attention, forward and with its gradients, beside PyTorch's fused one?
//
//   npm run bench -- attention [--peers] [--only "T1024"] [--json]

import { Device, grad, noGrad, ops, type Tensor } from 'fuselm'
import { type Case, type Comparison, compareAll, type FloatType } from './compare.ts'

interface Shape {
  readonly B: number
  readonly T: number
  readonly H: number
  /** Key-value heads. */
  readonly G: number
  readonly D: number
}

/** Of a CPU; a GPU takes as many tokens as fill it. */
const SHAPES: readonly Shape[] = [
  { B: 16, T: 256, H: 4, G: 4, D: 64 },
  { B: 4, T: 1024, H: 12, G: 12, D: 64 },
  { B: 1, T: 4096, H: 12, G: 12, D: 64 },
  { B: 1, T: 2048, H: 16, G: 4, D: 128 },
]
const GPU_SHAPES: readonly Shape[] = [
  { B: 16, T: 1024, H: 12, G: 12, D: 64 },
  { B: 4, T: 4096, H: 12, G: 12, D: 64 },
  { B: 16, T: 1024, H: 16, G: 16, D: 128 },
  { B: 4, T: 4096, H: 16, G: 4, D: 128 },
  { B: 2, T: 8192, H: 16, G: 16, D: 128 },
  { B: 1, T: 16384, H: 16, G: 16, D: 128 },
]

/** Of the two products of a score, below the diagonal alone; backward makes five of seven. */
function products({ B, T, H, D }: Shape, count: number): number {
  return count * 2 * B * H * D * ((T * (T + 1)) / 2)
}

function cases(dtype: FloatType, s: Shape): Case[] {
  const { B, T, H, G, D } = s
  const size = dtype === 'f32' ? 4 : 2
  const queries = B * T * H * D
  const keys = B * T * G * D
  const inputs = (grad: boolean) => ({
    q: { shape: [B, T, H, D], grad },
    k: { shape: [B, T, G, D], grad },
    v: { shape: [B, T, G, D], grad },
    dy: { shape: [B, T, H, D] },
  })
  const shared = {
    dtype,
    shape: `B${B} T${T} H${H}${G === H ? '' : `/${G}`} D${D}`,
    tolerance: dtype === 'f32' ? 1e-5 : 2e-2,
  }
  return [
    {
      ...shared,
      kernel: 'attention',
      inputs: inputs(false),
      flops: products(s, 2),
      bytes: size * (2 * queries + 2 * keys),
      run: ({ q, k, v }) => [noGrad(() => ops.attention(q as Tensor, k as Tensor, v as Tensor))],
      peer: { work: 'attention', backward: 0 },
    },
    {
      ...shared,
      kernel: 'attention and gradients',
      inputs: inputs(true),
      flops: products(s, 7),
      bytes: size * (6 * queries + 6 * keys),
      run: (given) => {
        const { q, k, v, dy } = given as { q: Tensor; k: Tensor; v: Tensor; dy: Tensor }
        return grad([ops.attention(q, k, v)], [q, k, v], [dy]) as Tensor[]
      },
      peer: { work: 'attention', backward: 1 },
    },
  ]
}

export function run(argv: readonly string[]): Promise<Comparison> {
  const all =
    Device.default().kind === 'cpu'
      ? (['bf16', 'f32'] as const).flatMap((dtype) => SHAPES.flatMap((shape) => cases(dtype, shape)))
      : GPU_SHAPES.flatMap((shape) => cases('bf16', shape))
  return compareAll(argv, all)
}
