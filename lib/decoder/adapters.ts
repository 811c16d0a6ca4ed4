// The adapters of one decoder, by name.

import { LoraAdapter } from '../adapters/adapter.ts'
import type { LoraOptions } from '../adapters/config.ts'
import { loadAdapter } from '../adapters/load.ts'
import type { Lease } from '../adapters/publication.ts'
import { onGenerationQueue } from '../generate/generation.ts'
import type { CausalLm } from '../models/causal-lm.ts'
import { ConfigError } from '../runtime/errors.ts'
import { nearestName } from '../runtime/options.ts'

/** An adapter by its name, or itself. */
export type AdapterChoice = string | LoraAdapter

/** The copy that an answer reads; where it must be made, on the queue that generates, not behind what trains. */
export function leaseOf(adapter: LoraAdapter | null): Lease | null {
  return adapter && onGenerationQueue(adapter.model, () => adapter.lease())
}

export class AdapterNames {
  readonly #model: CausalLm
  readonly #named = new Map<string, LoraAdapter>()

  constructor(model: CausalLm) {
    this.#model = model
  }

  /** Those there are. */
  all(): Map<string, LoraAdapter> {
    for (const [name, { disposed }] of this.#named) if (disposed) this.#named.delete(name)
    return new Map(this.#named)
  }

  /** @throws ConfigError for a name that is taken, or none */
  check(where: string, name: unknown): string {
    if (typeof name !== 'string' || name === '') {
      throw new ConfigError(`${where}: the name must be a text that is not empty, received ${String(name)}`)
    }
    if (this.all().has(name)) {
      throw new ConfigError(
        `${where}: there is an adapter '${name}' already; dispose of it, or take another name`,
      )
    }
    return name
  }

  add(name: string, options: LoraOptions, base: string | null): LoraAdapter {
    this.check('Decoder.addAdapter', name)
    const adapter = new LoraAdapter(this.#model, options, { where: 'Decoder.addAdapter', base })
    this.#named.set(name, adapter)
    return adapter
  }

  async load(name: string, folder: string, base: string | null): Promise<LoraAdapter> {
    this.check('Decoder.loadAdapter', name)
    const adapter = await loadAdapter(this.#model, folder, { base })
    try {
      this.check('Decoder.loadAdapter', name) // another may have come meanwhile
    } catch (error) {
      adapter.dispose()
      throw error
    }
    this.#named.set(name, adapter)
    return adapter
  }

  /** @throws ConfigError for a name that is not known, or an adapter of another model */
  find(where: string, given: AdapterChoice | null | undefined): LoraAdapter | null {
    if (given === null || given === undefined) return null
    if (given instanceof LoraAdapter) {
      if (given.model === this.#model) return given
      throw new ConfigError(`${where}: the adapter belongs to another model`)
    }
    const all = this.all()
    const adapter = all.get(given)
    if (adapter !== undefined) return adapter
    const near = typeof given === 'string' ? nearestName(given, [...all.keys()]) : undefined
    throw new ConfigError(
      `${where}: there is no adapter ${JSON.stringify(given)}` +
        (near === undefined
          ? `; known: ${[...all.keys()].join(', ') || 'none'}`
          : `; did you mean '${near}'?`),
    )
  }

  dispose(): void {
    for (const adapter of this.#named.values()) adapter.dispose()
    this.#named.clear()
  }
}
