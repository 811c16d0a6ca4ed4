// A run from its first step, or the one it left off at, to its end. JavaScript only enqueues: while step N
// runs, the numbers of step N-1 come up.

import { join } from 'node:path'
import type { Batch } from '../data/rows.ts'
import { writeAtomic } from '../io/atomic.ts'
import type { CheckpointFolder } from '../io/checkpoints.ts'
import { ifThere, readJsonObject } from '../io/small-file.ts'
import { DropoutKeys } from '../nn/dropout.ts'
import { AdamW } from '../optim/adam-w.ts'
import { schedule } from '../optim/schedule.ts'
import { ConfigError, DivergedError } from '../runtime/errors.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { DoneEvent, TrainerEvent } from './events.ts'
import { allFinite } from './finite.ts'
import { checkSameRun, differences, type Identity, identityOf, mayChange } from './identity.ts'
import { MetricsLog } from './metrics.ts'
import { defaultWarmup, MEASURED_STEPS, stepsBetween, type TrainerSettings } from './options.ts'
import { openRunFolder, PLAN_FILE } from './run-folder.ts'
import { loadOptimizer, loadState, type Owed, type RunState, saveState } from './state.ts'
import { type Evaluation, enqueueStep, evaluate, type StepValues } from './step.ts'
import type { Subject } from './subject.ts'

const FRESH = { metricsLength: 0, finished: false }

interface Pending {
  readonly step: number
  readonly learningRate: number
  readonly tokens: number
  readonly values: Promise<StepValues>
}

export class Run {
  readonly #subject: Subject
  readonly #settings: TrainerSettings
  readonly #emit: (event: TrainerEvent) => void
  readonly #now: () => number
  readonly #optimizer: AdamW
  readonly #trained: ReadonlyMap<string, Tensor>
  #identity: Identity = {}
  #steps: number
  #step = 0
  #best: RunState['best'] = null
  #evaluationsSinceBest = 0
  #skippedInRow = 0
  /** Of the step done last. */
  #owed: Owed | null = null
  readonly #stop = new AbortController()
  #lastDone = 0
  #speed = 0

  /** @param options now: milliseconds */
  constructor(
    subject: Subject,
    settings: TrainerSettings,
    { emit, now }: { readonly emit: (event: TrainerEvent) => void; readonly now: () => number },
  ) {
    const trainable = [...subject.parameters()].filter(([, { requiresGrad }]) => requiresGrad)
    if (trainable.length === 0) throw new ConfigError(`Trainer: nothing in the ${subject.kind} is trainable`)
    const { learningRate, weightDecay, betas, eps } = settings.optimizer
    const { clipNorm } = settings
    this.#subject = subject
    this.#settings = settings
    this.#emit = emit
    this.#now = now
    this.#optimizer = new AdamW({ parameters: trainable, learningRate, weightDecay, betas, eps, clipNorm })
    this.#trained = new Map(trainable)
    this.#steps = settings.steps ?? 0
  }

  /**
   * Ends after the step that runs, with a checkpoint; an evaluation is left at once, for the run that goes on
   * to do.
   */
  stop(): void {
    this.#stop.abort()
  }

