import { expect } from 'vitest'
import { ops, scope, type Tensor, tensor } from '../../lib/index.ts'

type Scalar = (inputs: readonly Tensor[]) => Tensor

/** N(0, 1)-like values from a small generator of its own, so that tests never move. */
export function values(count: number, seed: number): number[] {
  let state = seed * 2654435761 + 1
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state + 0.5) / 2 ** 32
  }
  return Array.from(
    { length: count },
    () => Math.sqrt(-2 * Math.log(next())) * Math.cos(2 * Math.PI * next()),
  )
}

/**
 * Compares backward of sum(f(inputs) * weights) with central differences in float64, eps 1e-6, each
 * partial within atol 1e-5 and rtol 1e-3.
 */
export async function checkGradients(
  f: Scalar,
  shapes: readonly (readonly number[])[],
  fill: (count: number, seed: number) => number[] = values,
): Promise<void> {
  const data = shapes.map((shape, i) =>
    fill(
      shape.reduce((a, b) => a * b, 1),
      i + 1,
    ),
  )
  const leaves = shapes.map((shape, i) => tensor(data[i] ?? [], { shape, dtype: 'f64', requiresGrad: true }))
  const weighted = (inputs: readonly Tensor[]): Tensor => {
    const y = f(inputs)
    return ops.sum(ops.mul(y, tensor(values(y.size, 99), { shape: y.shape, dtype: 'f64' })))
  }
  scope(() => weighted(leaves).backward())
  const eps = 1e-6
  for (let i = 0; i < leaves.length; i++) {
    const grad = (leaves[i] as Tensor).grad
    const found = grad === null ? new Float64Array(data[i]?.length ?? 0) : await grad.toArray()
    const at = async (index: number, delta: number): Promise<number> => {
      const loss = scope(() =>
        weighted(
          shapes.map((shape, j) => {
            const moved = (data[j] ?? []).slice()
            if (j === i) moved[index] = (moved[index] ?? 0) + delta
            return tensor(moved, { shape, dtype: 'f64' })
          }),
        ),
      )
      const value = await loss.item()
      loss.dispose()
      return value
    }
    for (let k = 0; k < found.length; k++) {
      const expected = ((await at(k, eps)) - (await at(k, -eps))) / (2 * eps)
      const error = Math.abs((found[k] ?? 0) - expected)
      expect(error, `input ${i}, element ${k}: ${found[k]} against ${expected}`).toBeLessThanOrEqual(
        1e-5 + 1e-3 * Math.abs(expected),
      )
    }
  }
  for (const leaf of leaves) leaf.dispose()
}
