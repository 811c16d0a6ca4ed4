// From a case to the numbers an op is called with, before any tensor is made.

import type { InputDef, OpDefinition } from '../../../lib/ops/spec.ts'
import {
  type CaseAttributes,
  type CaseDType,
  type CaseInput,
  type CaseInputs,
  fillValues,
  type InputSpec,
  inputSpec,
} from '../cases.ts'
import { roundTo } from './compare.ts'
import type { GoldenCase, GoldenTensor } from './golden.ts'

export type MatrixDType = 'f32' | 'bf16'

export type PreparedInput = {
  readonly name: string
  readonly dtype: CaseDType
  /** Declared 'float' (or a list with f64): float64 when the reference is the oracle. */
  readonly widens: boolean
  readonly inPlace: boolean
  readonly constant: boolean
  readonly shape: readonly number[]
  readonly strides: InputSpec['strides'] | undefined
  /** What `dtype` can hold, row-major. */
  readonly values: Float64Array
}

export type Prepared = {
  readonly name: string
  readonly inputs: readonly (PreparedInput | null)[]
  readonly groups: readonly (readonly (PreparedInput | null)[])[]
  readonly attributes: readonly (number | boolean)[]
}

const FLOATS: readonly CaseDType[] = ['f32', 'bf16', 'f64']

/** The dtype an input has when its case does not say: the matrix's for 'float' ones. */
function resolveDType(def: InputDef, dtype: MatrixDType): { dtype: CaseDType; widens: boolean } {
  const declared = def.dtype ?? 'any'
  if (declared === 'float' || declared === 'any') return { dtype, widens: true }
  if (typeof declared === 'string') return { dtype: declared, widens: false }
  const listed: readonly string[] = declared
  const first = listed.includes(dtype) ? dtype : declared[0]
  if (first === undefined) throw new Error(`input ${def.name} declares an empty list of dtypes`)
  return { dtype: first, widens: listed.includes('f64') && FLOATS.includes(first) }
}

function prepareInput(
  def: InputDef,
  input: CaseInput | null | undefined,
  dtype: MatrixDType,
  seed: string,
): PreparedInput | null {
  if (input === null || input === undefined) {
    if (def.optional !== true) throw new Error(`${seed}: the case gives no ${def.name}`)
    return null
  }
  const spec = inputSpec(input)
  const resolved = resolveDType(def, dtype)
  const own = spec.dtype ?? resolved.dtype
  return {
    name: def.name,
    dtype: own,
    widens: resolved.widens && FLOATS.includes(own),
    inPlace: def.inPlace === true,
    constant: def.constant === true,
    shape: spec.shape,
    strides: spec.strides,
    values: roundTo(fillValues(spec, own, `${seed}/${def.name}`), own),
  }
}

function refuseUnknown(where: string, given: object, known: readonly string[]): void {
  const unknown = Object.keys(given).find((key) => !known.includes(key))
  if (unknown !== undefined)
    throw new Error(`${where}: the op has no '${unknown}'; it has ${known.join(', ')}`)
}

function attributeValues(
  definition: OpDefinition,
  given: CaseAttributes,
  where: string,
): (number | boolean)[] {
  const names = definition.attributes ?? []
  refuseUnknown(where, given, names)
  return names.map((name) => {
    const value = given[name]
    if (value === undefined) throw new Error(`${where}: the case gives no attribute ${name}`)
    return value
  })
}

type CaseLike = {
  readonly name: string
  readonly inputs: CaseInputs
  readonly groups?: readonly CaseInputs[]
  readonly attributes?: CaseAttributes
}

export function prepare(definition: OpDefinition, given: CaseLike, dtype: MatrixDType): Prepared {
  const where = `${definition.name} '${given.name}'`
  const all = (defs: readonly InputDef[], inputs: CaseInputs, suffix: string): (PreparedInput | null)[] => {
    refuseUnknown(
      where,
      inputs,
      defs.map((d) => d.name),
    )
    return defs.map((def) =>
      prepareInput(def, inputs[def.name], dtype, `${definition.name}/${given.name}${suffix}`),
    )
  }
  return {
    name: given.name,
    inputs: all(definition.inputs, given.inputs, ''),
    groups: (given.groups ?? []).map((group, i) => all(definition.group ?? [], group, `/${i}`)),
    attributes: attributeValues(definition, given.attributes ?? {}, where),
  }
}

/** A golden's inputs, rounded to `dtype`. */
export function prepareGolden(definition: OpDefinition, golden: GoldenCase, dtype: MatrixDType): Prepared {
  const where = `${definition.name} golden '${golden.name}'`
  const one = (def: InputDef, tensor: GoldenTensor | undefined): PreparedInput | null => {
    if (tensor === undefined) {
      if (def.optional !== true) throw new Error(`${where}: no input ${def.name}`)
      return null
    }
    const resolved = resolveDType(def, dtype)
    const own = tensor.integer && FLOATS.includes(resolved.dtype) ? 'i32' : resolved.dtype
    return {
      name: def.name,
      dtype: own,
      widens: resolved.widens && FLOATS.includes(own),
      inPlace: def.inPlace === true,
      constant: def.constant === true,
      shape: tensor.shape,
      strides: golden.strides[def.name],
      values: roundTo(tensor.values, own),
    }
  }
  const repeats =
    definition.group === undefined
      ? 0
      : new Set([...golden.inputs.keys()].flatMap((key) => /^\d+(?=\.)/.exec(key) ?? [])).size
  return {
    name: golden.name,
    inputs: definition.inputs.map((def) => one(def, golden.inputs.get(def.name))),
    groups: Array.from({ length: repeats }, (_, i) =>
      (definition.group ?? []).map((def) => one(def, golden.inputs.get(`${i}.${def.name}`))),
    ),
    attributes: attributeValues(definition, golden.attributes, where),
  }
}
