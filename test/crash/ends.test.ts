// The five ways a process can end, at random moments while commands are queued.
//   npm run test:crash -- --times 50        FUSELM_CRASH_WORKLOAD=path.mjs   FUSELM_CRASH_SEED=n
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'

const times = Number(process.env['FUSELM_CRASH_TIMES'] ?? 3)
/** Against hanging: work that was queued would take longer. Sanitizers state their own limit. */
const limitMs = Number(process.env['FUSELM_CRASH_LIMIT_MS'] ?? 5000)
/** Of the children, which leave their files when they end. */
const temporary = mkdtempSync(join(tmpdir(), 'fuselm-crash-'))
afterAll(() => rmSync(temporary, { recursive: true, force: true }))
const seed = Number(process.env['FUSELM_CRASH_SEED'] ?? Date.now() % 2 ** 31)
const folder = fileURLToPath(new URL('.', import.meta.url))
const child = `${folder}child.mjs`
const chosen = process.env['FUSELM_CRASH_WORKLOAD']
const workloads = chosen
  ? [pathToFileURL(chosen).href]
  : readdirSync(`${folder}workloads`).map((name) => pathToFileURL(`${folder}workloads/${name}`).href)

interface Ending {
  code: number | null
  signal: NodeJS.Signals | null
  /** From the moment the child began to end. */
  ms: number
  stderr: string
}

const expected: Record<string, { code: number | null; signal: NodeJS.Signals | null; stderr: RegExp }> = {
  return: { code: 0, signal: null, stderr: /^$/ },
  exit: { code: 7, signal: null, stderr: /^$/ },
  throw: { code: 1, signal: null, stderr: /Error: thrown on purpose/ },
  sigterm: { code: null, signal: 'SIGTERM', stderr: /^$/ },
  terminate: { code: 0, signal: null, stderr: /^$/ },
}

function run(workload: string, end: string, delay: number): Promise<Ending> {
  return new Promise((resolve, reject) => {
    const process_ = spawn(process.execPath, [child, workload, end, String(delay)], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, TMPDIR: temporary },
    })
    let began = Number.NaN
    let stderr = ''
    process_.stdout.on('data', () => {
      if (Number.isNaN(began)) began = performance.now()
    })
    process_.stderr.on('data', (data) => {
      stderr += data
    })
    process_.once('error', reject)
    process_.once('close', (code, signal) => resolve({ code, signal, ms: performance.now() - began, stderr }))
  })
}

/** Seeded, so that a failing moment can be tried again. */
function random(state: number): () => number {
  let s = state | 0 || 1
  return () => {
    s ^= s << 13
    s ^= s >>> 17
    s ^= s << 5
    return (s >>> 0) / 2 ** 32
  }
}

if (!existsSync(`${folder}../../dist/index.js`)) throw new Error('run `npm run build` first')

for (const workload of workloads) {
  describe(workload.slice(workload.lastIndexOf('/') + 1), () => {
    for (const [end, want] of Object.entries(expected)) {
      test(`${end}, ${times} times`, { timeout: 20_000 + times * 5000 }, async () => {
        const next = random(seed)
        for (let i = 0; i < times; i++) {
          const delay = Math.floor(next() * 250)
          const { code, signal, ms, stderr } = await run(workload, end, delay)
          const where = `seed ${seed}, run ${i}, ${delay} ms in\n${stderr}`
          expect({ code, signal }, where).toEqual({ code: want.code, signal: want.signal })
          expect(stderr, where).toMatch(want.stderr)
          expect(ms, `${where} took ${ms} ms to end`).toBeLessThan(limitMs)
        }
      })
    }
  })
}
