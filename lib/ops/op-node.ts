// The gradient node of an op call.

import { ValueError } from '../runtime/errors.ts'
import { hooks } from '../tensor/hooks.ts'
import { contiguousStrides } from '../tensor/layout.ts'
import { GradNode, type GradSink, releaseNode, SavedTensor } from '../tensor/node.ts'
import { track } from '../tensor/ownership.ts'
import { type Recomputed, type Region, regions } from '../tensor/region.ts'
import { Tensor } from '../tensor/tensor.ts'
import { gradientsOfReference } from './reference.ts'
import type { OpRecord } from './registry.ts'
import type { InputDef, VjpContext } from './spec.ts'

type ErasedContext = VjpContext<readonly InputDef[], readonly [], readonly string[], readonly InputDef[]>

export class OpNode extends GradNode implements Recomputed {
  readonly #op: OpRecord
  readonly #attributes: readonly number[]
  /** Inputs, then the groups one after another. */
  #inputs: readonly (SavedTensor | null)[]
  #outputs: readonly (SavedTensor | null)[]
  /** What brings the saved values before backward reads them; null when they are here. */
  #region: Region | null = null
  readonly savesAny: boolean

  constructor(
    op: OpRecord,
    inputs: readonly (Tensor | null)[],
    groups: readonly (readonly (Tensor | null)[])[],
    outputs: readonly (Tensor | null)[],
    attributes: readonly number[],
  ) {
    const flat = groups.length === 0 ? inputs : [...inputs, ...groups.flat()]
    const edges = new Array<GradNode | null>(flat.length)
    const indices = new Array<number>(flat.length)
    for (let i = 0; i < flat.length; i++) {
      const tensor = flat[i]
      edges[i] = tensor?.node ?? null
      indices[i] = tensor ? tensor.outputIndex : 0
    }
    super(edges, indices)
    this.#op = op
    this.#attributes = attributes
    const { savesAt } = op
    const count = inputs.length
    const { recording } = regions
    const keeping = recording?.region == null ? 'held' : 'recomputed'
    // Without a vjp the reference runs again, on all inputs.
    const all = op.definition.vjp === undefined
    const saved = new Array<SavedTensor | null>(flat.length)
    for (let i = 0; i < flat.length; i++) {
      const tensor = flat[i]
      const held =
        all || (i < count ? savesAt.inputs[i] : savesAt.group[(i - count) % savesAt.group.length]) === true
      saved[i] = tensor ? new SavedTensor(tensor, held ? keeping : 'shape') : null
    }
    this.#inputs = saved
    const savedOutputs = new Array<SavedTensor | null>(outputs.length)
    for (let i = 0; i < outputs.length; i++) {
      const tensor = outputs[i]
      const held = savesAt.outputs[i] === true
      savedOutputs[i] = tensor ? new SavedTensor(tensor, held ? keeping : 'shape') : null
    }
    this.#outputs = savedOutputs
    this.savesAny = all || [savesAt.inputs, savesAt.group, savesAt.outputs].some((at) => at.includes(true))
    if (recording !== null) {
      this.#region = recording.region
      try {
        recording.add(this)
      } catch (error) {
        releaseNode(this)
        throw error
      }
    }
  }

  get name(): string {
    return this.#op.definition.name
  }

  get outputCount(): number {
    return this.#outputs.length
  }

  override backward(grads: readonly (Tensor | null)[], sink: GradSink): readonly (Tensor | null)[] {
    if (this.savesAny) this.#region?.restore()
    const { definition, label } = this.#op
    const { inputs: defs, outputs: outputDefs, group = [], vjp } = definition
    const count = defs.length
    const flat = this.#inputs.map((saved, i) => {
      const def = i < count ? defs[i] : group[(i - count) % group.length]
      return saved && unpack(saved, label, def?.name ?? '')
    })
    const inputs = flat.slice(0, count)
    const groups: (Tensor | null)[][] = []
    for (let i = count; i < flat.length; i += group.length) groups.push(flat.slice(i, i + group.length))
    const attributes = this.#attributes
    if (vjp === undefined) {
      return gradientsOfReference(
        this.#op,
        inputs,
        attributes,
        groups,
        this.edges.map((e) => e !== null),
        grads,
      )
    }
    const outputs = this.#outputs.map((saved, i) => saved && unpack(saved, label, outputDefs[i]?.name ?? ''))
    const given: (Tensor | null)[] = []
    outputDefs.forEach((def, i) => {
      if (def.saved) return
      const output = outputs[i] ?? null
      const zeros = (): Tensor | null =>
        def.sparse || output === null
          ? null
          : hooks.full(output.shape, 0, { dtype: output.dtype, device: output.device })
      given.push(grads[i] ?? zeros())
    })
    const context = {
      inputs,
      groups,
      outputs,
      attributes,
      grads: given,
      needs: (index: number) => this.edges[index] != null,
      gradTarget: (index: number) => sink.gradTarget(this, index, flat[index] as Tensor),
    } as unknown as ErasedContext
    const gradients = vjp(context)
    if (gradients.length !== flat.length) {
      throw new ValueError(
        `${label}: its vjp returned ${gradients.length} gradients for ${flat.length} inputs`,
      )
    }
    return gradients
  }

  override outputMeta(index: number): SavedTensor {
    return this.#outputs[index] as SavedTensor
  }

  override checkSaved(): void {
    this.#region?.check()
    const { inputs: defs, outputs: outputDefs, group = [] } = this.#op.definition
    const count = defs.length
    for (let i = 0; i < this.#inputs.length; i++) {
      const def = i < count ? defs[i] : group[(i - count) % group.length]
      this.#inputs[i]?.checkVersion(this.#op.label, def?.name ?? '')
    }
    for (let i = 0; i < this.#outputs.length; i++) {
      this.#outputs[i]?.checkVersion(this.#op.label, outputDefs[i]?.name ?? '')
    }
  }

  takeFrom(twin: OpNode): void {
    this.#inputs = twin.#inputs
    // the op of the last twin did not run: it saves no outputs
    if (twin.#outputs.length > 0) this.#outputs = twin.#outputs
    twin.#inputs = []
    twin.#outputs = []
    this.#leaveRegion()
  }

  #leaveRegion(): void {
    const region = this.#region
    this.#region = null
    region?.release()
  }

  override releaseSaved(): void {
    this.#leaveRegion()
    for (const saved of this.#inputs) saved?.release()
    for (const saved of this.#outputs) saved?.release()
  }
}

/** A handle for vjp, freed with the scope that it runs in. */
function unpack(saved: SavedTensor, op: string, name: string): Tensor {
  const { storage, shape, strides, offset, dtype } = saved
  if (!saved.held) {
    const tensor = new Tensor(storage, shape, contiguousStrides(shape), 0, dtype)
    tensor.makeShapeOnly(`${op}: its vjp reads the values of '${name}', which 'saves' does not list`)
    return tensor
  }
  storage.retain()
  const tensor = new Tensor(storage, shape, strides, offset, dtype)
  track(tensor)
  return tensor
}
