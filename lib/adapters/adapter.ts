// A LoRA adapter: small matrices beside the weights of a model, which it never changes but by `merge`.

import type { CausalLm } from '../models/causal-lm.ts'
import type { DropoutKeys } from '../nn/dropout.ts'
import { Embedding, Linear, type WeightAdapter } from '../nn/layers.ts'
import { parameter } from '../nn/module.ts'
import { mul, sub } from '../ops/binary.ts'
import { cast } from '../ops/copy.ts'
import { zeros } from '../ops/create.ts'
import { randn } from '../ops/normal.ts'
import { randomKey, uniform } from '../ops/random.ts'
import { ConfigError, DisposedError } from '../runtime/errors.ts'
import { checkInteger } from '../runtime/options.ts'
import type { DType } from '../tensor/dtype.ts'
import { noGrad } from '../tensor/mode.ts'
import { keep, scope } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { checkNotInTraining } from './base.ts'
import { completeLoraOptions, type LoraConfig, type LoraOptions } from './config.ts'
import { readAdapter, writeAdapter } from './files.ts'
import { checkMergeable, type Merged, merge, unmerge } from './merge.ts'
import { type Lease, Publication } from './publication.ts'
import { resolveTargets, type Target, type TermTarget } from './targets.ts'
import { type AdapterTensors, AdapterWeights, type Term, type Whole } from './weights.ts'

/**
 * Low-rank terms for some layers of a model (Hu et al. 2021), f32 whatever the base is: A begins
 * Kaiming-uniform, B at zero. It is what `forward` and `loss` take as `adapter`: the tensors that train, no
 * dropout. Generation reads a copy of them, see {@link LoraAdapter.publish}.
 */
export class LoraAdapter implements WeightAdapter {
  readonly model: CausalLm
  readonly config: LoraConfig
  /** Layers with a term, by path, and their ranks. */
  readonly terms: readonly TermTarget[]
  /** Those, and the layers that it holds whole. */
  readonly targets: readonly Target[]
  readonly #base: string | null
  readonly #tensors: AdapterTensors
  readonly #named = new Map<string, Tensor>()
  readonly #live: AdapterWeights
  readonly #publication: Publication
  #merged: Merged | null = null
  #disposed = false

