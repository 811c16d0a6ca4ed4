// A PyTorch process that trains when told to: one JSON line out per JSON line in.

import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process'
import { createInterface } from 'node:readline'

/** What a peer answers to `run`. */
export interface PeerRun {
  /** One per step. */
  readonly seconds: readonly number[]
  readonly losses: readonly number[]
  readonly peakRssBytes: number
}

export interface TorchPeerOptions {
  /** The program beside this file. */
  readonly program: string
  /** `--name value` pairs. */
  readonly arguments: Readonly<Record<string, string | number>>
}

/** The Python with PyTorch: FUSELM_PYTHON, else `python3`; null, with the reason, when there is none. */
export function findTorch(): { python: string } | { reason: string } {
  const python = process.env['FUSELM_PYTHON'] ?? 'python3'
  const found = spawnSync(python, ['-c', 'import torch'], { encoding: 'utf8' })
  if (found.error !== undefined) return { reason: `${python}: ${found.error.message}` }
  if (found.status !== 0) return { reason: `${python} has no torch` }
  return { python }
}

export class TorchPeer {
  readonly version: string
  readonly #process: ChildProcessWithoutNullStreams
  readonly #lines: AsyncIterator<string>

  private constructor(
    process: ChildProcessWithoutNullStreams,
    lines: AsyncIterator<string>,
    version: string,
  ) {
    this.#process = process
    this.#lines = lines
    this.version = version
  }

  static async start(python: string, options: TorchPeerOptions): Promise<TorchPeer> {
    const argv = Object.entries(options.arguments).flatMap(([k, v]) => [`--${k}`, String(v)])
    const child = spawn(python, [options.program, ...argv])
    const errors: Buffer[] = []
    child.stderr.on('data', (part: Buffer) => errors.push(part))
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    const first = await lines.next()
    if (first.done === true) {
      throw new Error(`${options.program} did not start: ${Buffer.concat(errors).toString()}`)
    }
    const { torch } = JSON.parse(first.value) as { torch: string }
    return new TorchPeer(child, lines, torch)
  }

  async run(steps: number): Promise<PeerRun> {
    this.#process.stdin.write(`${JSON.stringify({ run: steps })}\n`)
    const line = await this.#lines.next()
    if (line.done === true) throw new Error('the PyTorch peer ended early')
    return JSON.parse(line.value) as PeerRun
  }

  close(): void {
    this.#process.stdin.end()
    this.#process.kill()
  }
}
