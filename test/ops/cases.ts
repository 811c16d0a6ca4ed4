// The format of a case table (test/ops/<op>.cases.ts): what the matrix, the bench and the support
// table are driven by. docs/adding-an-op.md shows one.

import type { Tensor } from '../../lib/tensor/tensor.ts'
import { random } from './random.ts'

export type CaseDType = 'f64' | 'f32' | 'bf16' | 'i32' | 'u32' | 'i8' | 'u8' | 'u16'

/**
 * How an input is filled; N(0, 1) when not said.
 * - `outliers`: N(0, 1) + N(0, 100) x Bernoulli(0.001), at least one outlier
 * - `uniform`: [0, 1)
 * - `range`: uniform in [lo, hi); whole numbers for integer dtypes
 * - `scale`: N(0, scale^2)
 * - `values`: repeated when fewer than the elements
 * - `from`: the value of each element by its row-major index
 */
export type Fill =
  | 'normal'
  | 'outliers'
  | 'uniform'
  | { readonly range: readonly [number, number] }
  | { readonly scale: number }
  | { readonly values: readonly number[] }
  | { readonly from: (index: number) => number }

/**
 * One tensor of a case; a bare shape means `{ shape }`.
 * - `dtype`: what the op declares, when not said; the matrix's dtype for 'float' inputs
 * - `strides`: 'padded' leaves a gap after each row (last axis stays dense), 'transposed' swaps the
 *   storage order of the last two axes; contiguous when not said
 */
export type InputSpec = {
  readonly shape: readonly number[]
  readonly dtype?: CaseDType
  readonly strides?: 'padded' | 'transposed'
  readonly fill?: Fill
}
export type CaseInput = readonly number[] | InputSpec

/** By input name. An optional input that is left out, or null, is absent. */
export type CaseInputs = { readonly [input: string]: CaseInput | null }
export type CaseAttributes = { readonly [attribute: string]: number | boolean }

/** |actual - expected| <= atol + rtol x |expected|. A reason is asked for whatever is not the default. */
export type Tolerance = { readonly rtol: number; readonly atol: number; readonly reason: string }

type CaseShape = {
  readonly inputs: CaseInputs
  /** Repeats of the signature's `...(a!, b)` group, in order. */
  readonly groups?: readonly CaseInputs[]
  readonly attributes?: CaseAttributes
}

export type OpCase = CaseShape & {
  readonly name: string
  /** Which of f32 and bf16 to run; both when not said. */
  readonly dtypes?: readonly ('f32' | 'bf16')[]
  readonly tolerance?: { readonly f32?: Tolerance; readonly bf16?: Tolerance }
  /** Of gradients, where theirs is not that of the outputs. */
  readonly gradientTolerance?: { readonly f32?: Tolerance; readonly bf16?: Tolerance }
  /** Outputs not compared with the reference, with the reason (e.g. undefined for empty rows). */
  readonly ignoreOutputs?: { readonly [output: string]: string }
  /** Why finite differences do not apply to this case (e.g. a kink of the function). */
  readonly noFiniteDifferences?: string
}

export type ErrorCase = CaseShape & {
  readonly name: string
  /** The typed error's stable code, e.g. 'ERR_SHAPE'. */
  readonly code: string
  readonly message: RegExp
}

export type BenchCase = CaseShape & {
  readonly name?: string
  readonly dtypes?: readonly ('f32' | 'bf16')[]
}

/** Inputs, attributes and groups as an op takes them, to outputs in the op's order. */
export type CaseCall = (
  inputs: readonly Tensor[],
  attributes: readonly (number | boolean)[],
  groups: readonly (readonly Tensor[])[],
) => readonly Tensor[]

export type CaseTable = {
  /** How a case calls, when not the op itself (e.g. the function around it that broadcasts). */
  readonly call?: CaseCall
  readonly cases: readonly OpCase[]
  /** Why no independent values can exist; without it an op without a golden fails. */
  readonly noGolden?: string
  readonly errors?: readonly ErrorCase[]
  readonly bench?: readonly BenchCase[]
}

/** A case table with the op it belongs to; `op` is what `defineOp` returned. */
export type OpCases<Op> = CaseTable & { readonly op: Op }

/** The default export of `test/ops/<op>.cases.ts`. A file may also export a list of these. */
export function defineCases<Op extends object>(op: Op, table: CaseTable): OpCases<Op> {
  const seen = new Set<string>()
  for (const { name } of [...table.cases, ...(table.errors ?? [])]) {
    if (seen.has(name)) throw new Error(`defineCases: two cases are named '${name}'`)
    seen.add(name)
  }
  return { ...table, op }
}

export function inputSpec(input: CaseInput): InputSpec {
  return 'shape' in input ? input : { shape: input }
}

export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1)
}

const isInteger = (dtype: CaseDType): boolean => !['f64', 'f32', 'bf16'].includes(dtype)

/** The values of one input in row-major order, float64, before rounding to `dtype`. */
export function fillValues(spec: InputSpec, dtype: CaseDType, seed: string): Float64Array {
  const values = new Float64Array(elementCount(spec.shape))
  const { uniform, normal, integer } = random(seed)
  const { fill = 'normal' } = spec
  if (fill === 'normal') {
    for (let i = 0; i < values.length; i++) values[i] = normal()
  } else if (fill === 'outliers') {
    for (let i = 0; i < values.length; i++) values[i] = normal()
    const outlier = (i: number): void => {
      values[i] = (values[i] ?? 0) + 10 * normal() // variance 100
    }
    for (let i = 0; i < values.length; i++) if (uniform() < 0.001) outlier(i)
    if (values.length > 0) outlier(integer(0, values.length))
  } else if (fill === 'uniform') {
    for (let i = 0; i < values.length; i++) values[i] = uniform()
  } else if ('range' in fill) {
    const [lo, hi] = fill.range
    for (let i = 0; i < values.length; i++) {
      values[i] = isInteger(dtype) ? integer(lo, hi) : lo + (hi - lo) * uniform()
    }
  } else if ('scale' in fill) {
    for (let i = 0; i < values.length; i++) values[i] = fill.scale * normal()
  } else if ('values' in fill) {
    for (let i = 0; i < values.length; i++) values[i] = fill.values[i % fill.values.length] ?? 0
  } else if ('from' in fill) {
    for (let i = 0; i < values.length; i++) values[i] = fill.from(i)
  } else {
    fill satisfies never
  }
  if (isInteger(dtype) && fill === 'normal') {
    throw new Error(`a ${dtype} input needs a fill: { range }, { values } or { from }`)
  }
  return values
}
