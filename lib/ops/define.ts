// defineOp: an operator, defined once. A call checks its arguments, infers its outputs, writes one
// record and hangs up one gradient node; docs/adding-an-op.md is the manual.

import { Device } from '../runtime/device.ts'
import { DeviceError, ShapeError, shapeError, ValueError } from '../runtime/errors.ts'
import type { Kernel } from '../runtime/kernel.ts'
import type { Queue } from '../runtime/queue.ts'
import { type DType, dtypeCodes, isFloat, itemSizes } from '../tensor/dtype.ts'
import { hooks } from '../tensor/hooks.ts'
import { contiguousStrides, elementCount } from '../tensor/layout.ts'
import { mode } from '../tensor/mode.ts'
import { releaseNode } from '../tensor/node.ts'
import { type Recording, regions } from '../tensor/region.ts'
import { Tensor, tracked } from '../tensor/tensor.ts'
import { OpNode } from './op-node.ts'
import { runReference } from './reference.ts'
import { type OpRecord, type OpStats, profiling, registerOp } from './registry.ts'
import type { InputDef, Inputs, Op, OpDefinition, OutputDef, Outputs, TensorSpec } from './spec.ts'

export { shapeError } from '../runtime/errors.ts'
export { opStats, registeredOps, resetOpStats } from './registry.ts'
export type * from './spec.ts'

/** The shape and dtype of an output, for `infer`. */
export function spec(shape: readonly number[], dtype: DType): TensorSpec {
  return { shape, dtype }
}

/** rms_norm.backward -> rmsNorm.backward: how messages name an op. */
export function publicName(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())
}

function signatureOf({ name, inputs, outputs, attributes = [], group = [] }: OpDefinition): string {
  const input = (d: InputDef): string => d.name + (d.inPlace ? '!' : '') + (d.optional ? '?' : '')
  const parts = inputs.map(input)
  if (group.length > 0) parts.push(`...(${group.map(input).join(', ')})`)
  let text = `${name}(${parts.join(', ')})`
  if (outputs.length > 0)
    text += ` -> (${outputs.map((d) => d.name + (d.saved || d.optional ? '?' : '')).join(', ')})`
  if (attributes.length > 0) text += ` [${attributes.join(', ')}]`
  return text
}

/**
 * Defines and registers an operator.
 * @throws ValueError if the definition contradicts itself or its name is taken
 */
export function defineOp<
  const I extends Inputs,
  const O extends Outputs,
  const A extends readonly string[] = readonly [],
  const G extends Inputs = readonly [],
>(definition: OpDefinition<I, O, A, G>): Op<I, O, A, G> {
  // The one place where the types of an op are erased: what follows treats all ops alike.
  const erased = definition as unknown as OpDefinition
  const stats: OpStats = { kernel: 0, reference: 0, copies: 0, flops: 0 }
  const record: OpRecord = Object.assign(
    (
      inputs: readonly (Tensor | null)[],
      attributes: readonly (number | boolean)[] = [],
      groups: readonly (readonly (Tensor | null)[])[] = [],
    ) => callOp(record, inputs, attributes, groups),
    {
      definition: erased,
      signature: signatureOf(erased),
      label: publicName(erased.name),
      stats,
      savesAt: savesAt(erased),
      device: null,
      kernel: undefined,
    },
  )
  checkDefinition(erased)
  registerOp(record)
  return record as unknown as Op<I, O, A, G>
}

function checkDefinition(d: OpDefinition): void {
  const fail = (what: string): never => {
    throw new ValueError(`defineOp('${d.name}'): ${what}`)
  }
  if (!/^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?$/.test(d.name)) fail('the name must be snake_case')
  const names = [...d.inputs, ...(d.group ?? []), ...d.outputs].map((part) => part.name)
  const twice = names.find((name, i) => names.indexOf(name) !== i)
  if (twice !== undefined) fail(`two tensors are named '${twice}'`)
  if (d.primitive && d.reference !== undefined) fail('a primitive has no reference')
  if (!d.primitive && d.reference === undefined) fail('an op that is no primitive needs a reference')
  if (d.differentiable === false && d.vjp !== undefined) fail('it has a vjp and says differentiable: false')
  if (d.differentiable !== false && d.primitive && d.vjp === undefined) {
    fail('a primitive needs a vjp or differentiable: false')
  }
  for (const name of d.saves ?? []) if (!names.includes(name)) fail(`saves names no tensor '${name}'`)
}

