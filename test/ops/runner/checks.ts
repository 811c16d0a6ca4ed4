// The checks of one op at one dtype on one device level. Pure of any test framework: each returns the
// failures it found, as text; an empty list is a pass.

import type { CaseTable, OpCase, Tolerance } from '../cases.ts'
import { bitwiseDifference, compare, type Limits } from './compare.ts'
import { type Executed, execute } from './execute.ts'
import type { GoldenCase } from './golden.ts'
import { type AnyOp, type Dev, isReferenceOnly } from './library.ts'
import { type MatrixDType, type Prepared, prepare, prepareGolden } from './prepare.ts'

/**
 * The devices of one ISA level: they differ in threads only. Buffers end at guard pages, filled with NaN.
 * References run on `reference`, which has float64.
 */
export type LevelDevices = {
  readonly level: string
  readonly main: Dev
  readonly others: readonly Dev[]
  readonly reference: Dev
}

export type Subject = {
  readonly op: AnyOp
  readonly table: CaseTable
  readonly goldens: readonly GoldenCase[]
}

/** Kernel against the float64 reference on the same rounded inputs. Source: PyTorch's own test tolerances. */
export const KERNEL_LIMITS: Readonly<Record<MatrixDType, Limits>> = {
  f32: { rtol: 1.3e-6, atol: 1e-5 },
  bf16: { rtol: 1.6e-2, atol: 1e-5 },
}
/** A golden is float64 rounded once to float32, against our float64. */
const GOLDEN_LIMITS: Limits = { rtol: 1e-6, atol: 1e-7 }
/** Twice PyTorch's own bf16 error is allowed where it is known. */
const PYTORCH_FACTOR = 2

function limitsOf(testCase: OpCase, dtype: MatrixDType): Limits {
  const own: Tolerance | undefined = testCase.tolerance?.[dtype]
  return own ?? KERNEL_LIMITS[dtype]
}

const seedOf = (op: AnyOp, name: string): string => `${op.definition.name}/${name}`

/** Differences of a kernel's results from the reference's. */
function compareExecuted(
  kernel: Executed,
  reference: Executed,
  limits: Limits,
  {
    ignore = {},
    allowance = {},
    gradients,
    gradientLimits = limits,
  }: {
    ignore?: Readonly<Record<string, string>>
    allowance?: Readonly<Record<string, number>>
    gradients: boolean
    gradientLimits?: Limits
  },
): string[] {
  const failures: string[] = []
  for (const [name, expected] of reference.outputs) {
    if (name in ignore) continue
    const actual = kernel.outputs.get(name)
    if (actual === undefined) {
      failures.push(`output ${name} is missing`)
      continue
    }
    const { ok, detail } = compare(actual, expected, limits, PYTORCH_FACTOR * (allowance[`out.${name}`] ?? 0))
    if (!ok) failures.push(`output ${name}${detail}`)
  }
  if (gradients) {
    for (const [name, expected] of reference.grads) {
      const actual = kernel.grads.get(name)
      if (actual === undefined) {
        failures.push(`gradient of ${name} is missing`)
        continue
      }
      const { ok, detail } = compare(
        actual,
        expected,
        gradientLimits,
        PYTORCH_FACTOR * (allowance[`grad.${name}`] ?? 0),
      )
      if (!ok) failures.push(`gradient of ${name}${detail}`)
    }
    for (const [name, values] of kernel.grads) {
      // a reference that never used the input (no keys to attend to) has no gradient: zero
      if (!reference.grads.has(name) && values.some((v) => v !== 0))
        failures.push(`the reference gives no gradient of ${name}`)
    }
  }
  return failures
}

async function oneCase(
  devices: LevelDevices,
  { op, table }: Subject,
  prepared: Prepared,
  testCase: OpCase,
  dtype: MatrixDType,
): Promise<string[]> {
  const seed = seedOf(op, testCase.name)
  const gradients = op.definition.differentiable !== false
  const options = { gradients, dyDType: dtype, seed, call: table.call }
  const kernel = await execute(devices.main, op, prepared, { ...options, reference: false })
  const reference = await execute(devices.reference, op, prepared, { ...options, reference: true })
  const limits = limitsOf(testCase, dtype)
  const failures = compareExecuted(kernel, reference, limits, {
    ignore: testCase.ignoreOutputs ?? {},
    gradients,
    gradientLimits: testCase.gradientTolerance?.[dtype] ?? limits,
  })
  for (const name of kernel.byReference)
    if (!isReferenceOnly(name)) failures.push(`${name} was served by its reference`)
  for (const device of [devices.main, ...devices.others]) {
    const again = await execute(device, op, prepared, { ...options, reference: false })
    const where =
      device === devices.main
        ? 'a repeat'
        : device.threads === devices.main.threads
          ? 'another device'
          : `${device.threads} threads instead of ${devices.main.threads}`
    for (const kind of ['outputs', 'grads'] as const) {
      for (const [name, values] of kernel[kind]) {
        const difference = bitwiseDifference(again[kind].get(name) ?? [], values)
        if (difference !== null)
          failures.push(`${kind} ${name}: not bitwise equal on ${where}: ${difference}`)
      }
    }
  }
  return failures
}

