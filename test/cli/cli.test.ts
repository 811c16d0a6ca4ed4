// The command line as a process: what it prints and the status it ends with.

import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Decoder, Tokenizer } from 'fuselm'
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
    [
      ['generate', '--model', 'none', '--prompt', 'x'],
      1,
      /ENOENT: .* no folder 'none'; nothing is downloaded/,
    ],
    [['generate', '--model', 'data', '--prompt', 'x'], 1, /ENOENT: data has no tokenizer.json/],
    [['export', '--model', 'none', '--onnx', 'x', '--group', '32'], 2, /--group needs --weights int8/],
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
  expect(readFileSync(join(folder, 'run', 'report.html'), 'utf8')).toMatch(
    /tokens read.*Held-out perplexity/s,
  )

  expect(train('--steps', '6')).toMatchObject({ status: 2, err: expect.stringContaining('an earlier run') })
  const weights = readFileSync(join(folder, 'run/model.safetensors'))
  expect(train('--steps', '6', '--resume').status).toBe(0)
  expect(readFileSync(join(folder, 'run/model.safetensors')).equals(weights)).toBe(true)
  const other = train('--steps', '6', '--resume', '--seed', '3')
  expect(other.status).toBe(2)
  expect(other.err).toMatch(/--seed was not given and is 3/)
  const best = train('--steps', '8', '--resume', '--final-model', 'best', '--keep-last', '1')
  expect(best.out).toMatch(
    /done: 8 steps(; the held-out loss was lowest at step 6 .*, whose weights these are)?\n$/,
  )
  expect(train('--steps', '8', '--resume', '--final-model', 'first')).toMatchObject({
    status: 2,
    err: expect.stringContaining("--final-model must be one of last, best, received 'first'"),
  })

  const generate = (...more: string[]) =>
    fuselm('generate', '--model', 'run', '--prompt', '今天', '--max-new-tokens', '8', '--seed', '1', ...more)
  const text = generate()
  expect(text.status).toBe(0)
  expect(text.out.startsWith('今天')).toBe(true)
  expect(generate().out).toBe(text.out)

  // what the folder says of answers holds where the command line says nothing
  const says = join(folder, 'run/generation_config.json')
  const plain = readFileSync(says, 'utf8')
  writeFileSync(says, JSON.stringify({ ...JSON.parse(plain), do_sample: false, repetition_penalty: 1.3 }))
  const greedy = generate('--seed', '2')
  expect(greedy.out).toBe(generate('--seed', '3').out)
  expect(generate('--temperature', '2').out).not.toBe(greedy.out)
  writeFileSync(says, plain)
  expect(generate('--temperature', '0', '--repetition-penalty', '1.3').out).toBe(greedy.out)

  const whole = greedy.out.slice('今天'.length)
  const end = [...whole][1] ?? '\n'
  expect(generate('--temperature', '0', '--repetition-penalty', '1.3', '--stop', end).out).toBe(
    `今天${whole.slice(0, whole.indexOf(end))}\n`,
  )

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

  const lora = (...more: string[]) =>
    fuselm('train', '--data', 'data', '--init', 'run', '--out', 'lora', '--context', '32', ...more)
  const terms = ['--lora-rank', '4', '--lora-targets', 'q_proj', 'v_proj']
  expect(lora('--steps', '2', ...terms).out).toMatch(/parameters; [\d,]+ of the adapter\n/)
  expect(lora('--steps', '3', '--resume', ...terms)).toMatchObject({ status: 0, err: '' })
  expect(readdirSync(join(folder, 'lora'))).toContain('adapter_model.safetensors')
  expect(readdirSync(join(folder, 'lora'))).not.toContain('model.safetensors')
  expect(generate('--adapter', 'lora').status).toBe(0)
  const beside = fuselm(
    'eval',
    '--model',
    'run',
    '--adapter',
    'lora',
    '--data',
    'data/*.txt',
    '--context',
    '32',
    '--json',
  )
  expect(JSON.parse(beside.out).loss).not.toBe(JSON.parse(judged.out).loss)
  expect(lora('--lora-alpha', '4')).toMatchObject({
    status: 2,
    err: expect.stringContaining('needs --lora-rank'),
  })
  expect(generate('--adapter', 'run').err).toMatch(/adapter_config\.json/)

  writeFileSync(join(folder, 'run/notes.txt'), 'mine')
  expect(train('--steps', '2', '--overwrite').status).toBe(0)
  expect(readFileSync(join(folder, 'run/notes.txt'), 'utf8')).toBe('mine')
  expect(readdirSync(join(folder, 'run')).filter((name) => name.startsWith('checkpoint'))).toEqual([
    'checkpoint-2',
  ])
}, 120_000)