/** Per input, per member of the group, per output: whether vjp reads its values. */
function savesAt(d: OpDefinition): OpRecord['savesAt'] {
  const { saves } = d
  const reads = (name: string): boolean => saves === undefined || saves.includes(name)
  return {
    inputs: d.inputs.map(({ name }) => reads(name)),
    group: (d.group ?? []).map(({ name }) => reads(name)),
    outputs: d.outputs.map(({ name, saved }) =>
      saves === undefined ? saved === true : saves.includes(name),
    ),
  }
}

// Of the call being checked; calls do not nest while they are checked.
let floatDType: DType | null = null
let kernelDType: DType | null = null
let needsGrad = false
let constantNeedsGrad = false

function checkInput(op: OpRecord, def: InputDef, tensor: Tensor | null | undefined): void {
  if (tensor === null || tensor === undefined) {
    if (tensor === null && def.optional) return
    throw shapeError(op.label, def.name, 'a tensor', tensor)
  }
  if (tensor.disposed) tensor.check(`${op.label}: ${def.name}`)
  const wanted = def.dtype ?? 'any'
  const { dtype } = tensor
  if (wanted === 'float') {
    if (!isFloat(dtype)) throw dtypeError(op, def, 'f32, bf16 or f64', tensor)
    if (kernelDType === null) kernelDType = dtype
    if (def.mixed !== true) {
      if (floatDType === null) floatDType = dtype
      else if (floatDType !== dtype) throw dtypeError(op, def, `${floatDType}, like the others`, tensor)
    }
  } else {
    if (typeof wanted === 'string') {
      if (wanted !== 'any' && wanted !== dtype) throw dtypeError(op, def, wanted, tensor)
    } else if (!wanted.includes(dtype)) {
      throw dtypeError(op, def, wanted.join(' or '), tensor)
    }
    if (kernelDType === null && isFloat(dtype)) kernelDType = dtype
  }
  if (tensor.node !== null) {
    needsGrad = true
    if (def.constant) constantNeedsGrad = true
  }
}

function dtypeError(op: OpRecord, def: InputDef, expected: string, received: Tensor): ShapeError {
  return new ShapeError(
    `${op.label}: ${def.name} must be ${expected}, received ${received.dtype}[${received.shape}]`,
  )
}

function layoutMet(def: InputDef, tensor: Tensor): boolean {
  if (tensor.isContiguous || def.layout === 'any') return true
  if (def.layout !== 'rows') return false
  const last = tensor.shape.length - 1
  return last < 0 || tensor.strides[last] === 1 || (tensor.shape[last] as number) <= 1
}

/** The tensor, or a dense copy pushed to `copies`. */
function withLayout(op: OpRecord, def: InputDef, tensor: Tensor, copies: Tensor[]): Tensor {
  if (def.inPlace) {
    throw shapeError(op.label, def.name, `${def.layout ?? 'contiguous'}: it is written in place`, tensor)
  }
  op.stats.copies++
  const before = mode.grad
  mode.grad = false
  try {
    const copy = hooks.contiguous(tensor)
    copies.push(copy)
    return copy
  } finally {
    mode.grad = before
  }
}

function findKernel(op: OpRecord, device: Device): Kernel | undefined {
  if (op.device === device) return op.kernel
  op.device = device
  op.kernel = device.kernel(op.signature)
  return op.kernel
}

