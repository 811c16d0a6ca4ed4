import { readFile } from 'node:fs/promises'
import { TextDataset } from '../data/dataset.ts'
import { Decoder } from '../decoder/decoder.ts'
import { ConfigError, ValueError } from '../runtime/errors.ts'
import { Tokenizer } from '../tokenizer/tokenizer.ts'
import { differences, flatten, type Identity } from '../train/identity.ts'
import type { TrainerOptions } from '../train/options.ts'
import { Progress } from '../train/progress.ts'
import { checkUse, newestCheckpoint } from '../train/run-folder.ts'
import { loadState, type RunState } from '../train/state.ts'
import { Trainer } from '../train/trainer.ts'
import { loraOptions, newAdapter, wantsLora } from './adapter.ts'
import { type Arguments, type Command, fail, type OptionSpec } from './command.ts'
import { deviceOption, useDevice } from './device.ts'
import { expandFiles } from './files.ts'

const DTYPES = ['f32', 'bf16'] as const
const LENGTHS = ['steps', 'epochs', 'minutes']
const LOOKING = ['save-every', 'eval-every', 'keep-last', 'keep-best', 'final-model']
/** What a resumed run may say anew: how long, where, and when it is looked at. */
const MAY_CHANGE = ['steps', 'epochs', 'resume', 'overwrite', 'device', 'out', ...LOOKING]

export const train: Command = {
  summary: 'trains a model from scratch, or goes on with one',
  options: {
    data: { type: 'string', value: 'file|folder|glob', many: true, help: 'text files, or .jsonl' },
    out: { type: 'string', value: 'dir', help: 'folder of the run and, at its end, of the model' },
    tokenizer: { type: 'string', value: 'dir', help: 'a tokenizer there is; otherwise one is trained' },
    'vocab-size': { type: 'number', help: 'entries of the tokenizer that is trained (4096)' },
    init: { type: 'string', value: 'dir', help: 'starts from this model' },
    ...loraOptions,
    freeze: { type: 'string', value: 'pattern', many: true, help: 'parameters that stay as they are' },
    config: { type: 'string', value: 'file', help: 'JSON object of further keys of the model' },
    steps: { type: 'number', help: 'optimizer steps (1000, unless epochs or minutes)' },
    epochs: { type: 'number', help: 'times through the data' },
    minutes: { type: 'number', help: 'about how long' },
    resume: { type: 'boolean', help: 'goes on from the newest checkpoint in --out, with its options' },
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
    'keep-last': { type: 'number', help: 'checkpoints that stay (2)' },
    'keep-best': { type: 'boolean', help: 'the checkpoint of the lowest held-out loss stays, too' },
    'final-model': {
      type: 'string',
      value: 'last|best',
      help: 'which weights --out holds at the end; best: of the lowest held-out loss (last)',
    },
    patience: { type: 'number', help: 'stops after so many evaluations without a lower held-out loss' },
  },

  async run(args) {
    const stop = new Stop()
    try {
      return await run(args, stop)
    } catch (error) {
      if (stop.status !== 0 && error === stop.signal.reason) return stop.status
      if (error instanceof ConfigError || error instanceof ValueError) fail(error.message)
      throw error
    } finally {
      stop.end()
    }
  },
}

