// What Tensor's methods need from floors that stand above this one, filled in when those load.

import type { Device } from '../runtime/device.ts'
import { DeviceError } from '../runtime/errors.ts'
import type { DType } from './dtype.ts'
import type { Tensor } from './tensor.ts'

export interface Hooks {
  contiguous(x: Tensor): Tensor
  cast(x: Tensor, dtype: DType): Tensor
  sum(x: Tensor, axes: readonly number[], keepDims: boolean): Tensor
  full(
    shape: readonly number[],
    value: number,
    options: { readonly dtype: DType; readonly device: Device },
  ): Tensor
  copyInto(target: Tensor, source: Tensor): void
  addInto(target: Tensor, source: Tensor): void
  backward(loss: Tensor, gradient: Tensor | undefined): void
  grad(
    outputs: readonly Tensor[],
    inputs: readonly Tensor[],
    gradients: readonly (Tensor | null)[],
  ): (Tensor | null)[]
}

function missing(name: string): () => never {
  return () => {
    throw new DeviceError(`${name}: lib/autograd is not loaded; import lib/index.ts`)
  }
}

/** @internal */
export const hooks: Hooks = {
  contiguous: missing('contiguous'),
  cast: missing('cast'),
  sum: missing('sum'),
  full: missing('full'),
  copyInto: missing('copyInto'),
  addInto: missing('addInto'),
  backward: missing('backward'),
  grad: missing('grad'),
}
