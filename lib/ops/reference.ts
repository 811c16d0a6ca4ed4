// What runs when no kernel does: the reference, composed of primitives; and gradients by it.

import { ValueError } from '../runtime/errors.ts'
import { isFloat } from '../tensor/dtype.ts'
import { hooks } from '../tensor/hooks.ts'
import { sameShape } from '../tensor/layout.ts'
import { enableGrad, mode, noGrad, withReference } from '../tensor/mode.ts'
import { scope } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { type OpRecord, registeredOps } from './registry.ts'
import type { OpDefinition, TensorSpec } from './spec.ts'

type Tensors = readonly (Tensor | null)[]

export function runReference(
  op: OpRecord,
  inputs: Tensors,
  attributes: readonly number[],
  groups: readonly Tensors[],
  specs: readonly (TensorSpec | null)[],
): Tensors {
  const { reference, differentiable, outputs: defs } = op.definition
  const run = (): Tensors => {
    if (typeof reference === 'function') {
      return reference(inputs as readonly Tensor[], attributes, groups as readonly Tensor[][])
    }
    return referenceBackward(op, reference?.gradientOf ?? '', inputs, attributes, groups, specs)
  }
  const outputs = scope(() => {
    const made = differentiable === false ? noGrad(run) : run()
    return defs.map((def, i) => {
      const tensor = made[i] ?? null
      const wanted = specs[i] ?? null
      if (wanted === null) return null
      if (tensor === null) {
        if (def.saved) return null
        throw new ValueError(`${op.label}: its reference returned no ${def.name}`)
      }
      if (!sameShape(tensor.shape, wanted.shape) || tensor.dtype !== wanted.dtype) {
        throw new ValueError(
          `${op.label}: its reference made ${def.name} ${tensor.dtype}[${tensor.shape}], infer says ` +
            `${wanted.dtype}[${wanted.shape}]`,
        )
      }
      // An output is never the handle of an input: each has its own owner.
      return inputs.includes(tensor) ? tensor.reshape(tensor.shape) : tensor
    })
  })
  return outputs
}

/** A leaf that stands for an input while its gradient is taken. */
function standIn(tensor: Tensor, wanted: boolean): Tensor {
  const leaf = tensor.detach()
  if (wanted && isFloat(leaf.dtype)) leaf.requiresGrad = true
  return leaf
}

/** Gradients of the op's reference with respect to its inputs (groups after them). */
export function gradientsOfReference(
  op: OpRecord,
  inputs: Tensors,
  attributes: readonly number[],
  groups: readonly Tensors[],
  wanted: readonly boolean[],
  outputGrads: Tensors,
): Tensors {
  const leaves = inputs.map((t, i) => t && standIn(t, wanted[i] === true))
  let at = inputs.length
  const groupLeaves = groups.map((group) => group.map((t) => t && standIn(t, wanted[at++] === true)))
  const flat = [...leaves, ...groupLeaves.flat()]
  try {
    const outputs = enableGrad(() => withReference(() => op(leaves, attributes, groupLeaves)))
    const sources: Tensor[] = []
    const given: (Tensor | null)[] = []
    outputs.forEach((output, i) => {
      const grad = outputGrads[i] ?? null
      if (output === null || grad === null || !output.requiresGrad) return
      sources.push(output)
      given.push(grad)
    })
    const targets = flat.filter((t): t is Tensor => t?.requiresGrad === true)
    const found = hooks.grad(sources, targets, given)
    return flat.map((t) => (t?.requiresGrad ? (found[targets.indexOf(t)] ?? null) : null))
  } finally {
    for (const leaf of flat) leaf?.dispose() // leaves outlive scopes
  }
}

