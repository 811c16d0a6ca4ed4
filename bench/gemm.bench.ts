// How fast are linear, its dX and its dW at the shapes of 124M, beside PyTorch and the machine's peak?
//
//   npm run bench -- gemm [--peers] [--only "linear.dw 4096"] [--json]

import { Device, noGrad, ops, registeredOps, type Tensor } from 'fuselm'
import { type Case, type Comparison, compareAll, type FloatType } from './compare.ts'

/** Rows, inputs, outputs of the layer. */
const SHAPES = [
  [4096, 768, 768],
  [4096, 3072, 768],
  [4096, 768, 3072],
  [2048, 2048, 2048],
  [512, 768, 50304],
] as const
const GPU_SHAPES = [
  [4096, 768, 768],
  [32768, 768, 2304],
  [32768, 768, 4096],
  [32768, 2048, 768],
  [8192, 4096, 4096],
  [8192, 8192, 8192],
  [16, 4096, 11008],
  [1, 4096, 4096],
] as const
type Given = Readonly<Record<string, Tensor>>

const BYTES = { f32: 4, bf16: 2 }

function call(
  name: string,
  inputs: readonly (Tensor | null)[],
  attributes: readonly number[],
): Tensor | null {
  const op = registeredOps().get(name)
  if (op === undefined) throw new Error(`no op ${name}`)
  return op(inputs, attributes)[0] ?? null
}

function dw({ dy, x, dw }: Given): void {
  call('linear.dw', [dy as Tensor, x as Tensor, dw as Tensor, null], [0])
}

function cases(dtype: FloatType, [m, k, n]: readonly [number, number, number]): Case[] {
  const x = { shape: [m, k] }
  const weight = { shape: [n, k] }
  const dy = { shape: [m, n] }
  const shared = { dtype, flops: 2 * m * k * n, tolerance: dtype === 'f32' ? 1e-5 : 1e-2 }
  const size = BYTES[dtype]
  const named = (kernel: string): Pick<Case, 'kernel' | 'shape' | 'peer'> => ({
    kernel,
    shape: `${m}x${k}x${n}`,
    peer: { work: kernel },
  })
  return [
    {
      ...shared,
      ...named('linear'),
      inputs: { x, weight },
      bytes: size * (m * k + n * k + m * n),
      run: ({ x, weight }) => [noGrad(() => ops.linear(x as Tensor, { weight: weight as Tensor }))],
    },
    {
      ...shared,
      ...named('linear.dx'),
      inputs: { dy, weight },
      bytes: size * (m * k + n * k + m * n),
      run: ({ dy, weight }) => [call('linear.dx', [dy as Tensor, weight as Tensor], []) as Tensor],
    },
    {
      ...shared,
      ...named('linear.dw'),
      inputs: { dy, x, dw: { shape: [n, k], zeros: 'f32' } },
      bytes: size * (m * k + m * n) + 4 * n * k,
      run: (inputs) => {
        dw(inputs)
        return []
      },
      results: (inputs) => {
        dw(inputs)
        return [ops.mul(inputs['dw'] as Tensor, 1)]
      },
    },
  ]
}

export function run(argv: readonly string[]): Promise<Comparison> {
  const shapes = Device.default().kind === 'cpu' ? SHAPES : GPU_SHAPES
  const all = (['bf16', 'f32'] as const).flatMap((dtype) => shapes.flatMap((shape) => cases(dtype, shape)))
  return compareAll(argv, all)
}