/** The first signal ends the run after its step, with a checkpoint; the second at once. */
class Stop {
  /** What the process ends with; 0 while nobody has asked it to. */
  status = 0
  readonly #controller = new AbortController()
  readonly #handlers = [
    ['SIGINT', this.#on('SIGINT', 130)],
    ['SIGTERM', this.#on('SIGTERM', 143)],
  ] as const

  constructor() {
    for (const [signal, handler] of this.#handlers) process.on(signal, handler)
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  #on(signal: NodeJS.Signals, status: number): () => void {
    return () => {
      if (this.status !== 0) process.exit(status)
      this.status = status
      process.stderr.write(`\n${signal}: finishing the step and saving; once more quits\n`)
      this.#controller.abort(new Error(signal))
    }
  }

  end(): void {
    for (const [signal, handler] of this.#handlers) process.off(signal, handler)
  }
}

/** Nothing is written to the folder of the run before all that it is made of is there. */
async function run(given: Arguments, { signal }: Stop): Promise<number> {
  const out = given.required('out')
  const use = { resume: given.flag('resume'), overwrite: given.flag('overwrite') }
  if (use.resume && use.overwrite) fail('--resume and --overwrite exclude each other')
  const checkpoint = use.resume ? await newestCheckpoint(out) : null
  const begun = checkpoint === null ? null : await loadState(checkpoint)
  const args =
    begun === null
      ? given
      : given.or(
          optionsOf(
            begun,
            LENGTHS.some((name) => given.has(name)),
          ),
        )
  const files = await expandFiles('data', args.texts('data'))
  useDevice(args)
  args.oneOf('dtype', DTYPES)
  const finalModel = args.oneOf('final-model', ['last', 'best'] as const)
  const patience = args.number('patience')
  const lora = wantsLora(args)
  const config = args.has('config')
    ? await readConfig(args.text('config'))
    : begun === null
      ? {}
      : configOf(begun)
  const identity = identityOf(args, config)
  await checkUse(out, use)
  if (begun !== null) checkSameOptions(begun, identity)

  const say = (text: string): void => {
    process.stdout.write(`${text}\n`)
  }
  // a checkpoint of an adapter holds no model: that is --init again
  const saved = lora ? null : checkpoint
  const tokenizer = await tokenizerOf(args, saved, files, { say, signal })
  const contextLength = args.number('context') ?? 256
  const holdOut = args.number('hold-out') ?? 0.05
  const seed = args.number('seed') ?? 0
  const options = { tokenizer, contextLength, seed, signal }
  const { train: rows, validation }: { train: TextDataset; validation: TextDataset | null } =
    holdOut > 0
      ? await TextDataset.fromFiles(files, { ...options, holdOut })
      : { train: await TextDataset.fromFiles(files, options), validation: null }
  let decoder: Decoder | undefined
  try {
    const held = validation === null ? '' : `; ${validation.tokens.toLocaleString('en')} held out`
    say(`${rows.tokens.toLocaleString('en')} tokens to train on${held}`)
    decoder = await decoderOf(args, { checkpoint: saved, tokenizer, contextLength, config, signal })
    for (const pattern of args.texts('freeze')) decoder.freeze(pattern)
    const adapter = newAdapter(args, decoder)
    const trained =
      adapter === null ? '' : `; ${adapter.parameterCount().toLocaleString('en')} of the adapter`
    say(`${decoder.model.parameterCount().toLocaleString('en')} parameters${trained}`)
    const trainer = new Trainer(decoder, {
      train: rows,
      adapter,
      validation,
      out,
      seed,
      identity,
      ...use,
      ...lengthOf(args),
      batchSize: args.number('batch') ?? 16,
      accumulate: args.number('accumulate') ?? 1,
      optimizer: { learningRate: args.number('learning-rate') ?? 1e-3 },
      ...numbers(args, { saveEvery: 'save-every', evalEvery: 'eval-every', keepLast: 'keep-last' }),
      keepBest: args.flag('keep-best'),
      finalModel: finalModel ?? 'last',
      earlyStopping: patience === undefined ? null : { patience },
    })
    const progress = new Progress(process.stdout)
    try {
      for await (const event of trainer.run({ signal })) progress.show(event)
    } finally {
      progress.end()
    }
    return 0
  } finally {
    decoder?.dispose()
    await rows.close()
    await validation?.close()
  }
}

/** Options of the Trainer from those of the command line that are there. */
function numbers(
  args: Arguments,
  names: Readonly<Partial<Record<keyof TrainerOptions, string>>>,
): Partial<TrainerOptions> {
  const entries = Object.entries(names).map(([key, option]) => [key, args.number(option)] as const)
  return Object.fromEntries(entries.filter(([, value]) => value !== undefined))
}

function lengthOf(args: Arguments): Partial<TrainerOptions> {
  const length = numbers(args, { steps: 'steps', epochs: 'epochs', minutes: 'minutes' })
  return Object.keys(length).length === 0 ? { steps: 1000 } : length
}

async function readConfig(path: string | undefined): Promise<Record<string, unknown>> {
  if (path === undefined) return {}
  let json: unknown
  try {
    json = JSON.parse(await readFile(path, 'utf8'))
  } catch (error) {
    fail(`--config ${path}: ${(error as Error).message}`)
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    fail(`--config ${path}: expected a JSON object`)
  }
  return json as Record<string, unknown>
}

/** What the command line says of the run, by option; of `--config` what is in the file. */
function identityOf(args: Arguments, config: Readonly<Record<string, unknown>>): Identity {
  const value = (name: string): unknown => {
    const { type, many } = train.options[name] as OptionSpec
    if (name === 'config') return config
    if (many) return args.texts(name)
    return type === 'number' ? args.number(name) : type === 'boolean' ? args.flag(name) : args.text(name)
  }
  const names = Object.keys(train.options).filter((name) => !MAY_CHANGE.includes(name) && args.has(name))
  const entries = names.map((name) => [`--${name}`, value(name)] as const)
  return { ...Object.fromEntries(entries), ...(Object.keys(config).length > 0 && { '--config': config }) }
}

/**
 * Options of the command line that a run was begun with.
 * @param otherLength its length is said anew
 */
function optionsOf(
  { settings, maxSteps }: RunState,
  otherLength: boolean,
): Map<string, (string | boolean)[]> {
  const options = new Map<string, (string | boolean)[]>()
  for (const name of Object.keys(train.options)) {
    const value = settings[`--${name}`]
    if (value === undefined || (otherLength && LENGTHS.includes(name))) continue
    const list = Array.isArray(value) ? value : [value]
    options.set(
      name,
      list.map((item) => (typeof item === 'boolean' ? item : String(item))),
    )
  }
  // what was --epochs is steps by now
  if (!otherLength && !options.has('minutes')) options.set('steps', [String(maxSteps)])
  return options
}

/** What `--config` was. */
function configOf({ settings }: RunState): Record<string, unknown> {
  // names are a file's: without a prototype there is none to reach by them
  const object = (): Record<string, unknown> => Object.create(null)
  const config = object()
  for (const [name, value] of Object.entries(settings)) {
    const [first, ...path] = name.split('.')
    if (first !== '--config') continue
    let place = config
    for (const key of path.slice(0, -1)) {
      place[key] ??= object()
      place = place[key] as Record<string, unknown>
    }
    place[path.at(-1) ?? ''] = value
  }
  return config
}

/** Says before any work what the Trainer would say after it, in the words of the command line. */
function checkSameOptions({ settings }: RunState, now: Identity): void {
  const saved = Object.fromEntries(Object.entries(settings).filter(([name]) => name.startsWith('--')))
  const found = differences(saved, flatten(now))
  if (found.length === 0) return
  fail(
    `this run began with other options: ${found.join('; ')}; what is left out is as it began, and only --steps and --epochs may grow`,
  )
}

async function tokenizerOf(
  args: Arguments,
  checkpoint: string | null,
  files: readonly string[],
  { say, signal }: { say: (text: string) => void; signal: AbortSignal },
): Promise<Tokenizer> {
  const folder = checkpoint ?? args.text('tokenizer') ?? args.text('init')
  if (folder !== undefined) return Tokenizer.load(folder, { signal })
  const vocabSize = args.number('vocab-size') ?? 4096
  say(`training a tokenizer of ${vocabSize} entries on ${files.length} files`)
  const plain = files.filter((file) => !file.endsWith('.jsonl'))
  if (plain.length === 0) fail('--tokenizer is needed where all data is .jsonl')
  return Tokenizer.train({ files: plain, vocabSize, signal })
}

async function decoderOf(
  args: Arguments,
  {
    checkpoint,
    tokenizer,
    contextLength,
    config,
    signal,
  }: {
    checkpoint: string | null
    tokenizer: Tokenizer
    contextLength: number
    config: Readonly<Record<string, unknown>>
    signal: AbortSignal
  },
): Promise<Decoder> {
  const dtype = args.oneOf('dtype', DTYPES)
  const from = checkpoint ?? args.text('init')
  if (from !== undefined) return Decoder.load(from, { signal, ...(dtype !== undefined && { dtype }) })
  const hiddenSize = args.number('hidden') ?? 256
  const heads = args.number('heads') ?? 4
  const shape = {
    hiddenSize,
    numHiddenLayers: args.number('layers') ?? 8,
    numAttentionHeads: heads,
    numKeyValueHeads: args.number('kv-heads') ?? heads,
    intermediateSize: hiddenSize * 3,
    maxPositionEmbeddings: Math.max(contextLength, 256),
    tieWordEmbeddings: true,
    ...config,
  }
  return Decoder.create(shape, { tokenizer, dtype: dtype ?? 'bf16', seed: args.number('seed') ?? 0 })
}
