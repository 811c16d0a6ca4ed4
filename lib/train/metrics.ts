// metrics.jsonl and TensorBoard: what a run says of itself, on disk.

import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { makeFolder } from '../io/atomic.ts'
import { TensorBoardWriter } from '../io/tensorboard.ts'
import { FormatError } from '../runtime/errors.ts'
import type { TrainerEvent } from './events.ts'
import { METRICS_FILE, TENSORBOARD_FOLDER } from './run-folder.ts'

/** TensorBoard's tags of an event. */
function scalarsOf(event: TrainerEvent): Record<string, number> | null {
  switch (event.type) {
    case 'step':
      return {
        'Loss/train': event.loss,
        'LR/train': event.learningRate,
        GradNorm: event.gradientNorm,
        'Throughput/tokens_per_s': event.tokensPerSecond,
      }
    case 'eval':
      return { 'Loss/eval': event.loss, 'Perplexity/eval': event.perplexity }
    default:
      return null
  }
}

/** One line per event, none twice: a run that goes on from a checkpoint cuts off what came after it. */
export class MetricsLog {
  readonly #file: FileHandle
  readonly #board: TensorBoardWriter
  #length: number
  #last: Promise<void> = Promise.resolve()

  private constructor(file: FileHandle, board: TensorBoardWriter, length: number) {
    this.#file = file
    this.#board = board
    this.#length = length
  }

  /**
   * @param length bytes of metrics.jsonl that the checkpoint knows of
   * @throws FormatError when the file has fewer
   */
  static async open(folder: string, { length, step }: { length: number; step: number }): Promise<MetricsLog> {
    const path = join(folder, METRICS_FILE)
    const boards = join(folder, TENSORBOARD_FOLDER)
    await makeFolder(boards)
    const file = await open(path, length === 0 ? 'w' : 'r+')
    try {
      const { size } = await file.stat()
      if (size < length) {
        throw new FormatError(
          `${path}: expected at least the ${length} bytes of the checkpoint, found ${size}`,
        )
      }
      await file.truncate(length)
      return new MetricsLog(file, await TensorBoardWriter.create(boards, { step }), length)
    } catch (error) {
      await file.close()
      throw error
    }
  }

  write(event: TrainerEvent): void {
    const bytes = new TextEncoder().encode(`${JSON.stringify(event)}\n`)
    const at = this.#length
    this.#length += bytes.length
    this.#last = this.#last.then(async () => {
      for (let done = 0; done < bytes.length; ) {
        done += (await this.#file.write(bytes, done, bytes.length - done, at + done)).bytesWritten
      }
    })
    this.#last.catch(() => undefined) // it is thrown by flush
    const scalars = scalarsOf(event)
    if (scalars !== null) this.#board.scalars(event.step, scalars)
  }

  /** Makes all written durable; the bytes of metrics.jsonl so far. */
  async flush(): Promise<number> {
    const length = this.#length
    await this.#last
    await this.#file.sync()
    await this.#board.flush()
    return length
  }

  async close(): Promise<void> {
    try {
      await this.flush()
    } finally {
      await this.#file.close()
      await this.#board.close()
    }
  }
}