function checkAttributes(op: OpRecord, given: readonly (number | boolean)[]): readonly number[] {
  const names = op.definition.attributes ?? []
  if (given.length !== names.length) {
    throw new ValueError(`${op.label}: takes attributes [${names.join(', ')}], received ${given.length}`)
  }
  let numbers = true
  for (let i = 0; i < given.length; i++) {
    if (typeof given[i] === 'number') continue
    numbers = false
    if (typeof given[i] !== 'boolean') {
      throw new ValueError(
        `${op.label}: ${names[i]} must be a number or boolean, received ${typeof given[i]}`,
      )
    }
  }
  return numbers ? (given as readonly number[]) : given.map(Number)
}

function callOp(
  op: OpRecord,
  inputs: readonly (Tensor | null)[],
  givenAttributes: readonly (number | boolean)[],
  groups: readonly (readonly (Tensor | null)[])[],
): readonly (Tensor | null)[] {
  const { definition } = op
  const defs = definition.inputs
  const groupDefs = definition.group ?? NONE
  floatDType = null
  kernelDType = null
  needsGrad = false
  constantNeedsGrad = false
  if (inputs.length !== defs.length) {
    throw new ValueError(`${op.label}: takes ${defs.length} inputs, received ${inputs.length}`)
  }
  for (let i = 0; i < defs.length; i++) checkInput(op, defs[i] as InputDef, inputs[i])
  for (const group of groups) {
    if (group.length !== groupDefs.length) {
      throw new ValueError(`${op.label}: a group has ${groupDefs.length} tensors, received ${group.length}`)
    }
    for (let i = 0; i < groupDefs.length; i++) checkInput(op, groupDefs[i] as InputDef, group[i])
  }
  const dtype = kernelDType
  const records = needsGrad && mode.grad
  if (records && definition.differentiable === false) throw notDifferentiable(op, inputs, groups)
  if (records && constantNeedsGrad) throw constantRequiresGrad(op, inputs, groups)

  const attributes = checkAttributes(op, givenAttributes)
  const specs = definition.infer(inputs as readonly Tensor[], attributes, groups as readonly Tensor[][])
  const device = deviceOf(inputs, groups)
  const kernel = findKernel(op, device)
  const served = kernel !== undefined && (dtype === null || kernel.dtypes & (1 << dtypeCodes[dtype]))
  if (!served || (mode.reference && definition.primitive !== true)) {
    if (definition.primitive || definition.reference === undefined) {
      throw new DeviceError(
        `${op.label}: the device has no kernel for ${dtype ?? 'it'} under '${op.signature}'`,
      )
    }
    op.stats.reference++
    return runReference(op, inputs, attributes, groups, specs)
  }
  if (regions.recording !== null) noteCall(op, inputs, groups, attributes, records)
  op.stats.kernel++
  if (profiling.on && definition.flops !== undefined) {
    op.stats.flops += definition.flops(inputs as readonly Tensor[], attributes, groups as readonly Tensor[][])
  }
  return runKernel(op, kernel, device.activeQueue, inputs, attributes, groups, specs, records)
}

const NONE: Inputs = []

