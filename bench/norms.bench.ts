// How fast are norms and activations, which only move memory, beside PyTorch and the bandwidth?
//
//   npm run bench -- norms [--peers] [--only rms_norm] [--json]

import { Device, grad, noGrad, ops, type Tensor } from 'fuselm'
import { type Case, type Comparison, compareAll, type FloatType, type Input } from './compare.ts'

/** Beyond the caches: 50 MB a tensor in f32; on a GPU 200 MB. */
const ROWS = Device.default().kind === 'cpu' ? 16_384 : 65_536
const WIDTH = 768

type Given = Readonly<Record<string, Tensor>>

interface Op {
  readonly kernel: string
  readonly forward: (inputs: Given) => Tensor
  /** Inputs of [rows, width]; the rest are vectors, in f32. */
  readonly wide: readonly string[]
  readonly vectors?: readonly string[]
}

const t = (given: Given, name: string): Tensor => given[name] as Tensor

const OPS: readonly Op[] = [
  {
    kernel: 'rms_norm',
    forward: (i) => ops.rmsNorm(t(i, 'x'), t(i, 'w'), { eps: 1e-5 }),
    wide: ['x'],
    vectors: ['w'],
  },
  {
    kernel: 'layer_norm',
    forward: (i) => ops.layerNorm(t(i, 'x'), t(i, 'w'), { b: t(i, 'b'), eps: 1e-5 }),
    wide: ['x'],
    vectors: ['w', 'b'],
  },
  { kernel: 'swiglu', forward: (i) => ops.swiglu(t(i, 'gate'), t(i, 'up')), wide: ['gate', 'up'] },
  { kernel: 'gelu', forward: (i) => ops.gelu(t(i, 'x')), wide: ['x'] },
  { kernel: 'gelu_tanh', forward: (i) => ops.gelu(t(i, 'x'), { approximate: 'tanh' }), wide: ['x'] },
  { kernel: 'residual_add', forward: (i) => ops.residualAdd(t(i, 'x'), t(i, 'y')), wide: ['x', 'y'] },
]

function cases(dtype: FloatType, { kernel, forward, wide, vectors = [] }: Op): Case[] {
  const size = ROWS * WIDTH * (dtype === 'f32' ? 4 : 2)
  const inputs = (grad: boolean): Record<string, Input> => ({
    ...Object.fromEntries(wide.map((name) => [name, { shape: [ROWS, WIDTH], grad }])),
    ...Object.fromEntries(vectors.map((name) => [name, { shape: [WIDTH], dtype: 'f32' as const, grad }])),
    ...(grad && { dy: { shape: [ROWS, WIDTH] } }),
  })
  const names = [...wide, ...vectors]
  const shared = { dtype, shape: `${ROWS}x${WIDTH}`, flops: 0, tolerance: dtype === 'f32' ? 1e-5 : 1e-2 }
  return [
    {
      ...shared,
      kernel,
      inputs: inputs(false),
      bytes: size * (wide.length + 1),
      run: (given) => [noGrad(() => forward(given))],
      peer: { work: kernel, backward: 0 },
    },
    {
      ...shared,
      kernel: `${kernel} and gradients`,
      inputs: inputs(true),
      // forward as above; then dy and the inputs are read, and their gradients written
      bytes: size * (wide.length + 1 + 1 + 2 * wide.length),
      run: (given) =>
        grad(
          [forward(given)],
          names.map((name) => t(given, name)),
          [t(given, 'dy')],
        ) as Tensor[],
      peer: { work: kernel, backward: 1 },
    },
  ]
}

export function run(argv: readonly string[]): Promise<Comparison> {
  return compareAll(
    argv,
    (['bf16', 'f32'] as const).flatMap((dtype) => OPS.flatMap((op) => cases(dtype, op))),
  )
}
