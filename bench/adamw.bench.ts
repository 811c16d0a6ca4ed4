// How fast is an optimizer step, which only moves memory, beside PyTorch's fused one and a copy?
//
//   npm run bench -- adamw [--peers] [--json]

import { ops, type Tensor, tensor } from 'fuselm'
import { type Case, type Comparison, compareAll, type FloatType } from './compare.ts'

/** A quarter of 124M; 0.9 GB moved in a step, far beyond the caches. */
const SHAPE = [40_240, 768] as const
const SIZE = SHAPE[0] * SHAPE[1]

function step(inputs: Readonly<Record<string, Tensor>>): void {
  const { param, grad, m, v } = inputs as Record<'param' | 'grad' | 'm' | 'v', Tensor>
  ops.adamW([{ param, low: inputs['low'] ?? null, grad, m, v }], {
    norm: tensor(1),
    hyper: tensor([1e-3, 1]),
    decay: tensor([0.01]),
    state: tensor([0, 0], { dtype: 'i32' }),
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    clipNorm: 1,
  })
}

function adamW(dtype: FloatType): Case {
  return {
    kernel: 'adam_w',
    shape: SHAPE.join('x'),
    dtype,
    inputs: {
      param: { shape: SHAPE },
      ...(dtype === 'bf16' && { low: { shape: SHAPE, zeros: 'u16' as const } }),
      grad: { shape: SHAPE, dtype: 'f32' },
      m: { shape: SHAPE, zeros: 'f32' },
      v: { shape: SHAPE, zeros: 'f32' },
    },
    flops: 0,
    // the gradient is read; the parameter (bf16: in two halves), m and v are read and written
    bytes: SIZE * 28,
    run: (inputs) => {
      step(inputs)
      return []
    },
    results: (inputs) => {
      step(inputs)
      return [ops.mul(inputs['param'] as Tensor, 1)]
    },
    peer: { work: 'adam_w' },
    tolerance: dtype === 'f32' ? 1e-5 : 1e-2,
  }
}

const gradNorm: Case = {
  kernel: 'grad_norm',
  shape: SHAPE.join('x'),
  dtype: 'f32',
  inputs: { grad: { shape: SHAPE } },
  flops: 0,
  bytes: SIZE * 4,
  run: ({ grad }) => [ops.gradNorm([grad as Tensor])],
  peer: { work: 'grad_norm' },
  tolerance: 5e-3, // PyTorch sums the 31 million squares in float32, and is off by 2e-3
}

export function run(argv: readonly string[]): Promise<Comparison> {
  return compareAll(argv, [adamW('bf16'), adamW('f32'), gradNorm])
}
