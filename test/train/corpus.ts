// The text that small training tests share, and places for their runs.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { TextDataset, Tokenizer } from 'fuselm'
import { afterAll } from 'vitest'

export interface Corpus {
  readonly tokenizer: Tokenizer
  readonly train: TextDataset
  readonly validation: TextDataset
  /** Where another run may write; gone after the file's tests. */
  nextOut(): string
}

/** Rows of 16 tokens, a fifth of them for validation. */
export async function smallCorpus(name: string, { vocabSize = 280 } = {}): Promise<Corpus> {
  const folder = mkdtempSync(join(tmpdir(), `fuselm-${name}-`))
  const text = Array.from({ length: 400 }, (_, i) => `line ${i % 7}: abc abd ${i % 3}`).join('\n')
  const tokenizer = await Tokenizer.train({ texts: [text], vocabSize })
  const { train, validation } = await TextDataset.from([text], {
    tokenizer,
    contextLength: 16,
    holdOut: 0.2,
    seed: 1,
  })
  afterAll(async () => {
    await train.close()
    await validation.close()
    rmSync(folder, { recursive: true, force: true })
  })
  let runs = 0
  return { tokenizer, train, validation, nextOut: () => join(folder, `run-${runs++}`) }
}