  get #stopping(): boolean {
    return this.#stop.signal.aborted
  }

  async run(): Promise<void> {
    try {
      const { out, resume, overwrite } = this.#settings
      this.#identity = await identityOf(this.#settings, this.#subject, this.#trained)
      const folder = await openRunFolder(out, { resume, overwrite })
      try {
        await this.#runIn(folder)
      } finally {
        await folder.close()
      }
    } finally {
      this.#optimizer.dispose()
    }
  }

  async #runIn(folder: CheckpointFolder): Promise<void> {
    const { out, resume } = this.#settings
    const { metricsLength, finished } = resume ? await this.#resume(folder) : FRESH
    await this.#plan()
    const log = await MetricsLog.open(out, { length: metricsLength, step: this.#step })
    try {
      // a run killed between its last checkpoint and its end has its end still before it
      if (finished) await this.#end(folder, log, this.#step < this.#steps ? 'earlyStopping' : 'steps')
      else await this.#loop(folder, log)
    } finally {
      await log.close()
    }
  }

  /** Takes up the newest complete checkpoint, if there is one. */
  async #resume(folder: CheckpointFolder): Promise<typeof FRESH> {
    const newest = (await folder.steps()).at(-1)
    if (newest === undefined) return FRESH
    const from = folder.folderOf(newest)
    const state = await loadState(from)
    checkSameRun(state.settings, this.#identity, mayChange(this.#settings))
    if (this.#settings.minutes !== null) this.#steps = state.maxSteps
    if (this.#steps < state.maxSteps) {
      throw new ConfigError(
        `Trainer: the run in ${folder.path} was to take ${state.maxSteps} steps and is to take ${this.#steps}: steps and epochs may only grow`,
      )
    }
    const { best } = state
    if (this.#settings.finalModel === 'best' && best && !(await folder.steps()).includes(best.step)) {
      throw new ConfigError(
        `Trainer: finalModel 'best' needs the checkpoint of step ${best.step}, whose validation loss is the lowest, ` +
          `and ${folder.path} has it no more; go on with 'last', and with keepBest from the start another time`,
      )
    }
    await this.#subject.restore(from)
    await loadOptimizer(from, this.#optimizer)
    this.#step = state.globalStep
    this.#best = best
    this.#evaluationsSinceBest = state.evaluationsSinceBest
    this.#skippedInRow = state.skippedInRow
    this.#owed = state.owed
    const finished = state.finished && this.#steps === state.maxSteps
    return { metricsLength: state.metricsLength, finished }
  }

  /** With `minutes`: the number of steps that an earlier process fixed. */
  async #plan(): Promise<void> {
    if (this.#steps > 0) return
    const path = join(this.#settings.out, PLAN_FILE)
    const plan = await ifThere(readJsonObject(path))
    if (plan === null) return
    const free = mayChange(this.#settings)
    const same = differences((plan['settings'] ?? {}) as Identity, this.#identity, free).length === 0
    if (same && Number.isInteger(plan['steps'])) this.#steps = plan['steps'] as number
  }

  async #loop(folder: CheckpointFolder, log: MetricsLog): Promise<void> {
    const settings = this.#settings
    const { evalEvery, saveEvery, dropout: p, seed, recompute } = settings
    const keys = new DropoutKeys({ seed })
    const emit = (event: TrainerEvent): void => {
      log.write(event)
      this.#emit(event)
    }
    let rate = this.#rate()
    let next = this.#read(this.#step)
    let pending: Pending | null = null
    let evaluationMs = 0
    if (settings.evalOnStart && this.#step === 0) {
      const before = this.#now()
      if (await this.#evaluate(emit)) await this.#showSamples(emit)
      evaluationMs = this.#now() - before
    }
    const firstStep = this.#step
    let reason = this.#owed === null ? null : await this.#afterStep(folder, log, { emit, saved: true })
    const started = this.#now()
    this.#lastDone = started

    while (reason === null && (this.#steps === 0 || this.#step < this.#steps)) {
      if (this.#stopping && this.#step === firstStep) {
        // before the first step there is nothing that the folder does not hold already
        reason = 'stopped'
        break
      }
      const batches = await next
      next = this.#read(this.#step + 1)
      keys.begin(this.#step)
      const now = rate(this.#step)
      this.#optimizer.learningRate = now
      const { values } = await enqueueStep({
        model: this.#subject.model,
        adapter: this.#subject.training(keys),
        optimizer: this.#optimizer,
        batches,
        dropout: p > 0 ? { p, keys } : null,
        recompute,
      })
      const tokens = batches.reduce((sum, { ids }) => sum + ids.length, 0)
      const enqueued = { step: this.#step, learningRate: now, tokens, values }
      if (pending !== null) await this.#report(pending, emit)
      pending = enqueued
      this.#step++

      if (this.#steps === 0 && this.#step === MEASURED_STEPS) {
        await this.#report(pending, emit)
        pending = null
        await this.#fixSteps((this.#now() - started) / (this.#step - firstStep), evaluationMs)
        rate = this.#rate()
      }
      const ending = this.#step === this.#steps || this.#stopping
      if (!(ending || this.#due(evalEvery) || this.#due(saveEvery))) continue

      if (pending !== null) await this.#report(pending, emit)
      pending = null
      reason = await this.#afterStep(folder, log, { emit, saved: false })
      this.#lastDone = this.#now()
    }
    next.catch(() => undefined) // read ahead for nothing
    await this.#end(folder, log, reason ?? 'steps')
  }

  /** Whether what is asked for every so many steps comes after this one. */
  #due(every: number): boolean {
    if (every === 0 || (every < 1 && this.#steps === 0)) return false
    return this.#step % stepsBetween(every, this.#steps) === 0
  }

  /**
   * Evaluates and saves where that is due after a step whose numbers were reported.
   * @param options saved: there is a checkpoint of the step, from which the run went on
   * @returns why the run ends here; null where it goes on
   */
  async #afterStep(
    folder: CheckpointFolder,
    log: MetricsLog,
    { emit, saved }: { readonly emit: (event: TrainerEvent) => void; readonly saved: boolean },
  ): Promise<DoneEvent['reason'] | null> {
    const { evalEvery, saveEvery, validation, keepBest, earlyStopping } = this.#settings
    const last = this.#step === this.#steps
    const evaluates = validation !== null && (last || this.#due(evalEvery))
    // steps may have grown, so that what was owed is no longer due
    this.#owed = evaluates ? (this.#owed ?? 'evaluation') : null
    if (this.#owed === 'evaluation' && (await this.#evaluate(emit))) this.#owed = 'samples'
    if (this.#owed === 'samples' && (await this.#showSamples(emit))) this.#owed = null
    const improved = evaluates && this.#owed !== 'evaluation' && this.#best?.step === this.#step
    const patience = earlyStopping?.patience ?? Number.POSITIVE_INFINITY

    let reason: DoneEvent['reason'] | null = null
    if (this.#owed !== null) reason = 'stopped'
    else if (last) reason = 'steps'
    else if (evaluates && this.#evaluationsSinceBest >= patience) reason = 'earlyStopping'
    else if (this.#stopping) reason = 'stopped'
    if (!saved && (reason !== null || this.#due(saveEvery) || (improved && keepBest))) {
      await this.#save(folder, log, reason === 'steps' || reason === 'earlyStopping')
    }
    return reason
  }

  async #end(folder: CheckpointFolder, log: MetricsLog, reason: DoneEvent['reason']): Promise<void> {
    const [step, best] = [this.#step, this.#best]
    let finalStep = step
    if (reason !== 'stopped') {
      if (this.#settings.finalModel === 'best' && best !== null && best.step !== step) {
        await this.#subject.restore(folder.folderOf(best.step))
        await this.#subject.publish()
        finalStep = best.step
      }
      await this.#subject.save(this.#settings.out)
    }
    const done = { type: 'done', step, reason, best, finalStep } as const
    log.write(done)
    this.#emit(done)
  }

  /** Learning rate by step; while `minutes` are measured only the warm-up is asked for. */
  #rate(): (step: number) => number {
    const { schedule: shape, minutes, optimizer } = this.#settings
    const warmup = shape.warmup ?? defaultWarmup(minutes === null ? this.#steps : null)
    const steps = Math.max(this.#steps, MEASURED_STEPS)
    return schedule({ ...shape, learningRate: optimizer.learningRate, steps, warmup })
  }

  #read(step: number): Promise<Batch[]> {
    const { train, batchSize, accumulate } = this.#settings
    const rows = step * accumulate * batchSize
    const batches = Promise.all(
      Array.from({ length: accumulate }, (_, i) => train.batch(rows + i * batchSize, batchSize)),
    )
    batches.catch(() => undefined) // it is thrown where the step awaits it
    return batches
  }

  async #report(
    { step, learningRate, tokens, values }: Pending,
    emit: (event: TrainerEvent) => void,
  ): Promise<void> {
    const { loss, gradientNorm } = await values
    const now = this.#now()
    const speed = tokens / ((now - this.#lastDone) / 1000)
    // the mean of about the last ten steps
    this.#speed = this.#speed === 0 ? speed : 0.9 * this.#speed + 0.1 * speed
    this.#lastDone = now
    const skipped = !Number.isFinite(gradientNorm)
    this.#skippedInRow = skipped ? this.#skippedInRow + 1 : 0
    const { train, batchSize, accumulate, maxSkipped } = this.#settings
    emit({
      type: 'step',
      step: step + 1,
      steps: this.#steps,
      epoch: ((step + 1) * batchSize * accumulate) / train.rows,
      loss,
      learningRate,
      gradientNorm,
      skipped,
      tokensPerSecond: this.#speed,
      secondsLeft: (Math.max(0, this.#steps - step - 1) * tokens) / this.#speed,
    })
    if (this.#skippedInRow >= maxSkipped) {
      throw new DivergedError(
        `Trainer: step ${step + 1}: ${maxSkipped} steps in a row had gradients that are no numbers (loss ${loss}); ` +
          'the weights are those before them. Lower the learning rate, or look at the data of these steps.',
      )
    }
  }

  async #fixSteps(stepMs: number, evaluationMs: number): Promise<void> {
    const { minutes, out, evalEvery } = this.#settings
    // a share asks for a number of evaluations, a number of steps makes each step that much longer
    const fixedMs = evaluationMs * (evalEvery > 0 && evalEvery < 1 ? 1 + Math.round(1 / evalEvery) : 2)
    const perStepMs = stepMs + (evalEvery >= 1 ? evaluationMs / evalEvery : 0)
    const steps = Math.floor(((minutes ?? 0) * 60_000 - fixedMs) / perStepMs)
    this.#steps = Math.max(MEASURED_STEPS, steps)
    const plan = new TextEncoder().encode(
      `${JSON.stringify({ steps: this.#steps, settings: this.#identity })}\n`,
    )
    await writeAtomic(join(out, PLAN_FILE), (write) => write(plan))
  }

  /** @returns false when a stop cut it short: then it was none */
  async #evaluate(emit: (event: TrainerEvent) => void): Promise<boolean> {
    const { validation, batchSize, evalRows } = this.#settings
    if (validation === null) return true
    const { signal } = this.#stop
    const step = this.#step
    const { model, judged: adapter } = this.#subject
    const rows = validation.once(batchSize, { maxRows: evalRows })
    let evaluation: Evaluation
    try {
      evaluation = await evaluate(model, rows, { adapter, signal })
    } catch (error) {
      if (signal.aborted && error === signal.reason) return false
      throw error
    }
    const { loss, perplexity, tokens } = evaluation
    // before the first step there is no checkpoint that could be the best
    const best = step > 0 && Number.isFinite(loss) && (this.#best === null || loss < this.#best.loss)
    if (best) this.#best = { loss, step }
    if (step > 0) this.#evaluationsSinceBest = best ? 0 : this.#evaluationsSinceBest + 1
    emit({ type: 'eval', step, loss, perplexity, tokens, best })
    return true
  }

  /** @returns false when a stop cut it short: then none was shown */
  async #showSamples(emit: (event: TrainerEvent) => void): Promise<boolean> {
    const { samplePrompts } = this.#settings
    if (samplePrompts.length === 0) return true
    const { signal } = this.#stop
    await this.#subject.publish()
    const shown: TrainerEvent[] = []
    for (const prompt of samplePrompts) {
      try {
        const text = await this.#subject.sample(prompt, signal)
        if (text !== undefined) shown.push({ type: 'sample', step: this.#step, prompt, text })
      } catch (error) {
        if (!signal.aborted) throw error
      }
      if (signal.aborted) return false
    }
    for (const event of shown) emit(event)
    return true
  }

  /**
   * A state that is no numbers is of no use, and saving it would make room by deleting one that is.
   * @throws DivergedError naming the checkpoint to go back to
   */
  async #refuseBadState(folder: CheckpointFolder): Promise<void> {
    const trained = this.#trained.values()
    const state = [...trained, ...this.#optimizer.stateDict().values()]
    if (await allFinite(state)) return
    const newest = (await folder.steps()).at(-1)
    const left =
      newest === undefined ? 'there is no checkpoint' : `the newest checkpoint is ${folder.folderOf(newest)}`
    throw new DivergedError(
      `Trainer: step ${this.#step}: weights or moments are no finite numbers, so they are not saved; ${left}. ` +
        'Lower the learning rate.',
    )
  }

  async #save(folder: CheckpointFolder, log: MetricsLog, finished: boolean): Promise<void> {
    const step = this.#step
    const { train, batchSize, accumulate, keepLast, keepBest } = this.#settings
    await this.#refuseBadState(folder)
    // its own line comes before the length that the checkpoint remembers
    const event = { type: 'checkpoint', step, path: folder.folderOf(step) } as const
    log.write(event)
    const metricsLength = await log.flush()
    await folder.save(step, async (path) => {
      await this.#subject.save(path)
      await saveState(path, this.#optimizer, {
        globalStep: step,
        maxSteps: this.#steps,
        epoch: (step * batchSize * accumulate) / train.rows,
        best: this.#best,
        evaluationsSinceBest: this.#evaluationsSinceBest,
        skippedInRow: this.#skippedInRow,
        metricsLength,
        finished,
        owed: this.#owed,
        settings: this.#identity,
      })
    })
    await this.#subject.publish()
    this.#emit(event)
    const steps = await folder.steps()
    const kept = new Set(steps.slice(-keepLast))
    if (keepBest && this.#best !== null) kept.add(this.#best.step)
    for (const old of steps) if (!kept.has(old)) await folder.remove(old)
  }
}
