// A process that works when told to, one JSON line out per JSON line in: PyTorch in Python, llama.cpp in
// Node.

import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { setPriority } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

export interface PeerOptions {
  /** Its path. */
  readonly program: string
  /** `--name value` pairs. */
  readonly arguments: Readonly<Record<string, string | number>>
  /** Level of ours; the libraries of PyTorch may use no more. */
  readonly isa: string
}

/** What caps the instructions of ATen, oneDNN and MKL (their documentation names these). */
const CAPS: Readonly<Record<string, readonly [aten: string, onednn: string, mkl: string]>> = {
  generic: ['default', 'SSE41', 'SSE4_2'],
  avx2: ['avx2', 'AVX2', 'AVX2'],
  avx512: ['avx512', 'AVX512_CORE_VNNI', 'AVX512'],
  avx512bf16: ['avx512', 'AVX512_CORE_BF16', 'AVX512'],
}

/** Our workers run this much nicer than their process; so do peers, lest other load favour them. */
const NICER = 5

/** The Python with PyTorch: FUSELM_PYTHON, else `python3`; null, with the reason, when there is none. */
export function findTorch(): { python: string } | { reason: string } {
  const python = process.env['FUSELM_PYTHON'] ?? 'python3'
  const found = spawnSync(python, ['-c', 'import torch'], { encoding: 'utf8' })
  if (found.error !== undefined) return { reason: `${python}: ${found.error.message}` }
  if (found.status !== 0) return { reason: `${python} has no torch` }
  return { python }
}

/** A folder where npm put node-llama-cpp: FUSELM_NODE_LLAMA_CPP; null, with the reason, when there is none. */
export function findLlamaCpp(): { folder: string } | { reason: string } {
  const folder = process.env['FUSELM_NODE_LLAMA_CPP'] ?? ''
  if (folder === '') return { reason: 'FUSELM_NODE_LLAMA_CPP does not name a folder with node-llama-cpp' }
  if (existsSync(join(folder, 'node_modules/node-llama-cpp'))) return { folder }
  return { reason: `${folder} has no node_modules/node-llama-cpp` }
}

export class Peer {
  /** What it says of itself when it is ready. */
  readonly version: string
  readonly #program: string
  readonly #process: ChildProcessWithoutNullStreams
  readonly #lines: AsyncIterator<string>
  readonly #errors: readonly Buffer[]

  private constructor(
    program: string,
    process: ChildProcessWithoutNullStreams,
    lines: AsyncIterator<string>,
    errors: readonly Buffer[],
    version: string,
  ) {
    this.#program = program
    this.#process = process
    this.#lines = lines
    this.#errors = errors
    this.version = version
  }

  static async start(command: string, options: PeerOptions): Promise<Peer> {
    const argv = Object.entries(options.arguments).flatMap(([k, v]) => [`--${k}`, String(v)])
    const [aten, onednn, mkl] = CAPS[options.isa] ?? []
    const child = spawn(command, [options.program, ...argv], {
      env: {
        ...process.env,
        ...(aten !== undefined && { ATEN_CPU_CAPABILITY: aten }),
        ...(onednn !== undefined && { ONEDNN_MAX_CPU_ISA: onednn }),
        ...(mkl !== undefined && { MKL_ENABLE_INSTRUCTIONS: mkl }),
      },
    })
    if (child.pid !== undefined) setPriority(child.pid, NICER)
    const errors: Buffer[] = []
    child.stderr.on('data', (part: Buffer) => errors.push(part))
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    const first = await lines.next()
    if (first.done === true) {
      throw new Error(`${options.program} did not start: ${Buffer.concat(errors).toString()}`)
    }
    const { version } = JSON.parse(first.value) as { version: string }
    return new Peer(options.program, child, lines, errors, version)
  }

  /** @throws Error with what the process said, when it ended or answered `{ error }` */
  async ask(command: unknown): Promise<Readonly<Record<string, unknown>>> {
    this.#process.stdin.write(`${JSON.stringify(command)}\n`)
    const line = await this.#lines.next()
    if (line.done === true) {
      throw new Error(`${this.#program} ended early: ${Buffer.concat([...this.#errors]).toString()}`)
    }
    const answer = JSON.parse(line.value) as Readonly<Record<string, unknown>>
    if (typeof answer['error'] === 'string') throw new Error(`${this.#program}: ${answer['error']}`)
    return answer
  }

  close(): void {
    this.#process.stdin.end()
    this.#process.kill()
  }
}
