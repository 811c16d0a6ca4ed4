// A small model, the options of a short run of it, and what such a run leaves: for the tests of Trainer.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Decoder, type Trainer, type TrainerEvent, type TrainerOptions } from 'fuselm'
import { smallCorpus } from './corpus.ts'

export const { tokenizer, train, validation, nextOut } = await smallCorpus('train')

export const SHAPE = {
  hiddenSize: 16,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  intermediateSize: 32,
  maxPositionEmbeddings: 64,
}

export function decoder(): Decoder {
  return Decoder.create(SHAPE, { tokenizer, dtype: 'bf16', seed: 3 })
}

export function options(more: Partial<TrainerOptions> = {}): TrainerOptions {
  return {
    train,
    validation,
    out: nextOut(),
    batchSize: 2,
    accumulate: 2,
    steps: 12,
    optimizer: { learningRate: 3e-3 },
    dropout: 0.1,
    saveEvery: 5,
    evalEvery: 6,
    ...more,
  }
}

export async function events(
  trainer: Trainer,
  until?: (event: TrainerEvent) => boolean,
): Promise<TrainerEvent[]> {
  const seen: TrainerEvent[] = []
  for await (const event of trainer.run()) {
    seen.push(event)
    if (until?.(event)) break
  }
  return seen
}

export const weights = (out: string): string =>
  readFileSync(join(out, 'model.safetensors')).toString('base64')

/** metrics.jsonl without what the clock decides. */
export function metrics(out: string): unknown[] {
  return readFileSync(join(out, 'metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => {
      const { tokensPerSecond, secondsLeft, path, ...rest } = JSON.parse(line)
      return rest
    })
}
