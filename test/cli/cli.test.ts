// The command line as a process: what it prints and the status it ends with.

import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Progress } from '../../lib/train/progress.ts'

const MAIN = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

let folder: string
let data: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-cli-'))
  data = join(folder, 'data')
  mkdirSync(join(data, 'more'), { recursive: true })
  const lines = (from: number): string =>
    Array.from({ length: 300 }, (_, i) => `第${from + i}行：今天天气很好，我们学习语言模型。`).join('\n')
  writeFileSync(join(data, 'a.txt'), lines(0))
  writeFileSync(join(data, 'more', 'b.txt'), lines(300))
  writeFileSync(join(data, 'more', 'picture.png'), 'not text')
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function fuselm(...args: string[]): { status: number | null; out: string; err: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...args], {
    encoding: 'utf8',
    cwd: folder,
  })
  return { status, out: stdout, err: stderr }
}

const SMALL = [
  '--vocab-size',
  '400',
  '--hidden',
  '32',
  '--layers',
  '1',
  '--heads',
  '2',
  '--context',
  '32',
  '--batch',
  '2',
]

describe('arguments', () => {
  test.each([
    [[], 2, /usage: fuselm <command>/],
    [['trian'], 2, /unknown command 'trian'; did you mean 'train'/],
    [['train', '--out', 'x', '--dat', 'y'], 2, /unknown option '--dat'; did you mean '--data'/],
    [['train', '--data', 'none', '--out', 'x'], 2, /no file or folder 'none'/],
    [['train', '--data', 'data'], 2, /--out is needed/],
    [
      ['train', '--out', 'x', '--data', 'data', '--steps', 'many'],
      2,
      /--steps must be a number, received 'many'/,
    ],
    [['train', '--out', 'x', '--data', 'data/more/*.png', '--dtype', 'f16'], 2, /must be one of f32, bf16/],
    [['train', '--out', 'x', '--data', 'data', '--resume', '--overwrite'], 2, /exclude each other/],
    [['generate', '--prompt', 'x'], 2, /--model is needed/],
    [['generate', '--model', 'none', '--prompt', 'x'], 1, /ENOENT/],
    [['report', '--run', 'data'], 2, /data holds no run: there is no metrics.jsonl/],
    [['tokenize', 'text'], 2, /unexpected argument 'text'/],
    [['doctor', '--json=1'], 2, /--json takes no value/],
  ])('%j', (args, status, message) => {
    const result = fuselm(...args)
    expect(result.err).toMatch(message)
    expect(result.status).toBe(status)
    rmSync(join(folder, 'x'), { recursive: true, force: true })
  })

  test('help and version', () => {
    expect(fuselm('--help')).toMatchObject({ status: 0, out: expect.stringContaining('generate') })
    const help = fuselm('train', '--help')
    expect(help.status).toBe(0)
    expect(help.out).toContain('--learning-rate <n>')
    expect(fuselm('--version').out).toMatch(/^\d+\.\d+\.\d+\n$/)
  })

  test('doctor', () => {
    const { status, out } = fuselm('doctor', '--json')
    expect(status).toBe(0)
    const found = JSON.parse(out)
    expect(found).toMatchObject({ ok: true, addon: 'loaded' })
    expect(found.cuda).toMatch(/./)
  })
})