/** Cases of the table: forward, gradients, threads, repeats. */
export async function checkCases(
  devices: LevelDevices,
  subject: Subject,
  dtype: MatrixDType,
): Promise<string[]> {
  const { op, table } = subject
  const failures: string[] = []
  for (const testCase of table.cases) {
    if (testCase.dtypes !== undefined && !testCase.dtypes.includes(dtype)) continue
    const prepared = prepare(op.definition, testCase, dtype)
    const found = await attempt(() => oneCase(devices, subject, prepared, testCase, dtype))
    failures.push(...found.map((f) => `'${testCase.name}': ${f}`))
  }
  return failures
}

/** Kernels against PyTorch's values: float32 at once; bf16 by way of the reference on rounded inputs. */
export async function checkGoldenKernels(
  devices: LevelDevices,
  { op, table, goldens }: Subject,
  dtype: MatrixDType,
): Promise<string[]> {
  const failures: string[] = []
  for (const golden of goldens) {
    const prepared = prepareGolden(op.definition, golden, dtype)
    const gradients = op.definition.differentiable !== false && golden.dy.size > 0
    const options = {
      gradients,
      dy: values(golden.dy),
      dyDType: dtype,
      seed: seedOf(op, golden.name),
      call: table.call,
    }
    const found = await attempt(async () => {
      const kernel = await execute(devices.main, op, prepared, { ...options, reference: false })
      if (dtype === 'f32')
        return compareExecuted(kernel, goldenExecuted(golden), KERNEL_LIMITS.f32, { gradients })
      const reference = await execute(devices.reference, op, prepared, { ...options, reference: true })
      return compareExecuted(kernel, reference, KERNEL_LIMITS.bf16, {
        allowance: golden.bf16Error,
        gradients,
      })
    })
    failures.push(...found.map((f) => `golden '${golden.name}': ${f}`))
  }
  return failures
}

const values = (tensors: GoldenCase['outputs']): Map<string, Float64Array> =>
  new Map([...tensors].map(([k, t]) => [k, t.values]))

function goldenExecuted(golden: GoldenCase): Executed {
  return { outputs: values(golden.outputs), shapes: new Map(), grads: values(golden.grads), byReference: [] }
}

/** The reference in float64 against PyTorch's values. */
export async function checkGoldenReference(device: Dev, { op, table, goldens }: Subject): Promise<string[]> {
  const failures: string[] = []
  for (const golden of goldens) {
    const prepared = prepareGolden(op.definition, golden, 'f32')
    const gradients = op.definition.differentiable !== false && golden.dy.size > 0
    const found = await attempt(async () => {
      const reference = await execute(device, op, prepared, {
        reference: true,
        gradients,
        dy: values(golden.dy),
        dyDType: 'f32',
        seed: '',
        call: table.call,
      })
      return compareExecuted(reference, goldenExecuted(golden), GOLDEN_LIMITS, { gradients })
    })
    failures.push(...found.map((f) => `golden '${golden.name}', reference: ${f}`))
  }
  return failures
}

/** Calls that must be refused, with the error's code and message. */
export async function checkErrors(device: Dev, { op, table }: Subject): Promise<string[]> {
  const failures: string[] = []
  for (const errorCase of table.errors ?? []) {
    const prepared = prepare(op.definition, errorCase, 'f32')
    try {
      await execute(device, op, prepared, {
        reference: false,
        gradients: false,
        dyDType: 'f32',
        seed: '',
        call: table.call,
      })
      failures.push(`'${errorCase.name}': nothing was thrown`)
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined
      const message = error instanceof Error ? error.message : String(error)
      if (code !== errorCase.code)
        failures.push(`'${errorCase.name}': code ${String(code)}, expected ${errorCase.code} (${message})`)
      else if (!errorCase.message.test(message))
        failures.push(`'${errorCase.name}': message '${message}' does not match ${errorCase.message}`)
    }
  }
  return failures
}

async function attempt(check: () => Promise<string[]>): Promise<string[]> {
  try {
    return await check()
  } catch (error) {
    return [
      error instanceof Error
        ? `threw ${error.name}: ${error.message}${firstFrames(error)}`
        : `threw ${String(error)}`,
    ]
  }
}

function firstFrames(error: Error): string {
  return (error.stack ?? '')
    .split('\n')
    .filter((l) => l.trim().startsWith('at '))
    .slice(0, 3)
    .map((l) => `\n      ${l.trim()}`)
    .join('')
}
