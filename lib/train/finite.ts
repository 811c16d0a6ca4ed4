// Whether what is about to be saved is made of numbers.

import { cast } from '../ops/copy.ts'
import { gradNorm } from '../ops/grad_norm.ts'
import { noGrad } from '../tensor/mode.ts'
import { scope } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'

/** Whether every element of every float tensor is a finite number; one read of each. */
export async function allFinite(tensors: Iterable<Tensor>): Promise<boolean> {
  const norms: Promise<number>[] = []
  for (const tensor of tensors) {
    if (tensor.dtype !== 'f32' && tensor.dtype !== 'bf16') continue
    // one by one, so that only one is ever held in float32
    const norm = noGrad(() => scope(() => gradNorm([cast(tensor, 'f32')])))
    norms.push(norm.item())
    norm.dispose()
  }
  return (await Promise.all(norms)).every(Number.isFinite)
}
