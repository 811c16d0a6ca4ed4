import { type AdamWParameter, adamW } from '../ops/adam_w.ts'
import { tensor, zeros } from '../ops/create.ts'
import { gradNorm } from '../ops/grad_norm.ts'
import { ConfigError, ValueError } from '../runtime/errors.ts'
import { checkGiven, checkNumber, shown } from '../runtime/options.ts'
import { noGrad } from '../tensor/mode.ts'
import { keep, scope } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'

export interface AdamWOptions {
  /** f32 or bf16 leaves, with or without names; names are needed to save the state. */
  readonly parameters: Iterable<Tensor | readonly [string, Tensor]>
  /** Default 1e-3. Set `optimizer.learningRate` once per step for a schedule. */
  readonly learningRate?: number
  /** Default [0.9, 0.999]. */
  readonly betas?: readonly [number, number]
  /** Default 1e-8. */
  readonly eps?: number
  /** Of parameters of two axes or more; those of one (norms, biases) have none. Default 0.01. */
  readonly weightDecay?: number
  /** Largest norm of all gradients together; 0 is no clipping. Default 1. */
  readonly clipNorm?: number
}

const OPTIONS = ['parameters', 'learningRate', 'betas', 'eps', 'weightDecay', 'clipNorm']

/** @throws ConfigError, ValueError */
export function checkBetas(where: string, betas: unknown): readonly [number, number] {
  if (!Array.isArray(betas) || betas.length !== 2) {
    throw new ConfigError(`${where}: betas must be two numbers, received ${shown(betas)}`)
  }
  for (const beta of betas) checkNumber(where, 'betas', beta, { from: 0, below: 1 })
  return [betas[0], betas[1]]
}

interface State {
  readonly name: string
  readonly param: Tensor
  readonly low: Tensor | null
  readonly m: Tensor
  readonly v: Tensor
  /** Of the parameter's storage when this optimizer last wrote it. */
  version: number
}

/**
 * AdamW with decoupled weight decay and clipping by the global norm: one command per step over all
 * parameters. bf16 parameters have an exact float32 master, of which the parameter is the rounded
 * upper half; the lower half is kept here, and starts again at zero when anything else writes the
 * parameter. A step whose gradient norm is not finite changes nothing and is counted.
 * Source: Loshchilov & Hutter 2019
 */
export class AdamW {
  learningRate: number
  readonly betas: readonly [number, number]
  readonly eps: number
  readonly weightDecay: number
  readonly clipNorm: number

  readonly #states: readonly State[]
  /** i32 [2]: steps taken, steps skipped. */
  readonly #counts: Tensor
  /** Weight decay of each parameter that had a gradient in the step before. */
  #decay: Tensor | null = null
  #decayOf: readonly State[] = []

  /** @throws ConfigError for unknown options and values that cannot be */
  constructor(options: AdamWOptions) {
    checkGiven('AdamW', options, OPTIONS)
    const {
      learningRate = 1e-3,
      betas = [0.9, 0.999],
      eps = 1e-8,
      weightDecay = 0.01,
      clipNorm = 1,
    } = options
    for (const [name, value] of Object.entries({ learningRate, eps, weightDecay, clipNorm })) {
      checkNumber('AdamW', name, value, { from: 0 })
    }
    checkBetas('AdamW', betas)
    this.learningRate = learningRate
    this.betas = betas
    this.eps = eps
    this.weightDecay = weightDecay
    this.clipNorm = clipNorm
    if (typeof (options.parameters as Iterable<unknown> | undefined)?.[Symbol.iterator] !== 'function') {
      throw new ConfigError(
        `AdamW: parameters must be tensors by name, received ${shown(options.parameters)}`,
      )
    }
    this.#states = collect(options.parameters)
    const device = this.#states[0]?.param.device
    if (device === undefined) throw new ConfigError('AdamW: no parameters that require a gradient')
    this.#counts = keep(tensor([0, 0], { dtype: 'i32', device }))
  }

