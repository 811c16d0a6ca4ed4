// Products with int8 weights on a CUDA device: beside the CPU's on the same values, and a row alone
// beside the same row among others.

import { type Device, noGrad, type Tensor, tensor, withDevice } from '../../lib/index.ts'
import { linearInt8DxOp, linearInt8DynamicOp, linearInt8Op } from '../../lib/ops/linear_int8.ts'
import { normal } from './normal.ts'
import type { Sizes } from './products.ts'

export type Int8Product = 'linear_int8' | 'linear_int8.dx' | 'linear_int8_dynamic'

/** `rows`: of x, the first of as many as `sizes` says. */
export async function int8Product(
  device: Device,
  dtype: 'f32' | 'bf16',
  product: Int8Product,
  { m, k, n }: Sizes,
  group: number,
  rows = m,
): Promise<Float32Array> {
  const groups = group === 0 ? 1 : Math.ceil(k / group)
  const make = (values: Float32Array, shape: number[]): Tensor => tensor(values, { shape, dtype, device })
  const values = tensor(
    Int8Array.from(normal(n * k, 2), (v) => Math.max(-127, Math.min(127, Math.round(v * 50)))),
    { shape: [n, k], dtype: 'i8', device },
  )
  const scales = tensor(
    normal(n * groups, 3).map((v) => 0.01 + 0.002 * Math.tanh(v)),
    { shape: group === 0 ? [n] : [n, groups], dtype: 'f32', device },
  )
  const bias = tensor(normal(n, 4), { shape: [n], dtype: 'f32', device })
  const width = product === 'linear_int8.dx' ? n : k
  const x = make(normal(m * width, 1).slice(0, rows * width), [rows, width])
  const y = withDevice(device, () =>
    noGrad(() => {
      if (product === 'linear_int8.dx') return linearInt8DxOp([x, values, scales], [group])[0]
      const op = product === 'linear_int8' ? linearInt8Op : linearInt8DynamicOp
      return op([x, values, scales, bias], [group])[0]
    }),
  )
  return (await y.toArray()) as Float32Array
}

/** Beside the CPU's in float32: the largest error as a share of a rounding to bf16 (of the weights, too, for dx). */
export async function worstOfInt8(
  { cpu, cuda }: { readonly cpu: Device; readonly cuda: Device },
  product: Int8Product,
  sizes: Sizes,
  group: number,
): Promise<number> {
  const expected = await int8Product(cpu, 'f32', product, sizes, group)
  const received = await int8Product(cuda, 'bf16', product, sizes, group)
  // a weight is 0.5 on average here, 1.6 at most, and for dx 2^-9 of it off
  const absolute = product === 'linear_int8.dx' ? 2 ** -7 * Math.sqrt(sizes.n) : 8e-6 * Math.sqrt(sizes.k)
  let worst = received.length === expected.length ? 0 : Number.POSITIVE_INFINITY
  for (const [i, b] of expected.entries()) {
    const share = Math.abs((received[i] ?? Number.NaN) - b) / (absolute + 2 ** -8 * Math.abs(b))
    worst = Math.max(worst, Number.isNaN(share) ? Number.POSITIVE_INFINITY : share)
  }
  return worst
}

/** Of how many rows, among `few`, the bits differ from those that they have among all of `sizes`. */
export async function differingRows(
  device: Device,
  sizes: Sizes,
  group: number,
  few: readonly number[],
): Promise<readonly number[]> {
  const all = await int8Product(device, 'bf16', 'linear_int8_dynamic', sizes, group)
  const differ: number[] = []
  for (const rows of few) {
    const some = await int8Product(device, 'bf16', 'linear_int8_dynamic', sizes, group, rows)
    if (some.length !== rows * sizes.n || some.some((v, i) => v !== all[i])) differ.push(rows)
  }
  return differ
}
