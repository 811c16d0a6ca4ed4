// The float64 reference's gradients against finite differences of the float64 reference.

import type { CaseTable } from '../cases.ts'
import { random } from '../random.ts'
import { type Executed, execute } from './execute.ts'
import type { AnyOp, Dev } from './library.ts'
import { type Prepared, prepare } from './prepare.ts'

const EPS = 1e-6
const ATOL = 1e-5
const RTOL = 1e-3
/** Larger cases are left to the kernels' comparison with the reference, which this checks. */
const MAX_ELEMENTS = 4096
/** Elements of an input that are perturbed alone; a random direction through all of them is added. */
const ELEMENTS_ALONE = 12

function withDirection(prepared: Prepared, target: string, direction: Float64Array, step: number): Prepared {
  const move = (input: Prepared['inputs'][number], key: string): Prepared['inputs'][number] =>
    input === null || key !== target
      ? input
      : { ...input, values: input.values.map((v, i) => v + step * (direction[i] ?? 0)) }
  return {
    ...prepared,
    inputs: prepared.inputs.map((input) => move(input, input?.name ?? '')),
    groups: prepared.groups.map((group, g) => group.map((input) => move(input, `${g}.${input?.name ?? ''}`))),
  }
}

/** sum(output x dy) over the outputs that backpropagate, with execute's own dy. */
function scalar(executed: Executed, op: AnyOp, dyOf: (name: string, count: number) => Float64Array): number {
  let sum = 0
  for (const { name, saved } of op.definition.outputs) {
    const values = executed.outputs.get(name)
    if (values === undefined || saved === true) continue
    const dy = dyOf(name, values.length)
    for (let i = 0; i < values.length; i++) sum += (values[i] ?? 0) * (dy[i] ?? 0)
  }
  return sum
}

/** Failures as text; `checked` counts the derivatives compared. */
export async function checkFiniteDifferences(
  device: Dev,
  op: AnyOp,
  table: CaseTable,
): Promise<{ failures: string[]; checked: number }> {
  const failures: string[] = []
  let checked = 0
  for (const testCase of table.cases) {
    if (op.definition.differentiable === false || testCase.noFiniteDifferences !== undefined) continue
    const prepared = prepare(op.definition, testCase, 'f32')
    const all = [...prepared.inputs, ...prepared.groups.flat()]
    if (all.reduce((n, input) => n + (input?.values.length ?? 0), 0) > MAX_ELEMENTS) continue
    const seed = `${op.definition.name}/${testCase.name}`
    const dys = new Map<string, Float64Array>()
    const dyOf = (name: string, count: number): Float64Array => {
      const { normal } = random(`${seed}/fd/${name}`)
      const dy = dys.get(name) ?? Float64Array.from({ length: count }, normal)
      dys.set(name, dy)
      return dy
    }
    const options = { reference: true, dyDType: 'f64', seed, call: table.call }
    const plain = await execute(device, op, prepared, { ...options, gradients: false })
    scalar(plain, op, dyOf) // fixes dys
    const { grads } = await execute(device, op, prepared, { ...options, gradients: true, dy: dys })
    const { integer, normal } = random(`${seed}/fd`)
    const narrow = new Set(
      [...prepared.inputs, ...prepared.groups.flat()].flatMap((i) =>
        i !== null && !i.widens ? [i.name] : [],
      ),
    )
    for (const [name, grad] of grads) {
      // a step of 1e-6 is lost in an input that stays float32
      if (grad.length === 0 || narrow.has(name)) continue
      const alone = Math.min(grad.length, ELEMENTS_ALONE)
      const directions = Array.from({ length: alone }, (_, i) => {
        const direction = new Float64Array(grad.length)
        direction[alone === grad.length ? i : integer(0, grad.length)] = 1
        return direction
      })
      directions.push(Float64Array.from({ length: grad.length }, normal))
      const results = await Promise.all(
        directions.map(async (direction) => {
          const at = async (step: number): Promise<number> =>
            scalar(
              await execute(device, op, withDirection(prepared, name, direction, step), {
                ...options,
                gradients: false,
              }),
              op,
              dyOf,
            )
          const numeric = ((await at(EPS)) - (await at(-EPS))) / (2 * EPS)
          const analytic = grad.reduce((sum, g, i) => sum + g * (direction[i] ?? 0), 0)
          return { numeric, analytic, at: direction.indexOf(1) }
        }),
      )
      for (const { numeric, analytic, at } of results) {
        checked++
        if (!(Math.abs(analytic - numeric) <= ATOL + RTOL * Math.abs(numeric))) {
          failures.push(
            `'${testCase.name}': d/d${name}${at < 0 ? ' along a direction' : `[${at}]`} is ${analytic}, finite differences give ${numeric}`,
          )
        }
      }
    }
  }
  return { failures, checked }
}
