// A run's checkpoint: the model in Hugging Face's layout, the optimizer, and where the run stands.

import { join } from 'node:path'
import { writeAtomic } from '../io/atomic.ts'
import { readJsonObject } from '../io/small-file.ts'
import { loadTensors, saveTensors } from '../io/tensors.ts'
import type { AdamW } from '../optim/adam-w.ts'
import { FormatError } from '../runtime/errors.ts'

const STATE = 'trainer_state.json'
const OPTIMIZER = 'optimizer.safetensors'

/** What a stop cut short after the step: a run that goes on does it first. */
export type Owed = 'evaluation' | 'samples'

/** Names as Hugging Face's trainer has them where it has them. */
export interface RunState {
  readonly globalStep: number
  readonly maxSteps: number
  readonly epoch: number
  /** Lowest validation loss, its step, and evaluations since. */
  readonly best: { readonly loss: number; readonly step: number } | null
  readonly evaluationsSinceBest: number
  /** Steps in a row without an update. */
  readonly skippedInRow: number
  /** Bytes of metrics.jsonl. */
  readonly metricsLength: number
  readonly finished: boolean
  readonly owed: Owed | null
  readonly settings: Readonly<Record<string, unknown>>
}

export async function saveState(folder: string, optimizer: AdamW, state: RunState): Promise<void> {
  await saveTensors(join(folder, OPTIMIZER), optimizer.stateDict())
  const json = {
    global_step: state.globalStep,
    max_steps: state.maxSteps,
    epoch: state.epoch,
    best_metric: state.best?.loss ?? null,
    best_global_step: state.best?.step ?? null,
    best_model_checkpoint: state.best === null ? null : `checkpoint-${state.best.step}`,
    evaluations_since_best: state.evaluationsSinceBest,
    skipped_in_row: state.skippedInRow,
    metrics_length: state.metricsLength,
    finished: state.finished,
    owed: state.owed,
    settings: state.settings,
  }
  const bytes = new TextEncoder().encode(`${JSON.stringify(json, null, 2)}\n`)
  await writeAtomic(join(folder, STATE), (write) => write(bytes))
}

/** @throws FormatError naming the file and key */
export async function loadState(folder: string): Promise<RunState> {
  const path = join(folder, STATE)
  const json = await readJsonObject(path)
  const number = (key: string): number => {
    const value = json[key]
    if (typeof value !== 'number' || !Number.isFinite(value)) {
      throw new FormatError(`${path}: ${key}: expected a number, found ${JSON.stringify(value) ?? 'nothing'}`)
    }
    return value
  }
  const { settings, owed = null } = json
  if (owed !== null && owed !== 'evaluation' && owed !== 'samples') {
    throw new FormatError(
      `${path}: owed: expected evaluation, samples or null, found ${JSON.stringify(owed)}`,
    )
  }
  if (typeof settings !== 'object' || settings === null) {
    throw new FormatError(
      `${path}: settings: expected an object, found ${JSON.stringify(settings) ?? 'nothing'}`,
    )
  }
  return {
    globalStep: number('global_step'),
    maxSteps: number('max_steps'),
    epoch: number('epoch'),
    best:
      json['best_metric'] === null ? null : { loss: number('best_metric'), step: number('best_global_step') },
    evaluationsSinceBest: number('evaluations_since_best'),
    skippedInRow: number('skipped_in_row'),
    metricsLength: number('metrics_length'),
    finished: json['finished'] === true,
    owed,
    settings: settings as Record<string, unknown>,
  }
}

export async function loadOptimizer(folder: string, optimizer: AdamW): Promise<void> {
  await loadTensors(join(folder, OPTIMIZER), optimizer.stateDict())
  optimizer.markLoaded()
}
