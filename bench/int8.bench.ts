// How fast are int8 weights, for one row (decoding) and for many (prefill), beside PyTorch's and the
// bandwidth? Inputs are bf16; the peer multiplies by its own int8 weights or by the bf16 they stand for.
//
//   npm run bench -- int8 [--peers] [--only "1x"] [--json]

import { noGrad, ops, type Tensor } from 'fuselm'
import { type Case, type Comparison, compareAll } from './compare.ts'

/** Rows, inputs, outputs. */
const SHAPES = [
  [1, 768, 2048],
  [1, 4096, 4096],
  [1, 4096, 11008],
  [4, 4096, 4096],
  [512, 768, 2048],
  [512, 4096, 4096],
] as const

type Kind = { readonly group: number; readonly activations: 'float' | 'int8' }

const KINDS: readonly Kind[] = [
  { group: 0, activations: 'float' },
  { group: 128, activations: 'float' },
  { group: 0, activations: 'int8' },
]

function linearInt8([m, k, n]: (typeof SHAPES)[number], { group, activations }: Kind): Case {
  const scales = group === 0 ? n : n * Math.ceil(k / group)
  return {
    kernel: activations === 'int8' ? 'linear_int8_dynamic' : 'linear_int8',
    shape: `${m}x${k}x${n}${group === 0 ? '' : ` g${group}`}`,
    dtype: 'bf16',
    inputs: { x: { shape: [m, k] }, weight: { shape: [n, k], dtype: 'f32' } },
    flops: 2 * m * k * n,
    bytes: n * k + 4 * scales + 2 * m * (k + n),
    arithmetic: activations === 'int8' ? 'int8' : 'bf16',
    prepare: ({ weight }) => {
      const { values, scales } = ops.quantizeInt8(weight as Tensor, { group })
      return { values, scales }
    },
    run: ({ x, values, scales }) => [
      noGrad(() =>
        ops.linearInt8(x as Tensor, {
          kind: 'int8',
          values: values as Tensor,
          scales: scales as Tensor,
          group,
          activations,
        }),
      ),
    ],
    peer: { work: 'linear_int8', group },
    // activations in int8 are wrong by up to half a 127th of the largest of their row
    tolerance: activations === 'int8' ? 3e-2 : 1e-2,
  }
}

export function run(argv: readonly string[]): Promise<Comparison> {
  return compareAll(
    argv,
    SHAPES.flatMap((shape) => KINDS.map((kind) => linearInt8(shape, kind))),
  )
}