function runKernel(
  op: OpRecord,
  kernel: Kernel,
  queue: Queue,
  inputs: readonly (Tensor | null)[],
  attributes: readonly number[],
  groups: readonly (readonly (Tensor | null)[])[],
  specs: readonly (TensorSpec | null)[],
  records: boolean,
): readonly (Tensor | null)[] {
  const { inputs: defs, outputs: outputDefs, group: groupDefs = NONE } = op.definition
  const args: (Tensor | null)[] = []
  const outputs: (Tensor | null)[] = []
  const copies: Tensor[] = []
  for (let i = 0; i < defs.length; i++) {
    const def = defs[i] as InputDef
    const tensor = inputs[i] as Tensor | null
    if (tensor === null || layoutMet(def, tensor)) args.push(tensor)
    else args.push(withLayout(op, def, tensor, copies))
  }
  try {
    for (let i = 0; i < outputDefs.length; i++) {
      const wanted = records || outputDefs[i]?.saved !== true ? (specs[i] ?? null) : null
      const output = wanted && allocate(queue, wanted, kernel.code)
      outputs.push(output)
      args.push(output)
    }
    for (const group of groups) {
      for (let i = 0; i < groupDefs.length; i++) {
        const def = groupDefs[i] as InputDef
        const tensor = group[i] as Tensor | null
        if (tensor === null || layoutMet(def, tensor)) args.push(tensor)
        else args.push(withLayout(op, def, tensor, copies))
      }
    }
    queue.enqueue(kernel, args, attributes)
    if (records && outputs.some((output, i) => carriesGradient(output, outputDefs[i]))) {
      const node = new OpNode(op, inputs, groups, outputs, attributes)
      for (let i = 0; i < outputs.length; i++) {
        const output = outputs[i] ?? null
        if (carriesGradient(output, outputDefs[i])) output?.setNode(node, i)
      }
    }
  } catch (error) {
    for (const output of outputs) output?.dispose()
    throw error
  } finally {
    for (const copy of copies) copy.dispose()
  }
  for (const output of outputs) if (output !== null) tracked(output)
  return outputs
}

/** Tells a checkpoint region of a call; when the region needs only what the call would save, it ends. */
function noteCall(
  op: OpRecord,
  inputs: readonly (Tensor | null)[],
  groups: readonly (readonly (Tensor | null)[])[],
  attributes: readonly number[],
  records: boolean,
): void {
  const recording = regions.recording as Recording
  recording.note(inputs)
  for (const group of groups) recording.note(group)
  if (!records || op.savesAt.outputs.includes(true) || !recording.endsWith(op.definition.name)) return
  releaseNode(new OpNode(op, inputs, groups, [], attributes))
  recording.note([])
}

/** A comparison or an argmax has no gradient to lose; neither has a saved output. */
function carriesGradient(output: Tensor | null, def: OutputDef | undefined): boolean {
  return output !== null && isFloat(output.dtype) && def?.saved !== true
}

/** An uninitialised tensor, not tracked yet. */
function allocate(queue: Queue, { shape, dtype }: TensorSpec, forKernel: number): Tensor {
  const storage = queue.alloc(elementCount(shape) * itemSizes[dtype], forKernel)
  return new Tensor(storage, shape, contiguousStrides(shape), 0, dtype)
}

function deviceOf(
  inputs: readonly (Tensor | null)[],
  groups: readonly (readonly (Tensor | null)[])[],
): Device {
  for (let i = 0; i < inputs.length; i++) {
    const tensor = inputs[i]
    if (tensor) return tensor.storage.device
  }
  for (const group of groups) for (const tensor of group) if (tensor) return tensor.storage.device
  return mode.device ?? Device.default()
}

function constantRequiresGrad(
  op: OpRecord,
  inputs: readonly (Tensor | null)[],
  groups: readonly (readonly (Tensor | null)[])[],
): ValueError {
  const name = [inputs, ...groups]
    .flatMap((tensors, g) => {
      const defs = g === 0 ? op.definition.inputs : (op.definition.group ?? NONE)
      return defs.filter((def, i) => def.constant && tensors[i]?.requiresGrad)
    })
    .at(0)?.name
  return new ValueError(
    `${op.label}: gives no gradient to ${name}, which requires one; give it ${name}.detach()`,
  )
}

function notDifferentiable(
  op: OpRecord,
  inputs: readonly (Tensor | null)[],
  groups: readonly (readonly (Tensor | null)[])[],
): ValueError {
  const names = [
    ...inputs.map((t, i) => [op.definition.inputs[i]?.name, t] as const),
    ...groups.flatMap((g) => g.map((t, i) => [op.definition.group?.[i]?.name, t] as const)),
  ]
  const name = names.find(([, tensor]) => tensor?.requiresGrad)?.[0]
  return new ValueError(
    `${op.label}: is not differentiable, and ${name} requires a gradient; call it inside noGrad, or ` +
      `give it ${name}.detach()`,
  )
}