describe('a system that refuses', () => {
  const train = (out: string) => [
    'train',
    '--data',
    'data',
    '--out',
    out,
    ...SMALL,
    '--steps',
    '4',
    '--save-every',
    '2',
  ]
  const shell = (script: string, ...args: string[]) =>
    spawnSync('bash', ['-c', script, process.execPath, MAIN, ...args], { encoding: 'utf8', cwd: folder })

  test('files may not grow past 40 KB (RLIMIT_FSIZE): status 1, no checkpoint, no parts; then it goes on', () => {
    const limited = shell('ulimit -f 40; "$0" "$@"', ...train('limited'))
    expect(limited.status).toBe(1)
    expect(limited.stderr).toMatch(/EFBIG/)
    const left = readdirSync(join(folder, 'limited'))
    expect(left.filter((name) => name.startsWith('.') || name.startsWith('checkpoint'))).toEqual([])
    expect(fuselm(...train('limited'), '--resume').status).toBe(0)
    expect(fuselm(...train('unlimited')).status).toBe(0)
    const weights = (out: string): Buffer => readFileSync(join(folder, out, 'model.safetensors'))
    expect(weights('limited').equals(weights('unlimited'))).toBe(true)
  }, 60_000)

  test('output to a full disk is lost, said by the status, and the run is done', () => {
    const full = shell('"$0" "$@" > /dev/full', ...train('full'))
    expect(full.status).toBe(1)
    expect(readdirSync(join(folder, 'full'))).toContain('model.safetensors')
  }, 60_000)

  test('a reader that has gone does not end the run', () => {
    const gone = shell('"$0" "$@" | head -c 1 > /dev/null; exit $PIPESTATUS', ...train('gone'))
    expect(gone.status).toBe(0)
    expect(readdirSync(join(folder, 'gone'))).toContain('model.safetensors')
  }, 60_000)

  test('folders that cannot be: a file, a device, a place where nothing can be made', () => {
    writeFileSync(join(folder, 'file'), '')
    for (const out of ['file', '/dev/full', '/proc/none/run']) {
      const refused = fuselm(...train(out))
      expect(refused.status).toBe(1)
      expect(refused.err).toMatch(/E(?:NOTDIR|EXIST|NOENT|ACCES)/)
    }
  }, 60_000)
})

