// Products on a CUDA device beside the CPU's in float32 on the same rounded inputs.

import { type Device, type DType, noGrad, type Tensor, tensor, withDevice } from '../../lib/index.ts'
import { linearDxOp, linearOp } from '../../lib/ops/linear.ts'
import { linearDwOp } from '../../lib/ops/linear_dw.ts'
import { linearGroupDxOp } from '../../lib/ops/linear_group.ts'
import { loraLinearOp } from '../../lib/ops/lora_linear.ts'
import { matmulOp } from '../../lib/ops/matmul.ts'
import { normal } from './normal.ts'

type Make = (seed: number, ...shape: number[]) => Tensor

/** Rows, inputs and outputs of a layer. */
export type Sizes = { readonly m: number; readonly k: number; readonly n: number }

export const products: Record<string, (make: Make, wide: Make, sizes: Sizes) => Tensor> = {
  linear: (make, wide, { m, k, n }) => linearOp([make(1, m, k), make(2, n, k), wide(3, n)])[0],
  'linear, no bias': (make, _, { m, k, n }) => linearOp([make(1, m, k), make(2, n, k), null])[0],
  'linear.dx': (make, _, { m, k, n }) => linearDxOp([make(1, m, k), make(2, k, n)])[0],
  'linear.dw, added': (make, wide, { m, k, n }) => {
    const dw = wide(3, m, n)
    linearDwOp([make(1, k, m), make(2, k, n), dw, null], [true])
    return dw
  },
  'linear_group.dx': (make, _, { m, k, n }) =>
    linearGroupDxOp([make(1, m, k), make(2, k, n), make(3, m, k), make(4, k, n), null, null])[0],
  lora_linear: (make, wide, { m, k, n }) =>
    loraLinearOp(
      [make(1, m, k)],
      [0.5, 1, 1],
      [[make(2, n, k), wide(3, n), null, make(4, 8, k), make(5, n, 8), null]],
    )[0] as Tensor,
  'matmul, a transposed batch by one': (make, _, { m, k, n }) =>
    matmulOp([make(1, 2, k, m).transpose(), make(2, 1, k, n).expand([2, k, n])])[0],
}

async function run(device: Device, dtype: DType, name: string, sizes: Sizes): Promise<Float32Array> {
  const maker =
    (of: DType): Make =>
    (seed, ...shape) =>
      tensor(
        normal(
          shape.reduce((a, b) => a * b, 1),
          seed,
        ),
        { shape, dtype: of, device },
      )
  const product = products[name]
  if (product === undefined) throw new Error(`no product ${name}`)
  const y = withDevice(device, () => noGrad(() => product(maker(dtype), maker('f32'), sizes)))
  return (await y.toArray()) as Float32Array
}

/** The largest error as a share of what is allowed; infinite for NaN. */
export async function worstOf(
  devices: { readonly cuda: Device; readonly cpu: Device },
  dtype: DType,
  name: string,
  sizes: Sizes,
): Promise<number> {
  const expected = await run(devices.cpu, 'f32', name, sizes)
  const received = await run(devices.cuda, dtype, name, sizes)
  if (received.length !== expected.length) return Number.POSITIVE_INFINITY
  // of sums in float32 that are rounded once; x A^T is bf16 before it meets B
  const low = name === 'lora_linear' && dtype === 'bf16'
  const relative = dtype === 'bf16' && name !== 'linear.dw, added' ? 2 ** -8 : 1.3e-6
  const absolute = low ? 2 ** -8 * Math.sqrt(8 * sizes.k) : 8e-6 * Math.sqrt(sizes.k)
  let worst = 0
  for (const [i, b] of expected.entries()) {
    const share = Math.abs((received[i] ?? Number.NaN) - b) / (absolute + relative * Math.abs(b))
    worst = Math.max(worst, Number.isNaN(share) ? Number.POSITIVE_INFINITY : share)
  }
  return worst
}
