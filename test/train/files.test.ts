// What a run writes besides tensors: event files, checkpoint folders.

import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { CheckpointFolder } from '../../lib/io/checkpoints.ts'
import { crc32c, TensorBoardWriter } from '../../lib/io/tensorboard.ts'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-files-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

describe('TensorBoard', () => {
  test('crc32c of the RFC', () => {
    // RFC 3720, B.4
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa)
    expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43)
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e)
  })

  test("the bytes of TensorBoard's own writer (test/golden/event_file.py)", async () => {
    const writer = await TensorBoardWriter.create(folder, { step: 7, now: () => 1700000000.25 })
    writer.scalars(8, { 'Loss/train': 2.5, 'LR/train': 3e-4, GradNorm: 0.875 })
    writer.scalars(300, { 'Perplexity/eval': 1e30 })
    writer.scalars(2 ** 40 + 1, { 'Throughput/tokens_per_s': 0 })
    await writer.close()
    const golden = fileURLToPath(new URL('../golden/event_file.tfevents', import.meta.url))
    expect(readFileSync(writer.path).toString('hex')).toBe(readFileSync(golden).toString('hex'))
  })

  test('two runs within a second have files of their own', async () => {
    const now = () => 1700000001
    const writers = [
      await TensorBoardWriter.create(folder, { now }),
      await TensorBoardWriter.create(folder, { now }),
    ]
    for (const writer of writers) await writer.close()
    expect(new Set(writers.map(({ path }) => path)).size).toBe(2)
  })
})

describe('checkpoints', () => {
  const fill = (text: string) => async (path: string) => writeFileSync(join(path, 'model'), text)

  test('are there whole, in order, and go one by one', async () => {
    const path = join(folder, 'a')
    const checkpoints = await CheckpointFolder.open(path)
    for (const step of [10, 9, 100]) await checkpoints.save(step, fill(String(step)))
    expect(await checkpoints.steps()).toEqual([9, 10, 100])
    expect(readFileSync(join(checkpoints.folderOf(10), 'model'), 'utf8')).toBe('10')
    await checkpoints.remove(9)
    expect(await checkpoints.steps()).toEqual([10, 100])
    await checkpoints.save(10, fill('other'))
    expect(readFileSync(join(checkpoints.folderOf(10), 'model'), 'utf8')).toBe('10')
    await checkpoints.close()
    expect(readdirSync(path).sort()).toEqual(['checkpoint-10', 'checkpoint-100'])
  })

  test('one that fails leaves nothing, the older one stays', async () => {
    const path = join(folder, 'b')
    const checkpoints = await CheckpointFolder.open(path)
    await checkpoints.save(1, fill('1'))
    const failing = checkpoints.save(2, async (to) => {
      writeFileSync(join(to, 'model'), 'half')
      throw new Error('disk full')
    })
    await expect(failing).rejects.toThrow('disk full')
    expect(await checkpoints.steps()).toEqual([1])
    await checkpoints.close()
    expect(readdirSync(path)).toEqual(['checkpoint-1'])
  })

  test('what a killed process left is passed over and cleared; a file of its own stays', async () => {
    const path = join(folder, 'c')
    mkdirSync(join(path, '.checkpoint-3.0123456789ab.tmp'), { recursive: true })
    mkdirSync(join(path, '.checkpoint-1.0123456789ab.old'))
    writeFileSync(join(path, '.model.safetensors.0123456789ab.tmp'), 'half')
    writeFileSync(join(path, 'notes.txt'), 'mine')
    const checkpoints = await CheckpointFolder.open(path)
    await checkpoints.save(2, fill('two'))
    // of another tool, or cut by a failing disk
    mkdirSync(join(path, 'checkpoint-5'))
    await checkpoints.save(4, fill('four'))
    writeFileSync(join(checkpoints.folderOf(4), 'model'), 'fo')
    expect(await checkpoints.steps()).toEqual([2])
    await checkpoints.save(4, fill('four'))
    expect(await checkpoints.steps()).toEqual([2, 4])
    await checkpoints.close()
    expect(readdirSync(path).sort()).toEqual(['checkpoint-2', 'checkpoint-4', 'checkpoint-5', 'notes.txt'])
  })

  test('one process has the folder; the lock of one that is gone does not count', async () => {
    const path = join(folder, 'd')
    const first = await CheckpointFolder.open(path)
    await expect(CheckpointFolder.open(path)).rejects.toMatchObject({
      code: 'ERR_CONFIG',
      message: expect.stringContaining(`process ${process.pid}`),
    })
    await first.close()
    // of a process that was killed: the file is there, the lock is not
    writeFileSync(join(path, '.lock'), `${process.ppid}\n`)
    await (await CheckpointFolder.open(path)).close()
    expect(existsSync(join(path, '.lock'))).toBe(false)
  })
})
