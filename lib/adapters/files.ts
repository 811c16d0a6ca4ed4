// An adapter as PEFT has it on disk: adapter_config.json and adapter_model.safetensors.

import { join } from 'node:path'
import { makeFolder, writeAtomic } from '../io/atomic.ts'
import { loadTensors, saveTensors } from '../io/tensors.ts'
import type { CausalLm } from '../models/causal-lm.ts'
import { familyOf } from '../models/family.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { type LoraConfig, writePeftConfig } from './config.ts'
import { type Target, writtenTargets } from './targets.ts'

export const CONFIG = 'adapter_config.json'
export const WEIGHTS = 'adapter_model.safetensors'
export const PREFIX = 'base_model.model.'

/** What a folder says of an adapter. */
export interface AdapterContents {
  readonly model: CausalLm
  readonly config: LoraConfig
  readonly terms: readonly Target[]
  /** What PEFT should load as the base model, by path or name. */
  readonly base: string | null
  readonly tensors: ReadonlyMap<string, Tensor>
}

/** Writes a folder that PEFT reads. */
export async function writeAdapter(folder: string, contents: AdapterContents): Promise<void> {
  const { model, config, terms, base, tensors } = contents
  await makeFolder(folder)
  const named = [...tensors].map(([name, tensor]) => [`${PREFIX}${name}`, tensor] as const)
  await saveTensors(join(folder, WEIGHTS), named, { metadata: { format: 'pt' } })
  const text = writePeftConfig(config, {
    name: base,
    fanInFanOut: familyOf(model.modelType).transposedLinears === true,
    targets: writtenTargets(config.targets, terms),
  })
  await writeAtomic(join(folder, CONFIG), (write) => write(new TextEncoder().encode(text)))
}

/**
 * Overwrites an adapter's tensors with those of a folder.
 * @param ignore names in the file that are known and not wanted
 * @throws FormatError naming file and tensor; nothing is written then
 */
export async function readAdapter(
  folder: string,
  tensors: ReadonlyMap<string, Tensor>,
  ignore: (name: string) => boolean = () => false,
): Promise<void> {
  const named = [...tensors].map(([name, tensor]) => [`${PREFIX}${name}`, tensor] as const)
  await loadTensors(join(folder, WEIGHTS), new Map(named), { ignore })
}
