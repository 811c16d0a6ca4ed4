#!/usr/bin/env node
// `node scripts/check-interop.mjs [folder]`: what we write is read by transformers, tokenizers,
// compressed-tensors, onnx, onnxruntime and TensorBoard (test/golden/interop/check.py), and what transformers
// writes is read here (make.py; test/models/interop.test.ts). Logits within 1e-4, token ids equal.
//
// Needs Python with those packages: FUSELM_PYTHON, else .venv/bin/python, else python3.

import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildLibrary } from './build.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const golden = join(root, 'test/golden/interop')
const venv = join(root, '.venv/bin/python')
const python = process.env.FUSELM_PYTHON ?? (existsSync(venv) ? venv : 'python3')

function run(command, args, env = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } })
  if (result.status !== 0) throw new Error(`${command} ${args.join(' ')} failed`)
}

const TEXT = 'Once the fox lived by the sea, and said at 7: über alles 今天天气很好! '.repeat(60)
const TEXTS = ['the fox said', ' sea;  every\n\nday', 'Öl über 今天 🦊', '<eos>the<bos>end', '1234567890']
const MESSAGES = [{ role: 'user', content: 'Hi, fox!' }]
const TEMPLATE =
  "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
const SIZE = {
  vocabSize: 320,
  hiddenSize: 32,
  intermediateSize: 64,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 64,
  initializerRange: 0.2,
}
/** What generation_config.json may say of answers. */
const GENERATION = {
  greedy: { do_sample: false, max_new_tokens: 20 },
  penalty: { do_sample: false, repetition_penalty: 1.4, max_new_tokens: 30, temperature: 0.6, top_p: 0.9 },
  sampled: { do_sample: true, temperature: 0.6, top_p: 0.9 },
  'all-tokens': { do_sample: true, top_k: 0, min_p: 0.1, repetition_penalty: 1.1, max_new_tokens: 7 },
}
const GPT2 = {
  architecture: 'gpt2',
  vocabSize: 320,
  nEmbd: 32,
  nLayer: 2,
  nHead: 4,
  nPositions: 64,
  initializerRange: 0.2,
}

