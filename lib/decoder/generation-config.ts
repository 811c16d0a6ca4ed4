// generation_config.json: which tokens end an answer, and what a folder says besides, which is kept as it is.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { FormatError } from '../runtime/errors.ts'
import type { SpecialTokens, Tokenizer } from '../tokenizer/tokenizer.ts'

export const GENERATION_CONFIG = 'generation_config.json'

export interface GenerationConfig {
  readonly eosTokenIds: ReadonlySet<number>
  /** The file's object; empty where there is none. */
  readonly json: Readonly<Record<string, unknown>>
}

async function readObject(path: string): Promise<Record<string, unknown>> {
  let json: unknown
  try {
    json = JSON.parse(await readFile(path, 'utf8'))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return {}
    if (!(error instanceof SyntaxError)) throw error
    throw new FormatError(`${path}: expected JSON, found ${error.message}`)
  }
  if (typeof json === 'object' && json !== null && !Array.isArray(json))
    return json as Record<string, unknown>
  throw new FormatError(`${path}: expected an object, found ${Array.isArray(json) ? 'a list' : String(json)}`)
}

/**
 * What a folder says of ends: its generation_config.json and config.json may name several, the tokenizer one.
 * @throws FormatError naming the file
 */
export async function readGenerationConfig(folder: string, tokenizer: Tokenizer): Promise<GenerationConfig> {
  const json = await readObject(join(folder, GENERATION_CONFIG))
  const config = await readObject(join(folder, 'config.json'))
  const named = [json, config].flatMap(({ eos_token_id: ids }) => (Array.isArray(ids) ? ids : [ids]))
  const ids = [tokenizer.eosTokenId, ...named].filter((id) => Number.isInteger(id) && (id as number) >= 0)
  return { eosTokenIds: new Set(ids as number[]), json }
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
