// generation_config.json: which tokens end an answer, and what a folder says besides, which is kept as it is.

import { join } from 'node:path'
import { ifThere, readJsonObject } from '../io/small-file.ts'
import { FormatError } from '../runtime/errors.ts'
import { shown } from '../runtime/options.ts'
import type { SpecialTokens, Tokenizer } from '../tokenizer/tokenizer.ts'

export const GENERATION_CONFIG = 'generation_config.json'
const NONE = -1 // as some files say

export interface GenerationConfig {
  readonly eosTokenIds: ReadonlySet<number>
  /** The file's object; empty where there is none. */
  readonly json: Readonly<Record<string, unknown>>
}

/**
 * What a folder says of ends: its generation_config.json and config.json may name several, the tokenizer one.
 * @throws FormatError naming the file
 */
export async function readGenerationConfig(
  folder: string,
  tokenizer: Tokenizer,
  vocabSize: number,
): Promise<GenerationConfig> {
  const found = new Set<number>(tokenizer.eosTokenId === null ? [] : [tokenizer.eosTokenId])
  const json = (await ifThere(readJsonObject(join(folder, GENERATION_CONFIG)))) ?? {}
  const config = (await ifThere(readJsonObject(join(folder, 'config.json')))) ?? {}
  for (const [name, { eos_token_id: ids }] of Object.entries({
    [GENERATION_CONFIG]: json,
    'config.json': config,
  })) {
    for (const id of Array.isArray(ids) ? ids : [ids ?? NONE]) {
      if (id === NONE) continue
      if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
        throw new FormatError(
          `${join(folder, name)}: eos_token_id: expected ids from 0 to ${vocabSize - 1}, found ${shown(ids)}`,
        )
      }
      found.add(id)
    }
  }
  return { eosTokenIds: found, json }
}

/** The text of generation_config.json. */
export function generationConfigText(
  { eosTokenIds, json }: GenerationConfig,
  special: SpecialTokens,
): string {
  const ends = [...eosTokenIds].sort((a, b) => a - b)
  const entries = {
    bos_token_id: special.bosTokenId,
    pad_token_id: special.padTokenId,
    ...json,
    eos_token_id: ends.length > 1 ? ends : ends[0],
  }
  const written = Object.entries(entries).filter(([, value]) => value !== null && value !== undefined)
  return `${JSON.stringify(Object.fromEntries(written.sort(([a], [b]) => (a < b ? -1 : 1))), null, 2)}\n`
}
