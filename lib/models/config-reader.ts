// Reads Hugging Face's config.json without overlooking anything: what no family asks for, and what does
// not only describe files, training or generation, is refused by name.

import { ConfigError } from '../runtime/errors.ts'
import { nearestName, shown } from '../runtime/options.ts'

/** Keys that do not change what a forward computes. */
const NEUTRAL = new Set([
  '_attn_implementation',
  '_attn_implementation_autoset',
  '_name_or_path',
  'architectures',
  'attention_dropout',
  'bos_token_id',
  'chunk_size_feed_forward',
  'dtype',
  'eos_token_id',
  'finetuning_task',
  'gradient_checkpointing',
  'id2label',
  'keys_to_ignore_at_inference',
  'label2id',
  'model_type',
  'output_attentions',
  'output_hidden_states',
  'pad_token_id',
  'problem_type',
  'return_dict',
  'sep_token_id',
  'task_specific_params',
  'tokenizer_class',
  'torch_dtype',
  'torchscript',
  'transformers_version',
  'unk_token_id',
  'use_cache',
])

export class ConfigReader {
  readonly #left: Map<string, unknown>
  readonly #known = new Set<string>()

  constructor(json: ReadonlyMap<string, unknown>) {
    this.#left = new Map([...json].filter(([key]) => !NEUTRAL.has(key)))
  }

  /** The value; undefined when it is absent or null. */
  take(key: string): unknown {
    this.#known.add(key)
    const value = this.#left.get(key)
    this.#left.delete(key)
    return value ?? undefined
  }

  /** Whether the file has the key, be it null. */
  has(key: string): boolean {
    return this.#left.has(key)
  }

  /** Leaves keys out that say nothing of the forward here. */
  ignore(...keys: readonly string[]): void {
    for (const key of keys) this.#left.delete(key)
  }

  /**
   * A key that may only have one value, or be absent.
   * @throws ConfigError
   */
  only(key: string, value: unknown): void {
    const found = this.take(key)
    if (found !== undefined && found !== value) {
      throw new ConfigError(`config.json: ${key} must be ${JSON.stringify(value)}, received ${shown(found)}`)
    }
  }

  /**
   * A key with one of several values.
   * @returns what the table has for it; `otherwise` when it is absent
   * @throws ConfigError
   */
  oneOf<T>(key: string, table: Readonly<Record<string, T>>, otherwise: T): T {
    const found = this.take(key)
    if (found === undefined) return otherwise
    if (typeof found === 'string' && Object.hasOwn(table, found)) return table[found] as T
    throw new ConfigError(
      `config.json: ${key} must be one of ${Object.keys(table).join(', ')}, received ${shown(found)}`,
    )
  }

  /**
   * What is left must be switched off.
   * @throws ConfigError naming the first key that is not
   */
  finish(): void {
    for (const [key, value] of this.#left) {
      if (value === null || value === false) continue
      const near = nearestName(key, [...this.#known])
      throw new ConfigError(
        `config.json: ${key.slice(0, 80)} is not known here and may change the model, received ${shown(value)}` +
          (near === undefined ? '' : `; did you mean '${near}'?`),
      )
    }
  }
}
