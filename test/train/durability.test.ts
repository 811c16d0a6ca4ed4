// A checkpoint folder on a disk that fails, and under a process that is killed, at every single call.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { cp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { saveTensors, tensor } from 'fuselm'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { makeFolder, writeAtomic } from '../../lib/io/atomic.ts'
import { CheckpointFolder, completeCheckpoints } from '../../lib/io/checkpoints.ts'
import { type Call, type Disk, type Fault, faultyDisk } from './faults.ts'

let root: string
let made = 0
let disk: Disk | undefined
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'fuselm-durability-'))
})
afterEach(async () => {
  await disk?.restore()
  disk = undefined
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

const content = (step: number): string => `{"step":${step}}`

/** A checkpoint as a run writes it: tensors and text. */
const fill = (step: number) => async (path: string) => {
  const values = [tensor([step, 1, 2]), tensor([step], { shape: [1, 1] })]
  await saveTensors(join(path, 'model.safetensors'), [
    ['a', values[0] as (typeof values)[0]],
    ['b', values[1] as (typeof values)[0]],
  ])
  for (const value of values) value.dispose()
  await writeAtomic(join(path, 'trainer_state.json'), (write) => write(Buffer.from(content(step))))
}

/** What a run does at a save: the new one, then away with all but the newest two. */
async function saveAndPrune(folder: CheckpointFolder, step: number): Promise<void> {
  await folder.save(step, fill(step))
  const steps = await folder.steps()
  for (const old of steps.slice(0, -2)) await folder.remove(old)
}

let template: string
beforeAll(async () => {
  template = join(root, 'template')
  const folder = await CheckpointFolder.open(template)
  for (const step of [1, 2, 3]) await saveAndPrune(folder, step)
  await folder.close()
})

/** A folder with checkpoints 2 and 3. */
async function started(): Promise<string> {
  const path = join(root, String(made++))
  await cp(template, path, { recursive: true })
  return path
}

/** Each checkpoint that counts as complete is readable, whole, and the one its name says. */
async function checkWhole(path: string): Promise<number[]> {
  const steps = await completeCheckpoints(path)
  for (const step of steps) {
    const at = join(path, `checkpoint-${step}`)
    expect(readFileSync(join(at, 'trainer_state.json'), 'utf8')).toBe(content(step))
    const bytes = readFileSync(join(at, 'model.safetensors'))
    const header = Number(bytes.readBigUInt64LE(0))
    expect(bytes.length).toBe(8 + header + 16)
    expect([bytes.readFloatLE(8 + header), bytes.readFloatLE(8 + header + 12)]).toEqual([step, step])
  }
  return steps
}

/** The life of a process on the folder: taken, saved into once, left. */
async function life(path: string): Promise<void> {
  const folder = await CheckpointFolder.open(path)
  try {
    await saveAndPrune(folder, 4)
  } finally {
    await folder.close()
  }
}

/** The life of the next process, on a disk that works. */
async function nextLife(path: string): Promise<void> {
  disk = faultyDisk(path, () => null)
  await life(path)
  await disk.restore()
  expect(await checkWhole(path)).toEqual([3, 4])
  expect(readdirSync(path).sort()).toEqual(['checkpoint-3', 'checkpoint-4'])
  rmSync(path, { recursive: true })
}

let calls: readonly Call[]
beforeAll(async () => {
  const path = await started()
  disk = faultyDisk(path, () => null)
  await life(path)
  calls = disk.calls
  await disk.restore()
})

test('the calls that are tried are those that change a disk', () => {
  const kinds = new Set(calls.map(({ kind }) => kind))
  for (const kind of ['mkdir', 'create', 'write', 'sync', 'rename', 'unlink', 'rm'] as const)
    expect(kinds, kind).toContain(kind)
  expect(calls.filter(({ kind }) => kind === 'write').length).toBeGreaterThan(5)
  expect(calls.filter(({ kind }) => kind === 'sync').length).toBeGreaterThan(8)
})

describe('killed at every call', () => {
  test.each(['before', 'after'] as const)(
    '%s it: the newest whole one is found, and the run goes on',
    async (when) => {
      for (const index of calls.keys()) {
        const path = await started()
        disk = faultyDisk(path, (_, i) => (i === index ? { kill: when } : null))
        const end = await Promise.race([life(path).then(() => 'ended'), disk.killed.then(() => 'killed')])
        expect(end, `call ${index}`).toBe('killed')
        const { calls: done } = disk
        await disk.restore()

        const place = `${when} ${JSON.stringify(done.at(-1))}`
        const steps = await checkWhole(path)
        // a save is done when its folder has its name
        const renamed = done
          .slice(0, when === 'after' ? undefined : -1)
          .flatMap(({ kind, to }) => (kind === 'rename' && to !== undefined ? [basename(to)] : []))
        const newest = renamed.includes('checkpoint-4') ? 4 : 3
        expect(steps.at(-1), place).toBe(newest)
        expect(steps.length, place).toBeGreaterThanOrEqual(2)

        await nextLife(path)
      }
    },
    120_000,
  )

  test('and again while what it left is taken up', async () => {
    for (let index = 0; index < calls.length; index += 5) {
      const path = await started()
      for (const next of [index, 0, 1, 2, 3, 4]) {
        disk = faultyDisk(path, (_, i) => (i === next ? { kill: 'after' } : null))
        await Promise.race([life(path), disk.killed])
        await disk.restore()
        expect((await checkWhole(path)).length).toBeGreaterThanOrEqual(2)
      }
      await nextLife(path)
    }
  }, 120_000)
})

describe('a disk that fails at every call', () => {
  const faults: [string, (call: Call) => boolean, Fault][] = [
    ['full', ({ kind }) => kind === 'write', { code: 'ENOSPC', half: true }],
    ['full from the first byte of a write', ({ kind }) => kind === 'write', { code: 'ENOSPC' }],
    ['a file as large as may be', ({ kind }) => kind === 'write', { code: 'EFBIG', half: true }],
    ['broken', ({ kind }) => kind !== 'unlink' && kind !== 'rm', { code: 'EIO' }],
    ['read-only', ({ kind }) => kind !== 'sync', { code: 'EROFS' }],
  ]
  test.each(faults)(
    '%s: the error comes up, nothing is lost, and the folder is free',
    async (_, which, fault) => {
      const code = (fault as { code: string }).code
      let tried = 0
      for (const [index, call] of calls.entries()) {
        if (!which(call)) continue
        tried++
        const path = await started()
        disk = faultyDisk(path, (_, i) => (i === index ? fault : null))
        const error = await life(path).then(
          () => null,
          (thrown: unknown) => thrown,
        )
        await disk.restore()
        const place = JSON.stringify(call)
        // what is only cleaned up may be left for the next owner
        const cleaning = call.kind === 'unlink' || call.kind === 'rm'
        if (error !== null || !cleaning) expect(error, place).toMatchObject({ code })
        const steps = await checkWhole(path)
        expect(steps.length, place).toBeGreaterThanOrEqual(2)
        await nextLife(path)
      }
      expect(tried).toBeGreaterThan(5)
    },
    120_000,
  )

  test('from some call on: every save fails, the old ones stay', async () => {
    for (let from = 0; from < calls.length; from += 3) {
      const path = await started()
      disk = faultyDisk(path, ({ kind }, i) =>
        i >= from && kind === 'write' ? { code: 'ENOSPC', half: true } : null,
      )
      const ended = await life(path).catch(() => undefined)
      await disk.restore()
      expect(ended).toBeUndefined()
      expect((await checkWhole(path)).length).toBeGreaterThanOrEqual(2)
      await nextLife(path)
    }
  }, 120_000)
})

test('when the power fails: all of a checkpoint is on disk before it has its name, and before one goes', () => {
  const dirty = new Set<string>()
  /** Folders whose names have changed since they were synced. */
  const changed = new Set<string>()
  let named = 0
  let gone = 0
  const folderOf = (path: string): string => path.slice(0, path.lastIndexOf('/'))
  for (const { kind, path, to } of calls) {
    if (kind === 'create' || kind === 'write') dirty.add(path)
    if (kind === 'sync') {
      dirty.delete(path)
      changed.delete(path)
    }
    if (kind !== 'rename' || to === undefined) continue
    if (/^checkpoint-\d+$/.test(basename(to))) {
      expect([...dirty].filter((file) => file.startsWith(path))).toEqual([])
      expect(changed).not.toContain(path)
      named++
    } else if (/^checkpoint-\d+$/.test(basename(path))) {
      expect(changed).not.toContain(folderOf(path))
      gone++
      continue
    } else expect(dirty, 'renamed before it is on disk').not.toContain(path)
    changed.add(folderOf(to))
  }
  expect([named, gone]).toEqual([1, 1])
})

test('folders are made with those above them, or it is said at once why not', async () => {
  const path = join(root, 'a', 'b', 'c')
  await Promise.all([makeFolder(path), makeFolder(path), makeFolder(join(path, 'd'))])
  await makeFolder(path)
  expect(readdirSync(path)).toEqual(['d'])
  await expect(makeFolder(join(path, 'd', '..', '..', 'x\0'))).rejects.toThrow(/null bytes/)
  await expect(makeFolder('/proc/none/run')).rejects.toMatchObject({ code: 'ENOENT' })
  await expect(makeFolder('/dev/null')).rejects.toMatchObject({ code: 'EEXIST' })
  await expect(makeFolder('/dev/null/run')).rejects.toMatchObject({ code: 'ENOTDIR' })
})

describe('one trainer at a time', () => {
  test('of many that come together for a folder, one has it, and then the next', async () => {
    for (let round = 0; round < 20; round++) {
      const path = await started()
      const opened = await Promise.allSettled(Array.from({ length: 12 }, () => CheckpointFolder.open(path)))
      const winners = opened.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
      expect(winners).toHaveLength(1)
      for (const result of opened) {
        if (result.status === 'rejected') expect(result.reason).toMatchObject({ code: 'ERR_CONFIG' })
      }
      await winners[0]?.close()
      expect(readdirSync(path).filter((name) => name.startsWith('.'))).toEqual([])
    }
  }, 60_000)

  test('never two, however they come and go', async () => {
    const path = await started()
    let inside = 0
    let times = 0
    const visitor = async (): Promise<void> => {
      for (let i = 0; i < 60; i++) {
        const folder = await CheckpointFolder.open(path).catch((error) => {
          expect(error).toMatchObject({ code: 'ERR_CONFIG' })
          return null
        })
        if (folder === null) continue
        expect(++inside).toBe(1)
        times++
        await new Promise((done) => setTimeout(done, 1))
        inside--
        await folder.close()
      }
    }
    await Promise.all(Array.from({ length: 6 }, visitor))
    expect(times).toBeGreaterThan(10)
  }, 60_000)

  test('another process is kept out until it is killed', async () => {
    const path = await started()
    const script = `
      import { open } from 'node:fs/promises'
      const { tryLock } = (await import('node:module')).createRequire(process.cwd() + '/')('./build/Release/fuselm.node')
      const file = await open(${JSON.stringify(join(path, '.lock'))}, 'a+')
      await file.write(String(process.pid))
      console.log(tryLock(file.fd))
      setInterval(() => file.fd, 1000)`
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const [said] = (await once(child.stdout, 'data')) as [Buffer]
    expect(String(said).trim()).toBe('locked')
    await expect(CheckpointFolder.open(path)).rejects.toThrow(
      `another trainer (process ${child.pid}) writes here`,
    )
    child.kill('SIGKILL')
    await once(child, 'exit')
    await (await CheckpointFolder.open(path)).close()
  })

  test('who lost the folder saves no more, and leaves the lock of who has it', async () => {
    const path = await started()
    const first = await CheckpointFolder.open(path)
    rmSync(join(path, '.lock'))
    const second = await CheckpointFolder.open(path)
    await expect(first.save(4, fill(4))).rejects.toThrow(/another trainer's; nothing was saved/)
    await first.close()
    await second.save(4, fill(4))
    expect(await checkWhole(path)).toEqual([2, 3, 4])
    await second.close()
  })
})