async function writeOurs(folder) {
  const lib = await import(join(root, 'dist/index.js'))
  const { Decoder, exportOnnx, noGrad, quantize, scope, tensor, TextDataset, Tokenizer, Trainer } = lib
  const learned = await Tokenizer.train({ texts: [TEXT], vocabSize: 310 })
  const tokenizer = learned.withChatTemplate(TEMPLATE)

  /** What readers are held to: the folder's own logits in float32, ids, ends. */
  const expectations = async (path, loadFrom = path, texts = TEXTS, messages = MESSAGES) => {
    const ids = Int32Array.from({ length: 20 }, (_, i) => (i * 37) % 300)
    const decoder = await Decoder.load(loadFrom, { dtype: 'f32' })
    const logits = noGrad(() =>
      scope(() => decoder.model.forward(tensor(ids, { shape: [1, ids.length], dtype: 'i32' }))),
    )
    const values = Float32Array.from(await logits.toArray())
    const { bosTokenId: bos, eosTokenId: eos, padTokenId: pad, unkTokenId: unk } = decoder.tokenizer
    const bytes = (array) => new Uint8Array(array.buffer)
    await lib.writeSafetensors(join(path, 'expected.safetensors'), [
      { name: 'ids', dtype: 'I32', shape: [1, ids.length], data: bytes(ids) },
      { name: 'logits', dtype: 'F32', shape: logits.shape, data: bytes(values) },
    ])
    logits.dispose()
    const options = { addGenerationPrompt: true }
    const expected = {
      texts: texts.map((text) => [text, [...decoder.tokenizer.encode(text)]]),
      special: { bos, eos, pad, unk },
      chat: {
        messages,
        text: decoder.tokenizer.applyChatTemplate(messages, options),
        ids: [...(await decoder.tokenizer.encodeChat(messages, options))],
      },
      ends: decoder.eosTokenIds,
    }
    writeFileSync(join(path, 'expected.json'), JSON.stringify(expected))
    decoder.dispose()
  }

  const create = (shape, dtype = 'f32') => Decoder.create(shape, { tokenizer, dtype, seed: 5 })
  const models = {
    llama: () => create({ ...SIZE, tieWordEmbeddings: false, attentionBias: true, mlpBias: true }),
    'llama-bf16': () => create(SIZE, 'bf16'),
    // 20 tokens are past its trained context
    'llama-dynamic': () =>
      create({ ...SIZE, maxPositionEmbeddings: 12, ropeScaling: { ropeType: 'dynamic', factor: 2 } }),
    mistral: () => create({ ...SIZE, architecture: 'mistral', slidingWindow: 6 }),
    qwen3: () => create({ ...SIZE, architecture: 'qwen3', headDim: 16 }, 'bf16'),
    gpt2: () => create(GPT2),
    'gpt2-bf16': () => create({ ...GPT2, tieWordEmbeddings: false }, 'bf16'),
    'int8-row': () => quantize(create({ ...SIZE, tieWordEmbeddings: false }), { group: 0 }),
    'int8-group': () => quantize(create(SIZE, 'bf16'), { group: 32 }),
    'gpt2-int8-row': () => quantize(create({ ...GPT2, tieWordEmbeddings: false })),
    'gpt2-int8-group': () => quantize(create(GPT2, 'bf16'), { group: 32 }),
  }
  for (const [name, make] of Object.entries(models)) {
    const decoder = await make()
    await decoder.save(join(folder, 'models', name))
    decoder.dispose()
    await expectations(join(folder, 'models', name))
  }
  // a folder of theirs, with several ends, saved again
  const theirs = await Decoder.load(join(golden, 'llama'))
  await theirs.save(join(folder, 'models', 'theirs-again'))
  theirs.dispose()
  await expectations(join(folder, 'models', 'theirs-again'), undefined, ['the fox', '<|end|> 今天'])

  for (const [name, says] of Object.entries(GENERATION)) {
    const path = join(folder, 'generation', name)
    cpSync(join(folder, 'models/llama'), path, { recursive: true })
    const file = join(path, 'generation_config.json')
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), ...says }))
    const decoder = await Decoder.load(path, { dtype: 'f32' })
    const prompt = Int32Array.from({ length: 12 }, (_, i) => 10 + i * 20)
    const { tokenIds: answer } = await decoder.generate(prompt).completion()
    const { generationDefaults: defaults, eosTokenIds: ends } = decoder
    writeFileSync(
      join(path, 'expected.json'),
      JSON.stringify({ defaults, ends, prompt: [...prompt], answer }),
    )
    decoder.dispose()
  }

  for (const [name, options] of [
    ['llama', {}],
    ['llama-dynamic', {}],
    ['gpt2', { externalData: true }],
    ['int8-row', {}],
    ['int8-group', {}],
  ]) {
    const from = join(folder, 'models', name)
    const decoder = await Decoder.load(from, { dtype: 'f32' })
    await exportOnnx(decoder, join(folder, 'onnx', name), options)
    decoder.dispose()
    await expectations(join(folder, 'onnx', name), from)
  }

  const split = { tokenizer, contextLength: 32, holdOut: 0.2, dedupe: false }
  const { train, validation } = await TextDataset.from([TEXT, TEXT, TEXT, TEXT], split)
  const trained = create(SIZE)
  const out = join(folder, 'run')
  await new Trainer(trained, { train, validation, out, batchSize: 2, steps: 9, evalEvery: 3 }).finish()
  await train.close()
  await validation.close()
}

const kept = process.argv[2]
const folder = kept ?? mkdtempSync(join(tmpdir(), 'fuselm-interop-'))
try {
  buildLibrary()
  await writeOurs(join(folder, 'ours'))
  run(python, [join(golden, 'check.py'), join(folder, 'ours')])
  run(python, [join(golden, 'make.py'), join(folder, 'theirs')])
  const vitest = join(root, 'node_modules/vitest/vitest.mjs')
  run(process.execPath, [vitest, 'run', 'test/models/interop.test.ts'], {
    FUSELM_INTEROP: join(folder, 'theirs'),
  })
  console.log('check-interop: all of it')
} finally {
  if (kept === undefined) rmSync(folder, { recursive: true, force: true })
}
