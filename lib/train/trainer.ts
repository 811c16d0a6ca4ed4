// Training as one object: run it, read its events, stop it, go on with it another day.

import { CausalLm } from '../models/causal-lm.ts'
import { loadModelInto, saveModel } from '../models/folder.ts'
import { ConfigError } from '../runtime/errors.ts'
import { checkOptions, checkSignal, shown } from '../runtime/options.ts'
import { EventQueue, type TrainerEvent } from './events.ts'
import { completeOptions, type TrainerOptions, type TrainerSettings } from './options.ts'
import { Run } from './run.ts'
import { type Subject, subjectOf, type TrainTarget } from './subject.ts'

export interface TrainSummary {
  readonly steps: number
  readonly reason: 'steps' | 'earlyStopping' | 'stopped'
  /** Mean of the last step; null when no step was left to do. */
  readonly loss: number | null
  /** Of the last evaluation. */
  readonly perplexity: number | null
  /** The lowest validation loss of the run, and its step. */
  readonly best: { readonly loss: number; readonly step: number } | null
  /** The step whose weights `out` and the model now hold: the last, or by `finalModel` that of `best`. */
  readonly finalStep: number
}

/**
 * Trains a model: accumulation by tokens, schedule, clipping, evaluation, checkpoints that survive being
 * killed, exact resume. The event loop stays free; the run goes on whether or not its events are read.
 */
export class Trainer {
  readonly #subject: Subject
  readonly #settings: TrainerSettings
  readonly #now: () => number
  #running = false

  /**
   * @param clock now: milliseconds that `minutes` and speeds are measured by; the process's when left out
   * @throws ConfigError, ValueError naming the option
   */
  constructor(
    model: CausalLm | TrainTarget,
    options: TrainerOptions,
    { now = () => performance.now() }: { readonly now?: () => number } = {},
  ) {
    this.#settings = completeOptions(options)
    this.#now = now
    const target = model instanceof CausalLm ? plainTarget(model) : model
    if (!(target?.model instanceof CausalLm)) {
      throw new ConfigError(`Trainer: expected a model or a Decoder, received ${shown(model)}`)
    }
    const { adapter, samplePrompts, train, validation } = this.#settings
    if (samplePrompts.length > 0 && target.sample === undefined) {
      throw new ConfigError(
        'Trainer: samplePrompts needs a model with a tokenizer; give the Trainer a Decoder',
      )
    }
    const { maxPositionEmbeddings } = target.model.size
    const longest = Math.max(train.contextLength, validation?.contextLength ?? 0)
    if (longest > maxPositionEmbeddings) {
      throw new ConfigError(
        `Trainer: rows of ${longest} tokens do not fit the model, whose maxPositionEmbeddings is ${maxPositionEmbeddings}`,
      )
    }
    this.#subject = subjectOf(target, adapter)
  }

  /**
   * Starts, and gives the events as they come. Leaving the loop finishes the step and saves; so does an
   * abort, which then throws the signal's reason. An evaluation is left at once, and done by the run that
   * goes on.
   * @throws ConfigError for a folder in use; DivergedError; what the device or the file system throws
   */
  async *run(options: { signal?: AbortSignal } = {}): AsyncGenerator<TrainerEvent, void, void> {
    checkOptions('Trainer.run', options, ['signal'])
    const signal = checkSignal('Trainer.run', options.signal)
    this.#subject.model.checkAlive('Trainer.run')
    if (this.#running) throw new ConfigError('Trainer.run: this trainer runs already')
    signal?.throwIfAborted()
    this.#running = true
    const queue = new EventQueue()
    let run: Run
    let release: (() => void) | null = null
    try {
      release = this.#subject.begin()
      run = new Run(this.#subject, this.#settings, { emit: (event) => queue.push(event), now: this.#now })
    } catch (error) {
      release?.()
      this.#running = false
      throw error
    }
    const end = release
    const stop = (): void => run.stop()
    signal?.addEventListener('abort', stop, { once: true })
    const finished = run.run().finally(end)
    finished.then(
      () => queue.end(signal?.aborted ? signal.reason : undefined),
      (error) => queue.end(error),
    )
    try {
      for (let event = await queue.next(); event !== null; event = await queue.next()) yield event
    } finally {
      run.stop()
      signal?.removeEventListener('abort', stop)
      // throws also for whoever left the loop, when what was to be saved then could not be
      await finished.finally(() => {
        this.#running = false
      })
    }
  }

  /** Runs to the end. */
  async finish(options: { signal?: AbortSignal } = {}): Promise<TrainSummary> {
    let summary: TrainSummary = {
      steps: 0,
      reason: 'steps',
      loss: null,
      perplexity: null,
      best: null,
      finalStep: 0,
    }
    for await (const event of this.run(options)) {
      if (event.type === 'step') summary = { ...summary, steps: event.step, loss: event.loss }
      if (event.type === 'eval') summary = { ...summary, perplexity: event.perplexity }
      if (event.type === 'done') {
        const { step: steps, reason, best, finalStep } = event
        summary = { ...summary, steps, reason, best, finalStep }
      }
    }
    return summary
  }
}

function plainTarget(model: CausalLm): TrainTarget {
  return {
    model,
    save: (folder) => saveModel(model, folder),
    restore: (folder) => loadModelInto(model, folder),
  }
}