test('trains on a folder of Chinese text, refuses the folder again, goes on, generates, judges', () => {
  const train = (...more: string[]) =>
    fuselm('train', '--data', 'data', '--out', 'run', ...SMALL, '--save-every', '4', ...more)
  const first = train('--steps', '6')
  expect(first.err).toBe('')
  expect(first.status).toBe(0)
  expect(first.out).toMatch(/tokens to train on; [\d,]+ held out/)
  expect(first.out).toMatch(/step 6: held-out loss/)
  expect(first.out).toMatch(/done: 6 steps\n$/)
  expect(fuselm('report', '--run', 'run')).toMatchObject({ status: 0, out: 'run/report.html\n' })
  expect(readFileSync(join(folder, 'run', 'report.html'), 'utf8')).toContain('Held-out perplexity')

  expect(train('--steps', '6')).toMatchObject({ status: 2, err: expect.stringContaining('is not empty') })
  const weights = readFileSync(join(folder, 'run/model.safetensors'))
  expect(train('--steps', '6', '--resume').status).toBe(0)
  expect(readFileSync(join(folder, 'run/model.safetensors')).equals(weights)).toBe(true)
  const other = train('--steps', '6', '--resume', '--seed', '3')
  expect(other.status).toBe(2)
  expect(other.err).toMatch(/--seed was not given and is 3/)
  expect(train('--steps', '8', '--resume').out).toMatch(/done: 8 steps\n$/)

  const generate = (...more: string[]) =>
    fuselm('generate', '--model', 'run', '--prompt', '今天', '--max-new-tokens', '8', '--seed', '1', ...more)
  const text = generate()
  expect(text.status).toBe(0)
  expect(text.out.startsWith('今天')).toBe(true)
  expect(generate().out).toBe(text.out)

  const judged = fuselm('eval', '--model', 'run', '--data', 'data/*.txt', '--context', '32', '--json')
  expect(judged.status).toBe(0)
  expect(JSON.parse(judged.out)).toMatchObject({ perplexity: expect.any(Number), tokens: expect.any(Number) })

  const ids = fuselm('tokenize', '--tokenizer', 'run', '--text', '今天天气', '--json')
  expect(JSON.parse(ids.out).length).toBeGreaterThan(0)
  expect(fuselm('chat', '--model', 'run')).toMatchObject({
    status: 2,
    err: expect.stringContaining('no chat template'),
  })

  const exported = fuselm('export', '--model', 'run', '--onnx', 'onnx', '--weights', 'int8', '--group', '32')
  expect(exported).toMatchObject({ status: 0, out: `${join('onnx', 'onnx', 'model_int8.onnx')}\n`, err: '' })
  expect(readdirSync(join(folder, 'onnx'))).toContain('tokenizer.json')

  expect(train('--steps', '2', '--overwrite').status).toBe(0)
  writeFileSync(join(folder, 'run/notes.txt'), 'mine')
  expect(train('--steps', '2', '--overwrite')).toMatchObject({
    status: 2,
    err: expect.stringContaining('notes.txt'),
  })
}, 120_000)

test.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)(
  '%s finishes the step and saves; the run can go on',
  async (signal, code) => {
    const args = [
      'train',
      '--data',
      'data',
      '--out',
      signal,
      ...SMALL,
      '--steps',
      '100000',
      '--save-every',
      '0',
    ]
    const run = spawn(process.execPath, [MAIN, ...args], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] })
    let out = ''
    const stepping = new Promise<void>((resolve) => {
      run.stdout.on('data', (chunk) => {
        out += chunk
        if (/step \d+/.test(out)) resolve()
      })
    })
    const ended = new Promise<number | null>((resolve) => run.once('exit', (status) => resolve(status)))
    await Promise.race([stepping, ended])
    run.kill(signal)
    expect(await ended).toBe(code)
    expect(readdirSync(join(folder, signal)).filter((name) => name.startsWith('checkpoint-'))).toHaveLength(1)
    expect(out).toMatch(/step \d+: saved/)
  },
  60_000,
)

test('a terminal has one line that writes itself over; a log file a line now and then', () => {
  const step = (n: number) =>
    ({
      type: 'step',
      step: n,
      steps: 100,
      epoch: 0,
      loss: 2,
      learningRate: 1e-3,
      gradientNorm: 1,
      skipped: n === 3,
      tokensPerSecond: 1234,
      secondsLeft: 3700,
    }) as const
  let text = ''
  let now = 0
  const terminal = new Progress({ isTTY: true, columns: 40, write: (part) => (text += part) }, () => now)
  terminal.show(step(1))
  terminal.show(step(2))
  terminal.show({ type: 'checkpoint', step: 2, path: 'p' })
  terminal.show(step(3))
  terminal.end()
  const lines = text.split('\r\x1b[K')
  expect(lines[1]).toHaveLength(39)
  expect(text.split('\n')).toHaveLength(3)
  expect(text).toContain('step 2: saved p\n')

  text = ''
  const file = new Progress({ write: (part) => (text += part) }, () => now)
  for (let n = 1; n <= 100; n++) {
    now += 1000
    file.show(step(n))
  }
  file.end()
  expect(text.split('\n')).toHaveLength(12) // every ten seconds, and the last
  expect(text).toContain('1 h 1 min left')
  expect(text).not.toContain('\r')
})
