// A run on a terminal: one line that writes itself over and over; in a log file, a line now and then.

import type { TrainerEvent } from './events.ts'

const LOG_EVERY_MS = 10_000

function left(seconds: number): string {
  if (!Number.isFinite(seconds)) return ''
  const minutes = Math.floor(seconds / 60)
  const hours = Math.floor(minutes / 60)
  if (hours > 0) return `${hours} h ${minutes % 60} min left`
  return minutes > 0 ? `${minutes} min ${Math.floor(seconds % 60)} s left` : `${Math.ceil(seconds)} s left`
}

/** The text of an event; null for those that have none. */
export function lineOf(event: TrainerEvent): string {
  switch (event.type) {
    case 'step': {
      const total = event.steps > 0 ? `/${event.steps}` : ''
      return [
        `step ${event.step}${total}`,
        `loss ${event.loss.toFixed(4)}`,
        `lr ${event.learningRate.toExponential(2)}`,
        `grad norm ${event.gradientNorm.toFixed(2)}${event.skipped ? ' (skipped)' : ''}`,
        `${Math.round(event.tokensPerSecond).toLocaleString('en')} tok/s`,
        event.steps > 0 ? left(event.secondsLeft) : 'measuring speed',
      ].join('  ')
    }
    case 'eval':
      return `step ${event.step}: held-out loss ${event.loss.toFixed(4)}, perplexity ${event.perplexity.toFixed(2)}${event.best ? ', the lowest so far' : ''}`
    case 'checkpoint':
      return `step ${event.step}: saved ${event.path}`
    case 'sample':
      return `step ${event.step}: ${JSON.stringify(event.prompt)} -> ${JSON.stringify(event.text)}`
    case 'done': {
      const { step, reason, best, finalStep } = event
      const why = reason === 'steps' ? '' : `, ${reason}`
      const lowest =
        best === null || best.step === step
          ? ''
          : `; the held-out loss was lowest at step ${best.step} (${best.loss.toFixed(4)})` +
            (finalStep === best.step ? ', whose weights these are' : '')
      return `done: ${step} steps${why}${lowest}`
    }
  }
  return event satisfies never
}

export interface ProgressOutput {
  readonly isTTY?: boolean | undefined
  readonly columns?: number | undefined
  write(text: string): unknown
}

/** Writes events; on a terminal the line of the current step stays at the bottom. */
export class Progress {
  readonly #out: ProgressOutput
  readonly #now: () => number
  #logged = Number.NEGATIVE_INFINITY
  #open = false

  constructor(out: ProgressOutput, now: () => number = () => performance.now()) {
    this.#out = out
    this.#now = now
  }

  show(event: TrainerEvent): void {
    const line = lineOf(event)
    if (event.type !== 'step') {
      this.#out.write(`${this.#open ? '\r\x1b[K' : ''}${line}\n`)
      this.#open = false
      return
    }
    if (this.#out.isTTY) {
      // a line that wraps could not be written over
      this.#out.write(`\r\x1b[K${line.slice(0, (this.#out.columns ?? 120) - 1)}`)
      this.#open = true
      return
    }
    const now = this.#now()
    if (now - this.#logged < LOG_EVERY_MS && event.step !== event.steps) return
    this.#logged = now
    this.#out.write(`${line}\n`)
  }

  end(): void {
    if (this.#open) this.#out.write('\n')
    this.#open = false
  }
}