  /** @throws ConfigError, ValueError naming the option, or targets that match nothing */
  constructor(
    model: CausalLm,
    options: LoraOptions = {},
    { where = 'LoraAdapter', base = null }: { readonly where?: string; readonly base?: string | null } = {},
  ) {
    const { seed = 0 } = options
    checkInteger(where, 'seed', seed, 0, Number.MAX_SAFE_INTEGER)
    this.model = model
    this.#base = base
    this.config = completeLoraOptions(where, options)
    const { terms, saved } = resolveTargets(where, model, this.config)
    for (const { path, module } of saved) {
      if (!(module instanceof Linear) || module.source === null) continue
      throw new ConfigError(`${where}: modulesToSave: ${path} holds int8 weights, which are not trained`)
    }
    this.terms = terms
    this.targets = [...terms, ...saved]
    const made = terms.map((target, i) => [target.module, this.#makeTerm(target, seed, i)] as const)
    const wholes = saved.map((target) => [target.module, this.#copyWhole(target)] as const)
    this.#tensors = { terms: new Map(made), wholes: new Map(wholes) }
    this.#live = new AdapterWeights(this.#tensors)
    this.#publication = new Publication(() => this.#snapshot(), [...this.#named.values()])
  }

  /** Its parameters by PEFT's names, without `base_model.model.`; the tensors themselves. */
  namedParameters(): ReadonlyMap<string, Tensor> {
    return this.#named
  }

  /** Number of parameter elements. */
  parameterCount(): number {
    return [...this.#named.values()].reduce((total, { size }) => total + size, 0)
  }

  linear(...[layer, operand]: Parameters<WeightAdapter['linear']>): ReturnType<WeightAdapter['linear']> {
    this.#check('used')
    return this.#live.linear(layer, operand)
  }

  embedding(...given: Parameters<WeightAdapter['embedding']>): Tensor {
    this.#check('used')
    return this.#live.embedding(...given)
  }

  /** This adapter as a training step goes through it: with the dropout of its configuration. */
  withDropout(keys: DropoutKeys): WeightAdapter {
    this.#check('withDropout')
    return new AdapterWeights(this.#tensors, { p: this.config.dropout, keys })
  }

  /**
   * Makes the parameters as they are now those that generation reads. A copy: what is generated meanwhile
   * goes on with the one before, and training never writes what generation reads. A Trainer does it with each
   * checkpoint; outside of its runs generation asks for it whenever the parameters were written.
   * @returns when the copy is there
   */
  publish(): Promise<void> {
    this.#check('publish')
    return this.#publication.publish()
  }

  /** @internal The published copy, for as long as it is not released. */
  lease(): Lease {
    this.#check('generate')
    return this.#publication.lease()
  }

  /** @internal Until the function that it returns is called only `publish` changes what generation reads. */
  beginTraining(): () => void {
    this.#check('Trainer')
    return this.#publication.hold()
  }

  /** Whether it is in the weights of the base. */
  get merged(): boolean {
    return this.#merged !== null
  }

  get disposed(): boolean {
    return this.#disposed
  }

  /**
   * Puts the adapter into the weights of its base: W + scale B A, in float32, rounded once. The base then
   * costs and answers as any model, with the adapter and without naming it.
   * @throws ConfigError for int8 weights, a tied embedding, a model in training, an adapter that is merged
   */
  merge(): void {
    this.#check('merge')
    checkNotInTraining('LoraAdapter.merge', this.model)
    checkMergeable('LoraAdapter.merge', this.model, this.targets)
    this.#merged = merge(this.targets, this.#tensors)
  }

  /**
   * Gives the base its weights back, bit for bit: they were kept.
   * @throws ConfigError when it is not merged, or the weights were written since
   */
  unmerge(): void {
    this.#checkAlive('unmerge')
    checkNotInTraining('LoraAdapter.unmerge', this.model)
    if (this.#merged === null) throw new ConfigError('LoraAdapter.unmerge: the adapter is not merged')
    unmerge('LoraAdapter.unmerge', this.#merged)
    this.#merged = null
  }

  /** Writes a folder that PEFT and `Decoder.loadAdapter` read: the parameters as they are when it is called. */
  async save(folder: string): Promise<void> {
    this.#checkAlive('save')
    const { model, config, terms } = this
    const tensors = noGrad(() =>
      scope(() => new Map([...this.#named].map(([name, tensor]) => [name, keep(mul(tensor, 1))]))),
    )
    try {
      await writeAdapter(folder, { model, config, terms, base: this.#base, tensors })
    } finally {
      for (const tensor of tensors.values()) tensor.dispose()
    }
  }

  /** @internal The parameters of a folder that `save` wrote. */
  restore(folder: string, ignore?: (name: string) => boolean): Promise<void> {
    this.#checkAlive('restore')
    return readAdapter(folder, this.#named, ignore)
  }

  /** Frees its tensors. Of a merged one the base keeps the merged weights, for good. */
  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    for (const tensor of this.#named.values()) tensor.dispose()
    this.#publication.dispose()
    for (const { before } of this.#merged ?? []) before.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  #check(what: string): void {
    this.#checkAlive(what)
    if (this.#merged === null) return
    throw new ConfigError(
      `LoraAdapter.${what}: the adapter is merged into its base, which has it already; unmerge it first`,
    )
  }

  #checkAlive(what: string): void {
    if (this.#disposed) throw new DisposedError(`LoraAdapter.${what}: the adapter was disposed`)
  }

  #parameter(name: string, make: () => Tensor): Tensor {
    const tensor = parameter(noGrad(() => scope(() => keep(make()))))
    this.#named.set(name, tensor)
    return tensor
  }

  #makeTerm({ path, module, rank, scale }: TermTarget, seed: number, call: number): Term {
    const { device, dtype: base } = this.model.inputEmbedding
    const dtype = base === 'f64' ? 'f64' : 'f32'
    const [rows = 0, columns = 0] = module.weight.shape
    const key = (): Tensor => randomKey(seed, { call, device })
    if (module instanceof Embedding) {
      // as PEFT begins them: here A is what a token has, and B what all share
      const a = (): Tensor => zeros([rank, rows], { dtype, device })
      const b = (): Tensor => randn([columns, rank], key(), { dtype })
      return {
        a: this.#parameter(`${path}.lora_embedding_A`, a),
        b: this.#parameter(`${path}.lora_embedding_B`, b),
        scale,
      }
    }
    // Kaiming-uniform with a = sqrt 5: within 1 / sqrt(inputs) (He et al. 2015)
    const bound = 1 / Math.sqrt(columns)
    const a = (): Tensor => sub(mul(uniform([rank, columns], key(), { dtype }), 2 * bound), bound)
    const b = (): Tensor => zeros([rows, rank], { dtype, device })
    return {
      a: this.#parameter(`${path}.lora_A.weight`, a),
      b: this.#parameter(`${path}.lora_B.weight`, b),
      scale,
    }
  }

  #copyWhole({ path, module }: Target): Whole {
    const bias = module instanceof Linear ? module.bias : null
    return {
      weight: this.#parameter(`${path}.weight`, () => mul(module.weight, 1)),
      bias: bias === null ? null : this.#parameter(`${path}.bias`, () => mul(bias, 1)),
    }
  }

  /** As generation wants it: in the base's dtype, the scale in A. The bits are those of the live adapter. */
  #snapshot(): AdapterTensors {
    const { dtype } = this.model.inputEmbedding
    const copy = (tensor: Tensor, to: DType, scale = 1): Tensor => keep(cast(mul(tensor, scale), to))
    return noGrad(() =>
      scope(() => ({
        terms: new Map<Linear | Embedding, Term>(
          this.terms.map(({ module }) => {
            const { a, b, scale } = this.#tensors.terms.get(module) as Term
            if (module instanceof Embedding) {
              return [module, { a: copy(a, a.dtype), b: copy(b, b.dtype), scale }] as const
            }
            return [module, { a: copy(a, dtype, scale), b: copy(b, dtype), scale: 1 }] as const
          }),
        ),
        wholes: new Map<Linear | Embedding, Whole>(
          [...this.#tensors.wholes].map(([module, { weight, bias }]) => [
            module,
            { weight: copy(weight, weight.dtype), bias: bias && copy(bias, bias.dtype) },
          ]),
        ),
      })),
    )
  }
}