/** Serves `<op>.backward` by the gradient of the forward's reference, matched by name. */
function referenceBackward(
  op: OpRecord,
  forwardName: string,
  inputs: Tensors,
  attributes: readonly number[],
  groups: readonly Tensors[],
  specs: readonly (TensorSpec | null)[],
): Tensors {
  const forward = registeredOps().get(forwardName)
  if (forward === undefined) throw new ValueError(`${op.label}: there is no op '${forwardName}'`)
  const own = op.definition
  const its = forward.definition
  const byName = (defs: OpDefinition['inputs'], tensors: Tensors): Map<string, Tensor | null> =>
    new Map(defs.map((def, i) => [def.name, tensors[i] ?? null]))
  const given = byName(own.inputs, inputs)
  const find = (from: Map<string, Tensor | null>, name: string, optional?: true): Tensor | null => {
    const tensor = from.get(name) ?? null
    if (tensor === null && !optional) {
      throw new ValueError(`${op.label}: gradientOf '${forwardName}' needs an input named '${name}'`)
    }
    return tensor
  }
  const targetNames = new Set([
    ...own.outputs.map((def) => def.name),
    ...own.inputs.flatMap((def, i) => (def.inPlace && inputs[i] ? [def.name] : [])),
  ])
  const groupTargets = new Set((own.group ?? []).filter((def) => def.inPlace).map((def) => def.name))
  const forwardGroups = groups.map((group) => {
    const members = byName(own.group ?? [], group)
    return (its.group ?? []).map((def) => find(members, def.name, def.optional))
  })
  const forwardInputs = its.inputs.map((def) => find(given, def.name, def.optional))
  const wanted = [
    ...its.inputs.map((def) => targetNames.has(`d${def.name}`)),
    ...forwardGroups.flatMap(() => (its.group ?? []).map((def) => groupTargets.has(`d${def.name}`))),
  ]
  const attribute = new Map((own.attributes ?? []).map((name, i) => [name, attributes[i] as number]))
  const forwardAttributes = (its.attributes ?? []).map((name) => {
    const value = attribute.get(name)
    if (value === undefined) {
      throw new ValueError(`${op.label}: gradientOf '${forwardName}' needs an attribute '${name}'`)
    }
    return value
  })
  const outputGrads = its.outputs.map((def) => given.get(`d${def.name}`) ?? null)
  const found = gradientsOfReference(
    forward,
    forwardInputs,
    forwardAttributes,
    forwardGroups,
    wanted,
    outputGrads,
  )

  const gradient = new Map(its.inputs.map((def, i) => [`d${def.name}`, found[i] ?? null]))
  const accumulate = (attribute.get('accumulate') ?? 0) !== 0
  own.inputs.forEach((def, i) => {
    const target = inputs[i]
    if (def.inPlace && target && gradient.has(def.name)) {
      writeTarget(target, gradient.get(def.name) ?? null, accumulate)
    }
  })
  let at = its.inputs.length
  for (const group of groups) {
    const found_ = new Map((its.group ?? []).map((def) => [`d${def.name}`, found[at++] ?? null]))
    ;(own.group ?? []).forEach((def, i) => {
      const target = group[i]
      if (def.inPlace && target) writeTarget(target, found_.get(def.name) ?? null, accumulate)
    })
  }
  return own.outputs.map((def, i) => {
    const { shape, dtype } = specs[i] as TensorSpec
    const tensor = gradient.get(def.name) ?? null
    if (tensor !== null) return tensor.dtype === dtype ? tensor : hooks.cast(tensor, dtype)
    if (!gradient.has(def.name)) {
      throw new ValueError(`${op.label}: gradientOf '${forwardName}' knows no '${def.name}'`)
    }
    return hooks.full(shape, 0, {
      dtype,
      device: mode.device ?? (inputs.find((t) => t !== null) as Tensor).device,
    })
  })
}

function writeTarget(target: Tensor, gradient: Tensor | null, accumulate: boolean): void {
  if (gradient === null) {
    if (!accumulate) hooks.copyInto(target, hooks.full(target.shape, 0, target))
    return
  }
  const value = gradient.dtype === target.dtype ? gradient : hooks.cast(gradient, target.dtype)
  if (accumulate) hooks.addInto(target, value)
  else hooks.copyInto(target, value)
}
