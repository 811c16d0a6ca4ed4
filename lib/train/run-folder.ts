// The folder of a run: which names in it are a run's, who has it, and where the run in it stands.

import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { CheckpointFolder, checkpointStep, completeCheckpoints } from '../io/checkpoints.ts'
import { isWeightsFile } from '../io/shards.ts'
import { ConfigError } from '../runtime/errors.ts'

/** A run's events, one JSON object a line. */
export const METRICS_FILE = 'metrics.jsonl'
/** Event files of TensorBoard. */
export const TENSORBOARD_FOLDER = 'tensorboard'
/** How many steps `minutes` came to. */
export const PLAN_FILE = 'plan.json'
/** The run as one page. */
export const REPORT_FILE = 'report.html'

const RUN_FILES = [METRICS_FILE, TENSORBOARD_FOLDER, PLAN_FILE, REPORT_FILE]

/** Names that only a run makes. */
function isRunFile(name: string): boolean {
  return RUN_FILES.includes(name) || checkpointStep(name) !== null
}

const MODEL_FILES = [
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
  'adapter_config.json',
  'adapter_model.safetensors',
]

/** Names of a model's folder: what a run leaves at its end, and what it may have been started from. */
function isModelFile(name: string): boolean {
  return MODEL_FILES.includes(name) || isWeightsFile(name)
}

/** Whether a name is a run's, so that `overwrite` deletes it. */
export function isOurs(name: string): boolean {
  return isRunFile(name) || isModelFile(name)
}

/** What a folder is to be used for. */
export interface RunFolderUse {
  readonly resume: boolean
  readonly overwrite: boolean
}

/**
 * Whether a run may have a folder, before anything in it is touched; one that does not exist yet may be had.
 * @throws ConfigError when a run is there that is neither to go on nor to be cleared, or a model that no run
 *   made
 */
export async function checkUse(out: string, { resume, overwrite }: RunFolderUse): Promise<void> {
  const names = await namesIn(out)
  const ours = names.filter(isOurs)
  const shown = ours.slice(0, 3).join(', ')
  if (ours.length > 0 && !names.some(isRunFile)) {
    // resume and overwrite clear what a run left; this may be anybody's
    throw new ConfigError(`Trainer: ${out} holds a model (${shown}) and no run; give the run another folder`)
  }
  if (ours.length > 0 && !resume && !overwrite) {
    throw new ConfigError(
      `Trainer: ${out} holds an earlier run (${shown}); pass resume to go on with it, or overwrite`,
    )
  }
}

/** The newest complete checkpoint of a run, by its folder; null where there is none. */
export async function newestCheckpoint(out: string): Promise<string | null> {
  const step = (await completeCheckpoints(out).catch(noFolder))?.at(-1)
  return step === undefined ? null : join(out, `checkpoint-${step}`)
}

/**
 * Takes a run's folder for this process and makes it what `use` says: cleared of an earlier run, or as that
 * one left it.
 * @throws ConfigError as {@link checkUse}; when another trainer has it
 */
export async function openRunFolder(out: string, use: RunFolderUse): Promise<CheckpointFolder> {
  const folder = await CheckpointFolder.open(out)
  try {
    await checkUse(out, use)
    const fresh = !use.resume || (await folder.steps()).length === 0
    // without a checkpoint a run starts anew, but over as many steps as it was to have
    if (fresh) await clear(out, (name) => !(use.resume && name === PLAN_FILE))
    return folder
  } catch (error) {
    await folder.close()
    throw error
  }
}

async function clear(out: string, which: (name: string) => boolean): Promise<void> {
  for (const name of await readdir(out)) {
    if (isOurs(name) && which(name)) await rm(join(out, name), { recursive: true })
  }
}

async function namesIn(out: string): Promise<string[]> {
  return (await readdir(out).catch(noFolder)) ?? []
}

function noFolder(error: NodeJS.ErrnoException): null {
  if (error.code === 'ENOENT') return null
  throw error
}
