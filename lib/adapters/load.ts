// An adapter from a folder of PEFT.

import { join } from 'node:path'
import { SafetensorsFile } from '../io/safetensors.ts'
import { readJsonObject } from '../io/small-file.ts'
import { loadTensors } from '../io/tensors.ts'
import type { CausalLm } from '../models/causal-lm.ts'
import { Embedding } from '../nn/layers.ts'
import { sub } from '../ops/binary.ts'
import { cast } from '../ops/copy.ts'
import { empty } from '../ops/create.ts'
import { max } from '../ops/reduce.ts'
import { abs } from '../ops/unary.ts'
import { FormatError } from '../runtime/errors.ts'
import { checkPath } from '../runtime/options.ts'
import { noGrad } from '../tensor/mode.ts'
import { keep, scope } from '../tensor/scope.ts'
import { LoraAdapter } from './adapter.ts'
import { readPeftConfig } from './config.ts'
import { CONFIG, PREFIX, WEIGHTS } from './files.ts'
import { resolveTargets, type Target } from './targets.ts'

const BASE = '.base_layer.weight'

/**
 * Loads a folder that `LoraAdapter.save` or PEFT's `save_pretrained` wrote, for a model of the same shape.
 * Nothing is allocated before names and shapes have been checked.
 * @throws ConfigError for a variant that is not known, or targets that match nothing; FormatError naming
 *   file, tensor, expected and found
 */
export async function loadAdapter(
  model: CausalLm,
  folder: string,
  { base = null }: { readonly base?: string | null } = {},
): Promise<LoraAdapter> {
  const path = join(checkPath('loadAdapter', 'folder', folder), CONFIG)
  const config = readPeftConfig(path, await readJsonObject(path))
  const copies = await checkFile(model, folder, config)
  await checkBase(join(folder, WEIGHTS), copies)
  const adapter = new LoraAdapter(model, config, { where: path, base })
  try {
    await adapter.restore(folder, (name) => copies.has(name))
    return adapter
  } catch (error) {
    adapter.dispose()
    throw error
  }
}

/**
 * @returns weights of the base that the file holds, too, by name
 * @throws FormatError for a file that is not the adapter of this model that its configuration says
 */
async function checkFile(
  model: CausalLm,
  folder: string,
  config: ReturnType<typeof readPeftConfig>,
): Promise<ReadonlyMap<string, Target>> {
  const { terms, saved } = resolveTargets(join(folder, CONFIG), model, config)
  const path = join(folder, WEIGHTS)
  const copies = new Map<string, Target>()
  const file = await SafetensorsFile.open(path)
  try {
    const wanted = new Map<string, readonly number[]>()
    for (const { path: name, module, rank } of terms) {
      const [outputs = 0, inputs = 0] = module.weight.shape
      if (module instanceof Embedding) {
        wanted.set(`${name}.lora_embedding_A`, [rank, outputs])
        wanted.set(`${name}.lora_embedding_B`, [inputs, rank])
      } else {
        wanted.set(`${name}.lora_A.weight`, [rank, inputs])
        wanted.set(`${name}.lora_B.weight`, [outputs, rank])
      }
    }
    for (const { path: name } of saved) wanted.set(`${name}.weight`, [])
    for (const [name, shape] of wanted) {
      const entry = file.tensors.get(`${PREFIX}${name}`)
      const place = `${path}, tensor ${JSON.stringify(`${PREFIX}${name}`)}`
      if (entry === undefined) throw new FormatError(`${place}: expected [${shape}], found none`)
      if (shape.length > 0 && String(entry.shape) !== String(shape)) {
        throw new FormatError(
          `${place}: expected [${shape}] for rank and base model, found [${entry.shape}]; is it for another base?`,
        )
      }
    }
    for (const name of file.tensors.keys()) {
      const own = name.startsWith(PREFIX) ? name.slice(PREFIX.length) : null
      if (own !== null && (wanted.has(own) || saved.some(({ path }) => own === `${path}.bias`))) continue
      const base = terms.find((term) => own === `${term.path}${BASE}`)
      if (base !== undefined) {
        copies.set(name, base)
        continue
      }
      throw new FormatError(
        `${path}: expected no tensor ${JSON.stringify(name)}: its configuration targets no such layer of this model`,
      )
    }
  } finally {
    await file.close()
  }
  return copies
}

/**
 * PEFT saves the base of an embedding or output layer that has a term: it must be this model's.
 * @throws FormatError
 */
async function checkBase(path: string, copies: ReadonlyMap<string, Target>): Promise<void> {
  for (const [name, { module }] of copies) {
    const { weight } = module
    const { shape, dtype, device } = weight
    const theirs = noGrad(() => scope(() => keep(empty(shape, { dtype, device }))))
    try {
      await loadTensors(path, new Map([[name, theirs]]), { strict: false })
      const distance = noGrad(() => scope(() => max(abs(sub(cast(theirs, 'f32'), cast(weight, 'f32'))))))
      const largest = await distance.item()
      distance.dispose()
      if (largest === 0) continue
      throw new FormatError(
        `${path}, tensor ${JSON.stringify(name)}: expected the weights of this base model, found others ` +
          `(by up to ${largest}); a base that was resized or trained must be loaded as the model`,
      )
    } finally {
      theirs.dispose()
    }
  }
}
