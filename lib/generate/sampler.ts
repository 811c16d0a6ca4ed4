// The next token of each row from its logits.

import { copyInto } from '../ops/copy.ts'
import { tensor } from '../ops/create.ts'
import { sample } from '../ops/sample.ts'
import type { Device } from '../runtime/device.ts'
import { keep } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import type { GenerateSettings } from './options.ts'

export interface SampledRows {
  /** Tokens of each row so far. */
  readonly histories: readonly Int32Array[]
  /** Number of each row, on which its draws depend. */
  readonly rowNumbers: readonly number[]
  /** Tokens that a row may come to. */
  readonly capacity: number
  readonly device: Device
}

/** Draws tokens; remembers which ones each row has had, where a penalty wants to know. */
export class Sampler {
  readonly #settings: GenerateSettings
  readonly #rowNumbers: readonly number[]
  readonly #rows: number
  readonly #device: Device
  /** i32 [B, L]: prompts, then what was drawn; -1 where there is nothing yet. */
  readonly #history: Tensor | null
  #length: number

  constructor(settings: GenerateSettings, rows: SampledRows) {
    const { histories, rowNumbers, device } = rows
    this.#settings = settings
    this.#rowNumbers = rowNumbers
    this.#rows = histories.length
    this.#device = device
    this.#length = Math.max(...histories.map(({ length }) => length))
    if (settings.repetitionPenalty === 1) {
      this.#history = null
      return
    }
    const capacity = Math.min(rows.capacity, this.#length + settings.maxNewTokens)
    const values = new Int32Array(this.#rows * capacity).fill(-1)
    histories.forEach((ids, row) => {
      values.set(ids, row * capacity)
    })
    this.#history = keep(tensor(values, { dtype: 'i32', shape: [this.#rows, capacity], device }))
  }

  /** @param logits [B, V]; inside `noGrad` and a scope */
  draw(logits: Tensor, step: number): { readonly ids: Tensor; readonly logprobs: Tensor } {
    const { seed, temperature, topK, topP, minP, repetitionPenalty } = this.#settings
    // a row's draws depend on its seed and the step alone, so a batch draws as single ones do
    const words = this.#rowNumbers.flatMap((row) => [
      (seed + row) >>> 0,
      Math.floor((seed + row) / 2 ** 32),
      step,
      0,
    ])
    const key = tensor(words, { dtype: 'u32', shape: [this.#rows, 4], device: this.#device })
    const history = this.#history
    const drawn = sample(logits, key, { temperature, topK, topP, minP, repetitionPenalty, history })
    if (history !== null && this.#length < (history.shape[1] ?? 0)) {
      copyInto(history.slice(1, this.#length, this.#length + 1), drawn.ids.reshape([this.#rows, 1]))
      this.#length++
    }
    return drawn
  }

  dispose(): void {
    this.#history?.dispose()
  }
}
