import { mkdir, readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { TextDataset } from '../data/dataset.ts'
import { Decoder } from '../decoder/decoder.ts'
import { writeAtomic } from '../io/atomic.ts'
import { ConfigError } from '../runtime/errors.ts'
import { Tokenizer } from '../tokenizer/tokenizer.ts'
import { Progress } from '../train/progress.ts'
import { Trainer } from '../train/trainer.ts'
import { type Arguments, type Command, fail, type OptionSpec } from './command.ts'
import { deviceOption, useDevice } from './device.ts'
import { expandFiles } from './files.ts'

const DTYPES = ['f32', 'bf16'] as const
const OPTIONS_FILE = 'options.json'
/** What a resumed run may say anew: how long, how often, where it runs. */
const MAY_CHANGE = [
  'steps',
  'epochs',
  'resume',
  'overwrite',
  'save-every',
  'eval-every',
  'device',
  'out',
  'config',
]

export const train: Command = {
  summary: 'trains a model from scratch, or goes on with one',
  options: {
    data: { type: 'string', value: 'file|folder|glob', many: true, help: 'text files, or .jsonl' },
    out: { type: 'string', value: 'dir', help: 'folder of the run and, at its end, of the model' },
    tokenizer: { type: 'string', value: 'dir', help: 'a tokenizer there is; otherwise one is trained' },
    'vocab-size': { type: 'number', help: 'entries of the tokenizer that is trained (4096)' },
    init: { type: 'string', value: 'dir', help: 'starts from this model' },
    freeze: { type: 'string', value: 'pattern', many: true, help: 'parameters that stay as they are' },
    config: { type: 'string', value: 'file', help: 'JSON object of further keys of the model' },
    steps: { type: 'number', help: 'optimizer steps (1000, unless epochs or minutes)' },
    epochs: { type: 'number', help: 'times through the data' },
    minutes: { type: 'number', help: 'about how long' },
    resume: { type: 'boolean', help: 'goes on from the newest checkpoint in --out' },
    overwrite: { type: 'boolean', help: 'clears an earlier run from --out' },
    context: { type: 'number', help: 'tokens of a row (256)' },
    hidden: { type: 'number', help: 'hidden size (256)' },
    layers: { type: 'number', help: 'layers (8)' },
    heads: { type: 'number', help: 'attention heads (4)' },
    'kv-heads': { type: 'number', help: 'key and value heads (as many as heads)' },
    batch: { type: 'number', help: 'rows of a micro-batch (16)' },
    accumulate: { type: 'number', help: 'micro-batches of a step (1)' },
    'learning-rate': { type: 'number', help: 'highest learning rate (1e-3)' },
    dtype: { type: 'string', value: 'f32|bf16', help: 'of the matrices (bf16)' },
    ...deviceOption,
    seed: { type: 'number', help: 'of weights and order (0)' },
    'hold-out': { type: 'number', help: 'share of the text for validation; 0 is none (0.05)' },
    'save-every': { type: 'number', help: 'steps between checkpoints (200)' },
    'eval-every': { type: 'number', help: 'steps between evaluations (200)' },
  },

  async run(args) {
    const out = args.required('out')
    const paths = args.texts('data')
    const files = await expandFiles('data', paths)
    if (args.flag('resume') && args.flag('overwrite')) fail('--resume and --overwrite exclude each other')
    useDevice(args)
    args.oneOf('dtype', DTYPES)
    await claim(out, args)

    const say = (text: string): void => {
      process.stdout.write(`${text}\n`)
    }
    const tokenizer = await tokenizerOf(args, out, files, say)
    const contextLength = args.number('context') ?? 256
    const holdOut = args.number('hold-out') ?? 0.05
    const seed = args.number('seed') ?? 0
    const options = { tokenizer, contextLength, seed }
    const { train: rows, validation }: { train: TextDataset; validation: TextDataset | null } =
      holdOut > 0
        ? await TextDataset.fromFiles(files, { ...options, holdOut })
        : { train: await TextDataset.fromFiles(files, options), validation: null }
    const held = validation === null ? '' : `; ${validation.tokens.toLocaleString('en')} held out`
    say(`${rows.tokens.toLocaleString('en')} tokens to train on${held}`)

    const decoder = await decoderOf(args, tokenizer, contextLength)
    for (const pattern of args.texts('freeze')) decoder.freeze(pattern)
    say(`${decoder.model.parameterCount().toLocaleString('en')} parameters`)
    const [steps, epochs, minutes] = [args.number('steps'), args.number('epochs'), args.number('minutes')]
    const given = (name: string, value: number | undefined): object =>
      value === undefined ? {} : { [name]: value }
    const length =
      steps === undefined && epochs === undefined && minutes === undefined
        ? { steps: 1000 }
        : { ...given('steps', steps), ...given('epochs', epochs), ...given('minutes', minutes) }
    const trainer = new Trainer(decoder, {
      train: rows,
      validation,
      out,
      seed,
      ...length,
      batchSize: args.number('batch') ?? 16,
      accumulate: args.number('accumulate') ?? 1,
      optimizer: { learningRate: args.number('learning-rate') ?? 1e-3 },
      resume: args.flag('resume'),
      ...given('saveEvery', args.number('save-every')),
      ...given('evalEvery', args.number('eval-every')),
    })
    try {
      return await follow(trainer)
    } catch (error) {
      if (error instanceof ConfigError) fail(error.message)
      throw error
    } finally {
      decoder.dispose()
      await rows.close()
      await validation?.close()
    }
  },
}

/** Shows a run until it ends. The first signal ends it after the step; the second at once. */
async function follow(trainer: Trainer): Promise<number> {
  const controller = new AbortController()
  let status = 0
  const on = (signal: NodeJS.Signals, code: number) => (): void => {
    if (controller.signal.aborted) process.exit(code)
    status = code
    process.stderr.write(`\n${signal}: finishing the step and saving; once more quits\n`)
    controller.abort(new Error(signal))
  }
  const handlers = [
    ['SIGINT', on('SIGINT', 130)],
    ['SIGTERM', on('SIGTERM', 143)],
  ] as const
  for (const [signal, handler] of handlers) process.on(signal, handler)
  const progress = new Progress(process.stdout)
  try {
    for await (const event of trainer.run({ signal: controller.signal })) progress.show(event)
    return 0
  } catch (error) {
    if (error !== controller.signal.reason) throw error
    return status
  } finally {
    progress.end()
    for (const [signal, handler] of handlers) process.off(signal, handler)
  }
}

/** Takes the folder: a new or an empty one, or the run that is to go on. */
async function claim(out: string, args: Arguments): Promise<void> {
  await mkdir(out, { recursive: true })
  const names = (await readdir(out)).filter((name) => name !== '.lock')
  const path = join(out, OPTIONS_FILE)
  const now = Object.fromEntries(
    Object.keys(train.options)
      .filter((name) => !MAY_CHANGE.includes(name) && args.has(name))
      .map((name) => [name, optionValue(args, name)]),
  )
  if (args.flag('overwrite')) {
    for (const name of names) if (OURS.test(name)) await rm(join(out, name), { recursive: true })
    const others = names.filter((name) => !OURS.test(name))
    if (others.length > 0)
      fail(`--out ${out} holds other files (${others.slice(0, 3).join(', ')}); nothing of them is touched`)
  } else if (args.flag('resume')) {
    const text = await readFile(path, 'utf8').catch(() => null)
    if (text !== null) checkSameOptions(JSON.parse(text) as Record<string, unknown>, now)
  } else if (names.length > 0) {
    fail(`--out ${out} is not empty; pass --resume to go on with the run in it, or --overwrite`)
  }
  const bytes = new TextEncoder().encode(`${JSON.stringify(now, null, 2)}\n`)
  await writeAtomic(path, (write) => write(bytes))
}

function optionValue(args: Arguments, name: string): unknown {
  const { type, many } = train.options[name] as OptionSpec
  if (many) return args.texts(name)
  return type === 'number' ? args.number(name) : type === 'boolean' ? args.flag(name) : args.text(name)
}

function checkSameOptions(saved: Record<string, unknown>, now: Record<string, unknown>): void {
  const names = [...new Set([...Object.keys(saved), ...Object.keys(now)])]
  const differences = names.filter((name) => JSON.stringify(saved[name]) !== JSON.stringify(now[name]))
  if (differences.length === 0) return
  const shown = differences.map(
    (name) =>
      `--${name} was ${JSON.stringify(saved[name]) ?? 'not given'} and is ${JSON.stringify(now[name]) ?? 'not given'}`,
  )
  fail(`this run began with other options: ${shown.join('; ')}; only --steps and --epochs may grow`)
}

async function tokenizerOf(
  args: Arguments,
  out: string,
  files: readonly string[],
  say: (text: string) => void,
): Promise<Tokenizer> {
  const folder = args.text('tokenizer') ?? args.text('init')
  if (folder !== undefined) return Tokenizer.load(folder)
  const own = join(out, 'tokenizer')
  const saved = args.flag('resume') ? await Tokenizer.load(own).catch(() => null) : null
  if (saved !== null) return saved
  const vocabSize = args.number('vocab-size') ?? 4096
  say(`training a tokenizer of ${vocabSize} entries on ${files.length} files`)
  const plain = files.filter((file) => !file.endsWith('.jsonl'))
  if (plain.length === 0) fail('--tokenizer is needed where all data is .jsonl')
  const tokenizer = await Tokenizer.train({ files: plain, vocabSize })
  await tokenizer.save(own)
  return tokenizer
}

async function decoderOf(args: Arguments, tokenizer: Tokenizer, contextLength: number): Promise<Decoder> {
  const dtype = args.oneOf('dtype', DTYPES)
  const init = args.text('init')
  if (init !== undefined) return Decoder.load(init, dtype === undefined ? {} : { dtype })
  const hiddenSize = args.number('hidden') ?? 256
  const heads = args.number('heads') ?? 4
  const file = args.text('config')
  const more = file === undefined ? {} : (JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>)
  const shape = {
    hiddenSize,
    numHiddenLayers: args.number('layers') ?? 8,
    numAttentionHeads: heads,
    numKeyValueHeads: args.number('kv-heads') ?? heads,
    intermediateSize: hiddenSize * 3,
    maxPositionEmbeddings: Math.max(contextLength, 256),
    tieWordEmbeddings: true,
    ...more,
  }
  return Decoder.create(shape, { tokenizer, dtype: dtype ?? 'bf16', seed: args.number('seed') ?? 0 })
}

const OURS =
  /^(?:checkpoint-\d+|metrics\.jsonl|tensorboard|plan\.json|report\.html|options\.json|config\.json|model\.safetensors|tokenizer|tokenizer\.json|tokenizer_config\.json|chat_template\.jinja|generation_config\.json|\.lock)$/