describe('a folder and what may go into it', () => {
  const train = (out: string, ...more: string[]) =>
    fuselm('train', '--data', 'data', '--out', out, ...SMALL, '--steps', '2', ...more)

  test('--resume: every other option is named, that of --config by what is in the file', () => {
    const config = (keys: object): void => writeFileSync(join(folder, 'shape.json'), JSON.stringify(keys))
    config({ rmsNormEps: 1e-5 })
    expect(train('again', '--config', 'shape.json').err).toBe('')
    const often = ['--save-every', '1', '--eval-every', '1']
    expect(train('again', '--config', 'shape.json', '--resume', ...often).status).toBe(0)
    config({ rmsNormEps: 1e-6, ropeTheta: 500 })
    const before = readdirSync(join(folder, 'again'), { recursive: true }).sort()
    const changed = ['--resume', '--learning-rate', '1', '--batch', '3', '--hold-out', '0.2']
    const other = train('again', '--config', 'shape.json', ...changed)
    expect(other.status).toBe(2)
    for (const name of [
      '--config.rmsNormEps was 0.00001 and is 0.000001',
      '--config.ropeTheta was not given and is 500',
      '--learning-rate was not given and is 1',
      '--batch was 2 and is 3',
      '--hold-out was not given and is 0.2',
      'only --steps and --epochs may grow',
    ]) {
      expect(other.err).toContain(name)
    }
    expect(readdirSync(join(folder, 'again'), { recursive: true }).sort()).toEqual(before)
    // what is left out is as it began, --config and the number of steps, too
    const weights = readFileSync(join(folder, 'again/model.safetensors'))
    rmSync(join(folder, 'shape.json'))
    const alone = fuselm('train', '--out', 'again', '--resume')
    expect(alone).toMatchObject({ status: 0, err: '', out: expect.stringMatching(/done: 2 steps\n$/) })
    expect(readFileSync(join(folder, 'again/model.safetensors')).equals(weights)).toBe(true)
    expect(fuselm('train', '--out', 'again', '--resume', '--minutes', '1').err).toMatch(
      /minutes was null and is 1|--minutes was not given and is 1/,
    )
    expect(fuselm('train', '--out', 'nothing', '--resume')).toMatchObject({
      status: 2,
      err: expect.stringContaining('--data is needed'),
    })

    // the same words, but other text behind them
    config({ rmsNormEps: 1e-5 })
    const text = readFileSync(join(data, 'a.txt'), 'utf8')
    writeFileSync(join(data, 'a.txt'), text.replace('今天', '明天'))
    const moved = train('again', '--config', 'shape.json', '--resume', '--steps', '3')
    writeFileSync(join(data, 'a.txt'), text)
    expect(moved.status).toBe(2)
    expect(moved.err).toMatch(/train\.digest was "\w+" and is "\w+"/)
    expect(train('again', '--config', 'shape.json', '--resume', '--steps', '1').err).toMatch(
      /was to take 2 steps and is to take 1/,
    )
  }, 120_000)

  test.each([
    ['--data', 'bad.txt', 1, /bad\.txt: byte 3: expected UTF-8/],
    ['--data', 'short.txt', 2, /./],
    ['--config', 'none.json', 2, /--config none\.json: ENOENT/],
    ['--config', 'list.json', 2, /expected a JSON object/],
    ['--config', 'unknown.json', 2, /num_layer is not known/],
    ['--freeze', 'nothing', 2, /no parameter is named "nothing"/],
    ['--init', 'nowhere', 1, /ENOENT/],
    ['--learning-rate', '-1', 2, /learningRate must be a number from 0/],
  ] as const)(
    'after %s %s nothing is there, and the next try goes as if it was the first',
    (option, value, status, message) => {
      writeFileSync(join(folder, 'bad.txt'), Buffer.of(0x61, 0x62, 0x63, 0xff, 0xfe))
      writeFileSync(join(folder, 'short.txt'), 'a')
      writeFileSync(join(folder, 'list.json'), '[1]')
      writeFileSync(join(folder, 'unknown.json'), '{"numLayer": 1}')
      const text = option === '--data' ? value : 'data'
      const more = option === '--data' ? [] : [option, value]
      const failed = fuselm('train', '--data', text, '--out', 'fresh', ...SMALL, ...more)
      expect(failed.err).toMatch(message)
      expect(failed.status).toBe(status)
      expect(readdirSync(folder)).not.toContain('fresh')
    },
    60_000,
  )

  test('a model that no run made is neither trained over nor cleared', () => {
    expect(train('base').status).toBe(0)
    mkdirSync(join(folder, 'model'))
    for (const name of ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'])
      writeFileSync(join(folder, 'model', name), readFileSync(join(folder, 'base', name)))
    const before = readdirSync(join(folder, 'model'))
    for (const more of [[], ['--resume'], ['--overwrite']]) {
      const refused = train('model', '--init', 'model', ...more)
      expect(refused).toMatchObject({ status: 2, err: expect.stringContaining('holds a model') })
    }
    expect(readdirSync(join(folder, 'model'))).toEqual(before)
  }, 60_000)
})

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

test('chat: SIGINT ends an answer, and the conversation goes on; another one, at its prompt, ends it', async () => {
  const texts = ['hi there, how are you? '.repeat(40)]
  // without an end, so that answers go on
  const plain = await Tokenizer.train({ texts, vocabSize: 270, specialTokens: [] })
  const tokenizer = plain.withChatTemplate("{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
  const shape = {
    hiddenSize: 32,
    intermediateSize: 64,
    numHiddenLayers: 1,
    numAttentionHeads: 2,
    maxPositionEmbeddings: 2 ** 16,
  }
  using decoder = Decoder.create(shape, { tokenizer, seed: 1 })
  await decoder.save(join(folder, 'talker'))
  const args = ['chat', '--model', 'talker', '--max-new-tokens', '60000', '--seed', '1']
  const run = spawn(process.execPath, [MAIN, ...args], { cwd: folder, stdio: 'pipe' })
  let [out, err] = ['', '']
  let wake = (): void => undefined
  run.stdout.on('data', (chunk) => {
    out += chunk
    wake()
  })
  run.stderr.on('data', (chunk) => {
    err += chunk
  })
  let status: number | null | undefined
  const ended = new Promise<void>((resolve) =>
    run.once('exit', (code) => {
      status = code
      wake()
      resolve()
    }),
  )
  const until = async (enough: () => boolean): Promise<void> => {
    while (!enough() && status === undefined) await new Promise<void>((resolve) => (wake = resolve))
  }
  const prompts = (): number => out.match(/> /g)?.length ?? 0
  for (let turn = 1; turn <= 2; turn++) {
    const before = out.length
    run.stdin.write('hi\n')
    await until(() => out.length > before + 200)
    expect(prompts(), 'the answer goes on').toBeLessThanOrEqual(turn)
    run.kill('SIGINT')
    await until(() => out.endsWith('\n> '))
  }
  run.kill('SIGINT')
  await ended
  expect({ status, err }).toEqual({ status: 0, err: '' })
}, 60_000)

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
