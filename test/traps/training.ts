// Runs of the Trainer for traps: a corpus without worker threads, so that a patch reaches all of it, and
// what a run left on disk as numbers.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { TextDataset } from '../../lib/data/dataset.ts'
import { TokenFileWriter } from '../../lib/data/token-file.ts'
import { parseSafetensors } from '../../lib/index.ts'
import { random } from '../ops/random.ts'

export const VOCABULARY = 48

/** A token file of documents of random ids, opened anew as a process that starts would. */
export async function openCorpus(
  path: string,
  { documents = 12, contextLength = 12, seed = 7 } = {},
): Promise<TextDataset> {
  const { integer } = random('corpus')
  const writer = await TokenFileWriter.create(path, VOCABULARY)
  for (let d = 0; d < documents; d++) {
    await writer.append(
      Array.from({ length: integer(5, 16) }, () => integer(0, VOCABULARY)),
      true,
    )
    writer.endDocument()
  }
  return TextDataset.of(await writer.finish(), 'stream', { contextLength, seed, padTokenId: 0 })
}

/** Elements of every tensor of a file, by name: bits for bf16. */
export function tensorsOf(path: string): Map<string, ArrayLike<number>> {
  const { tensors } = parseSafetensors(readFileSync(path))
  return new Map(
    [...tensors].map(([name, { dtype, data }]): [string, ArrayLike<number>] => {
      const bytes = Uint8Array.from(data).buffer
      if (dtype === 'F32') return [name, new Float32Array(bytes)]
      if (dtype === 'I32') return [name, new Int32Array(bytes)]
      return [name, new Uint16Array(bytes)]
    }),
  )
}

export interface Line {
  readonly type: string
  readonly step: number
  readonly loss: number
  readonly learningRate: number
  readonly gradientNorm: number
  readonly skipped: boolean
}

/** Lines of metrics.jsonl; one that is cut has no type and NaN for numbers. */
export function linesOf(out: string): Line[] {
  const text = readFileSync(join(out, 'metrics.jsonl'), 'utf8')
  return text
    .trimEnd()
    .split('\n')
    .map((line) => {
      try {
        return JSON.parse(line)
      } catch {
        return { type: 'step', step: Number.NaN, loss: Number.NaN, learningRate: Number.NaN }
      }
    })
}

/** A field of every step's line. */
export function stepsOf(
  out: string,
  field: 'step' | 'loss' | 'learningRate' | 'gradientNorm' | 'skipped',
): number[] {
  return linesOf(out)
    .filter(({ type }) => type === 'step')
    .map((line) => Number(line[field]))
}
