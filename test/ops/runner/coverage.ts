// What the matrix covered: executions of every native kernel variant, and the agreement of the three
// lists of an op (definitions, kernels, cases), none of which is written down anywhere.

import { type AnyOp, isReferenceOnly, type KernelCount } from './library.ts'

export type VariantCount = {
  readonly signature: string
  readonly level: string
  readonly dtypes: number
  executions: number
}

/** Sums executions over all devices that were opened. */
export class ExecutionTally {
  readonly #variants = new Map<string, VariantCount>()

  add(kernels: readonly KernelCount[]): void {
    for (const { signature, variants } of kernels) {
      for (const { level, dtypes, executions } of variants) {
        const key = `${signature} ${level} ${dtypes}`
        const known = this.#variants.get(key)
        if (known === undefined) this.#variants.set(key, { signature, level, dtypes, executions })
        else known.executions += executions
      }
    }
  }

  variants(): VariantCount[] {
    return [...this.#variants.values()].sort((a, b) =>
      a.signature < b.signature ? -1 : a.signature > b.signature ? 1 : a.level < b.level ? -1 : 1,
    )
  }

  /** One line per variant: executions, level, signature. */
  table(): string {
    return this.variants()
      .map((v) => `${String(v.executions).padStart(9)}  ${v.level.padEnd(10)}  ${v.signature}`)
      .join('\n')
  }

  neverRun(): string[] {
    return this.variants()
      .filter((v) => v.executions === 0)
      .map((v) => `${v.signature} [${v.level}]`)
  }
}

/**
 * What is wrong with an op's goldens: it has none, or says it cannot have any and has. The parts of an
 * op (`linear.dx`) are held to PyTorch's gradients of the whole.
 */
export function goldenFailures(
  name: string,
  { goldens, noGolden, wholeHasGradients = false }: GoldenCoverage,
): string[] {
  if (goldens === 0 && noGolden === undefined && !wholeHasGradients) {
    return [`no golden: test/golden/${name}.safetensors has no cases, and the case table gives no noGolden`]
  }
  if (goldens > 0 && noGolden !== undefined)
    return [`noGolden is given ('${noGolden}') beside ${goldens} goldens`]
  return []
}

type GoldenCoverage = {
  readonly goldens: number
  readonly noGolden?: string | undefined
  readonly wholeHasGradients?: boolean
}

/** Whether a backward is checked through its forward's gradients. */
const isGradientOf = (op: AnyOp): boolean => typeof op.definition.reference === 'object'

/** Kernels of the CPU that another device lacks, and ones that only it has. */
export function missingOn(device: string, cpu: readonly string[], other: readonly string[]): string[] {
  return [
    ...cpu.filter((s) => !other.includes(s)).map((s) => `no ${device} kernel: ${s}`),
    ...other.filter((s) => !cpu.includes(s)).map((s) => `${device} kernel without one of the CPU: ${s}`),
  ]
}

/** Every disagreement between ops, kernels and case tables; empty when all is well. */
export function disagreements(
  ops: readonly AnyOp[],
  kernelSignatures: readonly string[],
  opsWithCases: ReadonlySet<AnyOp>,
): string[] {
  const found: string[] = []
  const bySignature = new Map(ops.map((op) => [op.signature, op]))
  const kernels = new Set(kernelSignatures)
  for (const signature of kernels)
    if (!bySignature.has(signature)) found.push(`kernel without an op: ${signature}`)
  const withCases = new Set([...opsWithCases].map((op) => op.definition.name))
  /** A backward that its forward's gradients run: its kernel and its reference, finite differences too. */
  const throughForward = ({ definition: { name } }: AnyOp): boolean =>
    name.endsWith('.backward') && withCases.has(name.slice(0, -'.backward'.length))
  for (const op of ops) {
    const { definition, signature } = op
    if (!kernels.has(signature) && !isReferenceOnly(op.definition.name))
      found.push(`op without a kernel: ${signature}`)
    if (!opsWithCases.has(op) && !isGradientOf(op) && !throughForward(op))
      found.push(`op without cases: ${definition.name}`)
    const differentiated =
      definition.vjp !== undefined ||
      definition.differentiable === false ||
      typeof definition.reference === 'function'
    if (!differentiated) found.push(`op without a vjp, and without differentiable: false: ${definition.name}`)
  }
  return found
}
