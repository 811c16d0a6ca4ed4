// kill -9 at random moments, half of them aimed into a save: going on gives the bytes of a run that was never
// killed, and a log without gap or repeat. FUSELM_KILL_TIMES sets how often (default 6, half of them with an
// adapter), FUSELM_KILL_SIZE=large takes a model whose checkpoints have a quarter of a gigabyte.

import { fork } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { randomSource } from 'fuselm'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { completeCheckpoints } from '../../lib/io/checkpoints.ts'

const TIMES = Number(process.env['FUSELM_KILL_TIMES'] ?? 6)
const KINDS = process.env['FUSELM_KILL_SIZE'] === 'large' ? ['large'] : ['model', 'adapter']
const KILLS_OF_A_RUN = 3
const child = fileURLToPath(new URL('kill.child.mjs', import.meta.url))

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-kill-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

interface Message {
  readonly type: string
  readonly step?: number
}

/** When to kill: so long after training began, or after a save did (the n-th one of this life). */
type Aim = { readonly afterMs: number } | { readonly save: number; readonly afterMs: number } | null

interface Life {
  readonly finished: boolean
  /** Milliseconds that each save took, those of a run that is killed left out. */
  readonly saveMs: number[]
  readonly wholeMs: number
}

async function live(out: string, kind: string, aim: Aim): Promise<Life> {
  const process_ = fork(child, [out, kind], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] })
  let finished = false
  let saves = 0
  let saving: number | null = null
  let began = performance.now()
  const saveMs: number[] = []
  const kill = (afterMs: number): void => {
    void sleep(afterMs).then(() => process_.kill('SIGKILL'))
  }
  process_.on('message', ({ type }: Message) => {
    const now = performance.now()
    if (saving !== null && type === 'checkpoint') saveMs.push(now - saving)
    if (type === 'checkpoint' || type === 'saving') saving = type === 'saving' ? now : null
    if (type === 'started') {
      began = now
      if (aim !== null && !('save' in aim)) kill(aim.afterMs)
    }
    if (type === 'saving' && aim !== null && 'save' in aim && saves++ === aim.save) kill(aim.afterMs)
    if (type === 'done') finished = true
  })
  const code = await new Promise<number | null>((resolve) => process_.once('exit', resolve))
  if (aim === null) expect(code).toBe(0)
  return { finished, saveMs, wholeMs: performance.now() - began }
}

const weights = (out: string, kind: string): string =>
  createHash('sha256')
    .update(readFileSync(join(out, kind === 'adapter' ? 'adapter_model.safetensors' : 'model.safetensors')))
    .digest('hex')

function metrics(out: string): unknown[] {
  const lines = readFileSync(join(out, 'metrics.jsonl'), 'utf8').trimEnd().split('\n')
  return lines.map((line) => {
    const { tokensPerSecond, secondsLeft, path, ...rest } = JSON.parse(line)
    return rest
  })
}

/** What a kill left: part of a checkpoint, part of one that was being deleted, or neither. */
function partsIn(out: string): { writing: boolean; deleting: boolean } {
  const names = readdirSync(out)
  return {
    writing: names.some((name) => /^\.checkpoint-\d+\.\w+\.tmp$/.test(name)),
    deleting: names.some((name) => /^\.checkpoint-\d+\.\w+\.old$/.test(name)),
  }
}

test.each(KINDS)(
  '%s killed anywhere, resumed: byte for byte the run that was not',
  async (kind) => {
    const reference = join(folder, `${kind}-reference`)
    const { saveMs, wholeMs } = await live(reference, kind, null)
    const expected = { weights: weights(reference, kind), metrics: metrics(reference) }
    const oneSaveMs = saveMs.reduce((sum, ms) => sum + ms, 0) / saveMs.length
    const random = randomSource(20)
    const counts = { kills: 0, writing: 0, deleting: 0, neither: 0, fresh: 0 }
    for (let round = 0; counts.kills < TIMES / KINDS.length; round++) {
      const out = join(folder, `${kind}-${round}`)
      // those that were resumed are killed, too
      for (let k = 0; k < KILLS_OF_A_RUN && counts.kills < TIMES / KINDS.length; k++) {
        const aim =
          counts.kills % 2 === 0
            ? { save: Math.floor(random() * 2), afterMs: random() * oneSaveMs }
            : { afterMs: random() * wholeMs * 0.4 }
        if ((await live(out, kind, aim)).finished) break
        counts.kills++
        const { writing, deleting } = partsIn(out)
        counts[writing ? 'writing' : deleting ? 'deleting' : 'neither']++
        if ((await completeCheckpoints(out)).length === 0) counts.fresh++
      }
      expect((await live(out, kind, null)).finished).toBe(true)
      expect(weights(out, kind)).toBe(expected.weights)
      expect(metrics(out)).toEqual(expected.metrics)
      expect(readdirSync(out).filter((name) => name.startsWith('.'))).toEqual([])
      // and a second time, when there is nothing left to do
      expect((await live(out, kind, null)).finished).toBe(true)
      expect(weights(out, kind)).toBe(expected.weights)
      expect(metrics(out)).toEqual(expected.metrics)
      rmSync(out, { recursive: true })
    }
    expect(counts.writing).toBeGreaterThan(0)
    console.log(
      `killed ${counts.kills} times (${kind}; a save takes ${Math.round(oneSaveMs)} ms of a run of ${Math.round(wholeMs)}): ` +
        `${counts.writing} left a checkpoint half written, ${counts.deleting} one half deleted; ` +
        `${counts.fresh} before there was a whole one`,
    )
  },
  3_600_000,
)
