import { mode } from '../tensor/mode.ts'
import { Region, regions } from '../tensor/region.ts'
import { scope } from '../tensor/scope.ts'

/**
 * Runs `fn(...inputs)` as a region whose intermediates are freed at once: backward runs it again to
 * have them. Trades about one more forward of the region for its activation memory. Gradients are those
 * of a plain call, bit for bit, also of tensors that `fn` captures, like parameters. Regions may be
 * nested. Inside `noGrad` nothing is recorded, and nothing runs again.
 *
 * `fn` is synchronous and does the same when it runs again: it reads no counters or clocks (draw them
 * with `drawOnce`, as dropout keys are), and writes in place to nothing that outlives it. Tensors made
 * outside must be `inputs`, or live until backward.
 * @param inputs what `fn` is called with; tensors among them are kept for the second run
 * @returns what `fn` returns: tensors may stand anywhere in it
 * @throws ValueError if `fn` returns a promise. In backward: ValueError when an input or a captured
 *   tensor was written in place since, or when the second run differs; DisposedError when `fn` uses a
 *   tensor that is gone. The first is found before any gradient is accumulated
 * Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"
 */
export function checkpoint<Inputs extends readonly unknown[], Result>(
  fn: (...inputs: Inputs) => Result,
  ...inputs: Inputs
): Result {
  if (!mode.grad) return scope(() => fn(...inputs))
  const region = new Region(fn, inputs)
  if (regions.recording?.endsWith(region.name)) region.supply()
  return region.run(() => fn(...inputs)) as Result
}
