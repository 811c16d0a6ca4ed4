// How fast is the loss of a language model, from hidden states and from logits, beside PyTorch?
//
//   npm run bench -- loss [--peers] [--only linear_cross_entropy] [--json]

import { Device, grad, noGrad, ops, type Tensor } from 'fuselm'
import { type Case, type Comparison, compareAll, type FloatType } from './compare.ts'

/** Tokens, hidden size, vocabulary: 1M, 10M, and a quarter of the tokens of 124M. */
const SHAPES = [
  [4096, 128, 512],
  [4096, 256, 4096],
  [1024, 768, 50304],
] as const
/** A GPU takes as many tokens as fill it. */
const GPU_SHAPES = [[16_384, 768, 50304]] as const
const LOGITS = [2048, 50304] as const

function fused(dtype: FloatType, [tokens, hidden, vocabulary]: readonly [number, number, number]): Case[] {
  const size = dtype === 'f32' ? 4 : 2
  const read = size * (tokens * hidden + vocabulary * hidden)
  const inputs = (grad: boolean) => ({
    x: { shape: [tokens, hidden], grad },
    weight: { shape: [vocabulary, hidden], scale: 0.05, grad },
    labels: { shape: [tokens], below: vocabulary },
  })
  const loss = ({ x, weight, labels }: Readonly<Record<string, Tensor>>): Tensor =>
    ops.linearCrossEntropy(x as Tensor, { weight: weight as Tensor }, labels as Tensor)
  const shared = {
    dtype,
    shape: `${tokens}x${hidden}x${vocabulary}`,
    tolerance: dtype === 'f32' ? 1e-4 : 2e-2,
  }
  return [
    {
      ...shared,
      kernel: 'linear_cross_entropy',
      inputs: inputs(false),
      flops: 2 * tokens * hidden * vocabulary,
      bytes: read,
      run: (given) => [noGrad(() => loss(given))],
      peer: { work: 'linear_cross_entropy', backward: 0 },
    },
    {
      ...shared,
      kernel: 'linear_cross_entropy and gradients',
      inputs: inputs(true),
      flops: 6 * tokens * hidden * vocabulary,
      bytes: 2 * read + 4 * (tokens * hidden + vocabulary * hidden),
      run: (given) => grad([loss(given)], [given['x'] as Tensor, given['weight'] as Tensor]) as Tensor[],
      peer: { work: 'linear_cross_entropy', backward: 1 },
    },
  ]
}

function dense(dtype: FloatType): Case[] {
  const [tokens, vocabulary] = LOGITS
  const bytes = (dtype === 'f32' ? 4 : 2) * tokens * vocabulary
  const inputs = (grad: boolean) => ({
    logits: { shape: [tokens, vocabulary], grad },
    labels: { shape: [tokens], below: vocabulary },
  })
  const loss = ({ logits, labels }: Readonly<Record<string, Tensor>>): Tensor =>
    ops.crossEntropy(logits as Tensor, labels as Tensor)
  const shared = {
    dtype,
    shape: `${tokens}x${vocabulary}`,
    flops: 0,
    tolerance: dtype === 'f32' ? 1e-4 : 2e-2,
  }
  return [
    {
      ...shared,
      kernel: 'cross_entropy',
      inputs: inputs(false),
      bytes,
      run: (given) => [noGrad(() => loss(given))],
      peer: { work: 'cross_entropy', backward: 0 },
    },
    {
      ...shared,
      kernel: 'cross_entropy and gradients',
      inputs: inputs(true),
      bytes: 3 * bytes,
      run: (given) => grad([loss(given)], [given['logits'] as Tensor]) as Tensor[],
      peer: { work: 'cross_entropy', backward: 1 },
    },
  ]
}

export function run(argv: readonly string[]): Promise<Comparison> {
  return compareAll(
    argv,
    (['bf16', 'f32'] as const).flatMap((dtype) => [
      ...(Device.default().kind === 'cpu' ? SHAPES : GPU_SHAPES).flatMap((shape) => fused(dtype, shape)),
      ...dense(dtype),
    ]),
  )
}
