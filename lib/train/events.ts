// What a run reports while it goes on.

export type TrainerEvent = StepEvent | EvalEvent | CheckpointEvent | SampleEvent | DoneEvent

export interface StepEvent {
  readonly type: 'step'
  /** Steps done, this one included. */
  readonly step: number
  readonly steps: number
  readonly epoch: number
  /** Mean over the targets of the step, in nats. */
  readonly loss: number
  readonly learningRate: number
  /** Before clipping. */
  readonly gradientNorm: number
  /** The update was left out: its gradients were no numbers. */
  readonly skipped: boolean
  readonly tokensPerSecond: number
  readonly secondsLeft: number
}

export interface EvalEvent {
  readonly type: 'eval'
  readonly step: number
  readonly loss: number
  readonly perplexity: number
  /** Targets judged. */
  readonly tokens: number
  /** The lowest loss so far. */
  readonly best: boolean
}

/** A checkpoint is on disk, whole. */
export interface CheckpointEvent {
  readonly type: 'checkpoint'
  readonly step: number
  readonly path: string
}

export interface SampleEvent {
  readonly type: 'sample'
  readonly step: number
  readonly prompt: string
  readonly text: string
}

export interface DoneEvent {
  readonly type: 'done'
  readonly step: number
  readonly reason: 'steps' | 'earlyStopping' | 'stopped'
  /** The lowest validation loss and its step, whose checkpoint `keepBest` keeps; null without evaluations. */
  readonly best: { readonly loss: number; readonly step: number } | null
  /** The step whose weights `out` and the model now hold: `finalModel` decides. The last one where it was stopped. */
  readonly finalStep: number
}

/**
 * Events on their way to whoever reads them, now or later. A step that nobody has read gives way to the
 * next; others never drop.
 */
export class EventQueue {
  readonly #events: TrainerEvent[] = []
  #wake: (() => void) | undefined
  #ended = false
  #error: unknown

  push(event: TrainerEvent): void {
    if (event.type === 'step' && this.#events.at(-1)?.type === 'step') this.#events.pop()
    this.#events.push(event)
    this.#wake?.()
  }

  end(error?: unknown): void {
    this.#ended = true
    this.#error = error
    this.#wake?.()
  }

  /** @throws what the run ended with */
  async next(): Promise<TrainerEvent | null> {
    for (;;) {
      const event = this.#events.shift()
      if (event !== undefined) return event
      if (this.#ended) {
        if (this.#error !== undefined) throw this.#error
        return null
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }
}