  /**
   * Updates every parameter that has a gradient and frees the gradients.
   * @returns the norm of all gradients before clipping, f32 scalar
   * @throws ValueError when no parameter has a gradient, IncompleteGradientError when a backward failed
   */
  step({ clipNorm = this.clipNorm, gradientScale = 1 }: StepOptions = {}): Tensor {
    const states = this.#states.filter(({ param }) => param.grad !== null)
    const device = states[0]?.param.device
    if (device === undefined)
      throw new ValueError('AdamW.step: no parameter has a gradient; call backward first')
    const decay = this.#decays(states)
    return noGrad(() =>
      scope(() => {
        const parameters: AdamWParameter[] = states.map((state) => {
          const { param, low, m, v } = state
          if (low !== null && param.storage.version !== state.version) clear(low)
          return { param, low, grad: param.grad as Tensor, m, v }
        })
        const norm = gradNorm(parameters.map(({ grad }) => grad))
        const hyper = tensor([this.learningRate, gradientScale], { dtype: 'f32', device })
        const [beta1, beta2] = this.betas
        adamW(parameters, { norm, hyper, decay, state: this.#counts, beta1, beta2, eps: this.eps, clipNorm })
        for (const state of states) {
          state.version = state.param.storage.version
          state.param.grad = null
        }
        return norm
      }),
    )
  }

  /** Frees all gradients, whole or left incomplete by a backward that failed. */
  zeroGrad(): void {
    for (const { param } of this.#states) param.grad = null
  }

  /** Steps taken, and steps skipped because the gradient norm was not finite. */
  async counts(): Promise<{ steps: number; skipped: number }> {
    const [steps = 0, skipped = 0] = await this.#counts.toArray()
    return { steps, skipped }
  }

  /** The optimizer's tensors by name, for `saveTensors` and `loadTensors`. */
  stateDict(): Map<string, Tensor> {
    const named = new Map<string, Tensor>([['counts', this.#counts]])
    for (const { name, low, m, v } of this.#states) {
      named.set(`${name}.m`, m)
      named.set(`${name}.v`, v)
      if (low !== null) named.set(`${name}.low`, low)
    }
    return named
  }

  /**
   * Says that parameters and state were loaded together, so that the low halves belong to the
   * parameters as they are now.
   */
  markLoaded(): void {
    for (const state of this.#states) state.version = state.param.storage.version
  }

  /** Frees the optimizer's tensors, not the parameters. */
  dispose(): void {
    for (const tensor of this.stateDict().values()) tensor.dispose()
    this.#decay?.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /** f32 [states]; made anew only when other parameters have gradients than in the step before. */
  #decays(states: readonly State[]): Tensor {
    const same =
      states.length === this.#decayOf.length && states.every((state, i) => state === this.#decayOf[i])
    if (this.#decay !== null && same) return this.#decay
    this.#decay?.dispose()
    const values = states.map(({ param }) => (param.rank > 1 ? this.weightDecay : 0))
    this.#decay = keep(tensor(values, { dtype: 'f32', device: (states[0] as State).param.device }))
    this.#decayOf = states
    return this.#decay
  }
}

export interface StepOptions {
  /** Default: the optimizer's. */
  readonly clipNorm?: number
  /** Factor for all gradients, before the norm is judged. Default 1. */
  readonly gradientScale?: number
}

function collect(parameters: AdamWOptions['parameters']): State[] {
  const states: State[] = []
  const seen = new Set<Tensor>()
  for (const entry of parameters) {
    const [name, param] = 'shape' in entry ? [String(states.length), entry] : entry
    if (!param.requiresGrad || seen.has(param)) continue
    seen.add(param)
    if (!param.isLeaf || (param.dtype !== 'f32' && param.dtype !== 'bf16')) {
      throw new ConfigError(`AdamW: ${name} must be an f32 or bf16 leaf, received ${String(param)}`)
    }
    const { shape, device } = param
    states.push({
      name,
      param,
      low: param.dtype === 'bf16' ? keep(zeros(shape, { dtype: 'u16', device })) : null,
      m: keep(zeros(shape, { device })),
      v: keep(zeros(shape, { device })),
      version: param.storage.version,
    })
  }
  return states
}

/** Zeroes from the host: allocates nothing on the device, so it cannot fail half-way. */
function clear(low: Tensor): void {
  low.device.activeQueue.write(low.storage, 0, new Uint8Array(low.storage.bytes), true)
}
