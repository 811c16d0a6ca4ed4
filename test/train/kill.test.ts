// kill -9 at random moments, about half of them during a save: going on gives the bytes of a run that was
// never killed, and a log without gap or repeat. FUSELM_KILL_TIMES sets how often (default 6, half of them with an adapter).

import { fork } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { randomSource } from 'fuselm'
import { afterAll, beforeAll, expect, test } from 'vitest'

const TIMES = Number(process.env['FUSELM_KILL_TIMES'] ?? 6)
const child = fileURLToPath(new URL('kill.child.mjs', import.meta.url))

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-kill-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Runs until the end, or kills it so many milliseconds after training began. */
async function run(out: string, what: string, killAfterMs: number | null): Promise<'finished' | 'killed'> {
  const process_ = fork(child, [out, what], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] })
  let finished = false
  const ended = new Promise<number | null>((resolve) => process_.once('exit', (code) => resolve(code)))
  const started = new Promise<void>((resolve) => {
    process_.on('message', (message) => {
      if (message === 'started') resolve()
      if (message === 'finished') finished = true
    })
  })
  if (killAfterMs !== null) {
    await Promise.race([started, ended])
    await Promise.race([sleep(killAfterMs), ended])
    process_.kill('SIGKILL')
  }
  const code = await ended
  if (killAfterMs === null) expect(code).toBe(0)
  return finished ? 'finished' : 'killed'
}

const weights = (out: string, what: string): string =>
  readFileSync(join(out, what === 'model' ? 'model.safetensors' : 'adapter_model.safetensors')).toString(
    'base64',
  )

function metrics(out: string): unknown[] {
  const lines = readFileSync(join(out, 'metrics.jsonl'), 'utf8').trimEnd().split('\n')
  return lines.map((line) => {
    const { tokensPerSecond, secondsLeft, path, ...rest } = JSON.parse(line)
    return rest
  })
}

test.each(['model', 'adapter'])(
  '%s killed anywhere, resumed: byte for byte the run that was not',
  async (what) => {
    const reference = join(folder, `${what}-reference`)
    const began = performance.now()
    await run(reference, what, null)
    const wholeMs = performance.now() - began
    const random = randomSource(20)
    let kills = 0
    let inSave = 0
    for (let round = 0; kills < TIMES / 2; round++) {
      const out = join(folder, `${what}-${round}`)
      // a few kills in each run: also those that were resumed are killed
      for (let k = 0; k < 3 && kills < TIMES / 2; k++) {
        if ((await run(out, what, random() * wholeMs * 0.4)) === 'finished') break
        kills++
        if (readdirSync(out, { recursive: true }).some((name) => String(name).includes('.tmp'))) inSave++
      }
      expect(await run(out, what, null)).toBe('finished')
      expect(weights(out, what)).toBe(weights(reference, what))
      expect(metrics(out)).toEqual(metrics(reference))
      expect(readdirSync(out).filter((name) => name.startsWith('.'))).toEqual([])
    }
    console.log(`killed ${kills} times, ${inSave} of them during a save`)
  },
  600_000,
)
