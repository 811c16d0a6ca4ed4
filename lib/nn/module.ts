import { copyInto } from '../ops/copy.ts'
import { ConfigError, DisposedError, ShapeError } from '../runtime/errors.ts'
import { sameShape } from '../tensor/layout.ts'
import { noGrad } from '../tensor/mode.ts'
import { keep, scope } from '../tensor/scope.ts'
import { Tensor } from '../tensor/tensor.ts'

const parameters = new WeakSet<Tensor>()

/** Marks a tensor as a parameter: found by modules also while it is frozen. Returns it. */
export function parameter(tensor: Tensor): Tensor {
  parameters.add(tensor)
  tensor.requiresGrad = true
  return keep(tensor)
}

/** Marks a tensor as part of a module's state that is not trained (int8 weights). Returns it. */
export function constant(tensor: Tensor): Tensor {
  parameters.add(tensor)
  return keep(tensor)
}

function isParameter(value: unknown): value is Tensor {
  if (!(value instanceof Tensor) || value.disposed) return false
  return parameters.has(value) || (value.isLeaf && value.requiresGrad)
}

/**
 * A part of a model: parameters and other modules in its fields (also in arrays), and a `forward`.
 * Every call of `forward` is a scope: tensors made in it are freed when it returns, but for those in
 * its result, those stored in a field, and what gradients need.
 */
export abstract class Module {
  #disposed = false

  abstract forward(...inputs: never[]): unknown

  constructor() {
    const forward = this.forward
    Object.defineProperty(this, 'forward', {
      value: (...inputs: never[]) => scope(() => forward.apply(this, inputs), this),
      configurable: true,
      writable: true,
    })
  }

  /**
   * Parameters by path (`layers.0.mlp.up.weight`), in the order of fields. One that stands in several
   * places (tied weights) comes once, under its first path.
   */
  namedParameters(): Map<string, Tensor> {
    const found = new Map<string, Tensor>()
    const seen = new Set<Tensor>()
    visit(this, '', (path, tensor) => {
      if (seen.has(tensor)) return
      seen.add(tensor)
      found.set(path, tensor)
    })
    return found
  }

  /** This module (under '') and those in its fields, by path, each once. */
  namedModules(): Map<string, Module> {
    const found = new Map<string, Module>()
    const seen = new Set<unknown>()
    const walk = (value: unknown, path: string): void => {
      if (!(value instanceof Module || Array.isArray(value)) || seen.has(value)) return
      seen.add(value)
      if (value instanceof Module) found.set(path, value)
      for (const [key, part] of Object.entries(value)) walk(part, path === '' ? key : `${path}.${key}`)
    }
    walk(this, '')
    return found
  }

  /** Parameters, tied ones once. */
  parameters(): Tensor[] {
    return [...this.namedParameters().values()]
  }

  /** The state by path; the tensors themselves, not copies. */
  stateDict(): Map<string, Tensor> {
    return this.namedParameters()
  }

  /**
   * Copies values into the parameters.
   * @throws ConfigError for paths that are missing or not known, ShapeError for other shapes or dtypes;
   *   nothing is changed then
   */
  loadStateDict(state: ReadonlyMap<string, Tensor>): void {
    const own = this.namedParameters()
    for (const name of state.keys()) {
      if (!own.has(name)) throw new ConfigError(`loadStateDict: the module has no parameter '${name}'`)
    }
    for (const [name, target] of own) {
      const source = state.get(name)
      if (source === undefined) throw new ConfigError(`loadStateDict: '${name}' is missing`)
      if (!sameShape(source.shape, target.shape) || source.dtype !== target.dtype) {
        throw new ShapeError(
          `loadStateDict: ${name} must be ${target.dtype}[${target.shape}], received ${source.dtype}[${source.shape}]`,
        )
      }
    }
    noGrad(() => {
      for (const [name, target] of own) copyInto(target, state.get(name) as Tensor)
    })
  }

  /** Number of parameter elements, tied ones once. */
  parameterCount(): number {
    return this.parameters().reduce((total, { size }) => total + size, 0)
  }

  /** Whether `dispose` was called. */
  get disposed(): boolean {
    return this.#disposed
  }

  /** @throws DisposedError naming who asks */
  checkAlive(where: string): void {
    if (this.#disposed) throw new DisposedError(`${where}: the model was disposed of`)
  }

  /** Frees all parameters. */
  dispose(): void {
    this.#disposed = true
    for (const tensor of this.parameters()) tensor.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

function visit(value: unknown, path: string, found: (path: string, tensor: Tensor) => void): void {
  if (isParameter(value)) {
    found(path, value)
    return
  }
  if (!(value instanceof Module || Array.isArray(value))) return
  for (const [key, part] of Object.entries(value)) visit(part, path === '' ? key : `${path}.${key}`, found)
}
