// Calls an op on a device, by its kernel or by its reference, and reads everything back in float64.

import type { CaseCall } from '../cases.ts'
import { random } from '../random.ts'
import { roundTo } from './compare.ts'
import {
  type AnyOp,
  backwardAll,
  type Dev,
  isFloating,
  makeTensor,
  readTensor,
  servedByReference,
  type Ten,
  withReferenceOn,
} from './library.ts'
import type { Prepared, PreparedInput } from './prepare.ts'

export type Executed = {
  /** Outputs and in-place targets (named `x!`, members of groups `0.x!`), in float64. */
  readonly outputs: ReadonlyMap<string, Float64Array>
  readonly shapes: ReadonlyMap<string, readonly number[]>
  /** By input (`x`, `0.x`); only of floating inputs that are not updated in place. */
  readonly grads: ReadonlyMap<string, Float64Array>
  /** Ops that had no kernel for their part, forward or backward. */
  readonly byReference: readonly string[]
}

export type ExecuteOptions = {
  /** Run the reference, with what is declared 'float' in float64. */
  readonly reference: boolean
  /** Whether to backpropagate sum(output x dy). */
  readonly gradients: boolean
  /** dy by output, rounded to the output's dtype; seeded N(0, 1) when not given. */
  readonly dy?: ReadonlyMap<string, Float64Array>
  /** dtype that dy is rounded to: the kernel's, also when the reference runs. */
  readonly dyDType: string
  readonly seed: string
  /** The case table's own way to call. */
  readonly call?: CaseCall | undefined
}

/** dy of an output: the same numbers for kernel and reference. */
function dyValues(name: string, shape: readonly number[], options: ExecuteOptions): Float64Array {
  const count = shape.reduce((n, d) => n * d, 1)
  const given = options.dy?.get(name)
  if (given !== undefined) return roundTo(given, options.dyDType)
  const { normal } = random(`${options.seed}/dy/${name}`)
  return roundTo(Float64Array.from({ length: count }, normal), options.dyDType)
}

export async function execute(
  device: Dev,
  op: AnyOp,
  prepared: Prepared,
  options: ExecuteOptions,
): Promise<Executed> {
  const alive: (Ten | null)[] = []
  try {
    return await run(device, op, prepared, options, alive)
  } finally {
    for (const tensor of alive) tensor?.dispose()
  }
}

/** Adds to `alive` whatever the caller has to dispose of, also when it throws. */
async function run(
  device: Dev,
  op: AnyOp,
  prepared: Prepared,
  options: ExecuteOptions,
  alive: (Ten | null)[],
): Promise<Executed> {
  const { definition } = op
  const wanted = options.gradients && definition.differentiable !== false
  const made: { key: string; input: PreparedInput; tensor: Ten }[] = []
  const make = (input: PreparedInput | null, prefix: string): Ten | null => {
    if (input === null) return null
    const dtype = options.reference && input.widens ? 'f64' : input.dtype
    const requiresGrad = wanted && !input.inPlace && !input.constant && isFloating(dtype)
    const tensor = makeTensor(device, input.values, {
      shape: input.shape,
      dtype,
      strides: input.strides,
      requiresGrad,
    })
    made.push({ key: prefix + input.name, input, tensor })
    alive.push(tensor)
    return tensor
  }
  const inputs = prepared.inputs.map((input) => make(input, ''))
  const groups = prepared.groups.map((group, i) => group.map((input) => make(input, `${i}.`)))
  const call = (): readonly (Ten | null)[] =>
    options.call === undefined
      ? op(inputs, prepared.attributes, groups)
      : options.call(inputs as readonly Ten[], prepared.attributes, groups as readonly Ten[][])
  const work = (): readonly (Ten | null)[] => {
    const outputs = call()
    if (wanted) {
      const targets: Ten[] = []
      const dys: Ten[] = []
      definition.outputs.forEach((def, i) => {
        const output = outputs[i]
        if (
          output === null ||
          output === undefined ||
          def.saved === true ||
          !isFloating(output.dtype) ||
          !output.requiresGrad
        )
          return
        targets.push(output)
        dys.push(
          makeTensor(device, dyValues(def.name, output.shape, options), {
            shape: output.shape,
            dtype: output.dtype,
          }),
        )
      })
      backwardAll(targets, dys)
    }
    return outputs
  }
  let results: readonly (Ten | null)[] = []
  const byReference = servedByReference(() => {
    results = withReferenceOn(device, options.reference, work)
  })
  alive.push(...results)
  const outputs = new Map<string, Promise<Float64Array>>()
  const shapes = new Map<string, readonly number[]>()
  definition.outputs.forEach((def, i) => {
    const output = results[i]
    if (output === null || output === undefined) return
    outputs.set(def.name, readTensor(output))
    shapes.set(def.name, output.shape)
  })
  const grads = new Map<string, Promise<Float64Array>>()
  for (const { key, input, tensor } of made) {
    if (input.inPlace) outputs.set(`${key}!`, readTensor(tensor))
    else if (wanted && tensor.requiresGrad && tensor.grad !== null) grads.set(key, readTensor(tensor.grad))
  }
  // all at once: a rejection must not leave the others unheard
  await Promise.all([...outputs.values(), ...grads.values()])
  const settle = async (m: Map<string, Promise<Float64Array>>): Promise<Map<string, Float64Array>> =>
    new Map(await Promise.all([...m].map(async ([k, p]): Promise<[string, Float64Array]> => [k, await p])))
  return { outputs: await settle(outputs), shapes, grads: await settle(grads), byReference }
}
