// Stop texts in a stream: what may be the beginning of one is held back until it is known not to be.

/** Length of the longest end of `text` that begins a stop text. */
function openLength(text: string, stops: readonly string[]): number {
  let longest = 0
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(stop.slice(0, length))) {
        longest = length
        break
      }
    }
  }
  return longest
}

export class StopFilter {
  readonly #stops: readonly string[]
  #held = ''
  #stopped = false

  constructor(stops: readonly string[]) {
    this.#stops = stops
  }

  /** A stop text was met: nothing more comes. */
  get stopped(): boolean {
    return this.#stopped
  }

  /** What of the text so far is certain. */
  push(text: string): string {
    if (this.#stopped) return ''
    const all = this.#held + text
    let end = -1
    for (const stop of this.#stops) {
      const at = all.indexOf(stop)
      if (at >= 0 && (end < 0 || at < end)) end = at
    }
    if (end >= 0) {
      this.#stopped = true
      this.#held = ''
      return all.slice(0, end)
    }
    const open = openLength(all, this.#stops)
    this.#held = all.slice(all.length - open)
    return all.slice(0, all.length - open)
  }

  /** What was held back, when the text ends here. */
  end(): string {
    const rest = this.#held
    this.#held = ''
    return rest
  }
}
