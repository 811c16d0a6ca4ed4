// What makes two runs the same one: everything that decides numbers, as plain data, kept in a checkpoint and
// compared when it is taken up again.

import { createHash } from 'node:crypto'
import { ConfigError } from '../runtime/errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { TrainerSettings } from './options.ts'
import type { Subject } from './subject.ts'

/** By name, nested ones as `model.hiddenSize`; values as JSON has them. */
export type Identity = Readonly<Record<string, unknown>>

/** `{ a: { b: 1 } }` as `{ 'a.b': 1 }`, each value as it would come back from a file. */
export function flatten(value: Readonly<Record<string, unknown>>): Identity {
  const flat: Record<string, unknown> = {}
  const visit = (name: string, part: unknown): void => {
    if (typeof part === 'object' && part !== null && !Array.isArray(part)) {
      for (const [key, inner] of Object.entries(part)) visit(name === '' ? key : `${name}.${key}`, inner)
    } else if (part !== undefined) flat[name] = part
  }
  visit('', JSON.parse(JSON.stringify(value)))
  return flat
}

/** When a run is looked at; it decides no weight, but where evaluations may end the run. */
const LOOKING = ['evalEvery', 'evalOnStart', 'keepBest']

/** Names of an identity that whoever goes on may say anew, besides steps and epochs. */
export function mayChange({ earlyStopping }: Pick<TrainerSettings, 'earlyStopping'>): readonly string[] {
  return earlyStopping === null ? LOOKING : []
}

/**
 * @param trained what the optimizer updates, by name
 * @throws ConfigError when the run's own identity has a name of the Trainer's
 */
export async function identityOf(
  settings: TrainerSettings,
  { model, identity: ofSubject }: Pick<Subject, 'model' | 'identity'>,
  trained: ReadonlyMap<string, Tensor>,
): Promise<Identity> {
  const { train, validation, optimizer, schedule, identity } = settings
  const names = createHash('sha256')
  for (const [name, { shape, dtype }] of trained) names.update(`${name} ${dtype} [${shape}]\n`)
  const own = flatten({
    model: { type: model.modelType, ...model.config },
    ...ofSubject,
    trained: `${trained.size} tensors, ${names.digest('hex').slice(0, 12)}`,
    train: await train.identity(),
    validation: validation === null ? null : await validation.identity(),
    batchSize: settings.batchSize,
    accumulate: settings.accumulate,
    ...optimizer,
    ...schedule,
    clipNorm: settings.clipNorm,
    dropout: settings.dropout,
    seed: settings.seed,
    minutes: settings.minutes,
    evalEvery: settings.evalEvery,
    evalRows: settings.evalRows,
    evalOnStart: settings.evalOnStart,
    keepBest: settings.keepBest,
    patience: settings.earlyStopping?.patience ?? null,
  })
  const given = flatten(identity)
  for (const name of Object.keys(given)) {
    if (Object.hasOwn(own, name))
      throw new ConfigError(`Trainer: identity: ${name} is the Trainer's own name`)
  }
  return { ...given, ...own }
}

/**
 * What differs, in words, by name: `seed was 0 and is 3`.
 * @param free names that may differ
 */
export function differences(saved: Identity, now: Identity, free: readonly string[] = []): string[] {
  const shown = (value: unknown): string => JSON.stringify(value) ?? 'not given'
  return [...new Set([...Object.keys(saved), ...Object.keys(now)])]
    .filter((name) => !free.includes(name) && JSON.stringify(saved[name]) !== JSON.stringify(now[name]))
    .map((name) => `${name} was ${shown(saved[name])} and is ${shown(now[name])}`)
}

/**
 * Names what differs between the run that was saved and the one that would go on.
 * @throws ConfigError
 */
export function checkSameRun(saved: Identity, now: Identity, free: readonly string[]): void {
  const found = differences(saved, now, free)
  if (found.length === 0) return
  throw new ConfigError(
    `Trainer: the run in this folder had other options: ${found.join('; ')}. Only steps and epochs may grow.`,
  )
}
