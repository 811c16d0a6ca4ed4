// Ops become methods here, from the file of each op; its types come by module augmentation there.

import { Tensor } from './tensor.ts'

/** What a method is made of: a function of the tensor it is called on, and the rest. */
type Methods = Readonly<Record<string, (x: Tensor, ...rest: never[]) => unknown>>

/** @internal x.name(...rest) becomes methods.name(x, ...rest). */
export function installMethods(methods: Methods): void {
  for (const [name, method] of Object.entries(methods)) {
    Object.defineProperty(Tensor.prototype, name, {
      value(this: Tensor, ...rest: never[]): unknown {
        return method(this, ...rest)
      },
      configurable: true,
      writable: true,
    })
  }
}
