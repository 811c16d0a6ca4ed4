// A LLaMA as a GGUF file, for llama.cpp beside us: version 3 of the format, with the names and the order of
// rows that llama.cpp gives the architecture. The vocabulary is made up; only its size is of interest.
// Source: docs/gguf.md of ggml; the layout of Q8_0 and the order of query and key rows from the converters
// of llama.cpp, checked by equal continuations (bench/generate.bench.ts).

import { type FileHandle, open } from 'node:fs/promises'
import type { Llama, Tensor } from 'fuselm'

/** Of the matrices; vectors are float32. */
export type GgufDtype = 'bf16' | 'q8_0'

const ALIGNMENT = 32
const TYPE = { u32: 4, i32: 5, f32: 6, string: 8, array: 9 } as const
const GGML = { f32: 0, q8_0: 8, bf16: 30 } as const
const BLOCK = 32 // values of a Q8_0 scale

/** Entries without which llama.cpp does not start: control, and one a byte. Kinds as in its sources. */
const SPECIAL: readonly { readonly text: string; readonly kind: number }[] = [
  { text: '<unk>', kind: 2 },
  { text: '<s>', kind: 3 },
  { text: '</s>', kind: 3 },
  ...Array.from({ length: 256 }, (_, byte) => ({
    text: `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
    kind: 6,
  })),
]

class Bytes {
  readonly #parts: Uint8Array[] = []
  #length = 0

  get length(): number {
    return this.#length
  }
  raw(bytes: Uint8Array): this {
    this.#parts.push(bytes)
    this.#length += bytes.length
    return this
  }
  u32(value: number): this {
    return this.raw(new Uint8Array(Uint32Array.of(value).buffer))
  }
  u64(value: number): this {
    return this.raw(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer))
  }
  f32(value: number): this {
    return this.raw(new Uint8Array(Float32Array.of(value).buffer))
  }
  string(text: string): this {
    const bytes = new TextEncoder().encode(text)
    return this.u64(bytes.length).raw(bytes)
  }
  all(): Uint8Array {
    return Buffer.concat(this.#parts)
  }
}

function half(value: number): number {
  // of scales alone: positive, normal, rounded to nearest even
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0
  const exponent = ((bits >>> 23) & 0xff) - 127 + 15
  if (exponent <= 0) return 0
  const mantissa = (bits >>> 13) & 0x3ff
  const rest = bits & 0x1fff
  const up = rest > 0x1000 || (rest === 0x1000 && mantissa & 1) ? 1 : 0
  return ((exponent << 10) | mantissa) + up
}

function toBf16(values: Float32Array): Uint8Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const out = new Uint16Array(values.length)
  for (const [i, b] of bits.entries()) out[i] = (b + 0x7fff + ((b >>> 16) & 1)) >>> 16
  return new Uint8Array(out.buffer)
}

function toQ8(values: Float32Array): Uint8Array {
  const out = new DataView(new ArrayBuffer((values.length / BLOCK) * (BLOCK + 2)))
  for (let at = 0, to = 0; at < values.length; at += BLOCK, to += BLOCK + 2) {
    const block = values.subarray(at, at + BLOCK)
    const scale = block.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127
    out.setUint16(to, half(scale), true)
    for (const [i, x] of block.entries()) out.setInt8(to + 2 + i, scale === 0 ? 0 : Math.round(x / scale))
  }
  return new Uint8Array(out.buffer)
}

/** Rows of a head in pairs: llama.cpp turns neighbours, Hugging Face the halves. */
function interleaved(values: Float32Array, heads: number, columns: number): Float32Array {
  const size = values.length / columns / heads
  const out = new Float32Array(values.length)
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < size; i++) {
      const from = head * size + (i % 2) * (size / 2) + Math.floor(i / 2)
      out.set(values.subarray(from * columns, (from + 1) * columns), (head * size + i) * columns)
    }
  }
  return out
}

const NAMES: readonly (readonly [RegExp, string])[] = [
  [/^model\.embedTokens\.weight$/, 'token_embd.weight'],
  [/^model\.norm\.weight$/, 'output_norm.weight'],
  [/^lmHead\.weight$/, 'output.weight'],
  [/^model\.layers\.(\d+)\.inputLayernorm\.weight$/, 'blk.$1.attn_norm.weight'],
  [/^model\.layers\.(\d+)\.postAttentionLayernorm\.weight$/, 'blk.$1.ffn_norm.weight'],
  [/^model\.layers\.(\d+)\.selfAttn\.([qkv])Proj\.weight$/, 'blk.$1.attn_$2.weight'],
  [/^model\.layers\.(\d+)\.selfAttn\.oProj\.weight$/, 'blk.$1.attn_output.weight'],
  [/^model\.layers\.(\d+)\.mlp\.(gate|up|down)Proj\.weight$/, 'blk.$1.ffn_$2.weight'],
]

interface Entry {
  readonly name: string
  readonly tensor: Tensor
  readonly type: number
  readonly bytes: number
}

function entries(model: Llama, dtype: GgufDtype): Entry[] {
  return [...model.namedParameters()].map(([path, tensor]) => {
    const [pattern, to] = NAMES.find(([from]) => from.test(path)) ?? []
    if (pattern === undefined || to === undefined) throw new Error(`gguf: no name for ${path}`)
    const name = path.replace(pattern, to)
    if (tensor.shape.length === 1) return { name, tensor, type: GGML.f32, bytes: 4 * tensor.size }
    const bytes = dtype === 'bf16' ? 2 * tensor.size : (tensor.size / BLOCK) * (BLOCK + 2)
    return { name, tensor, type: GGML[dtype], bytes }
  })
}

function metadata({ config }: Llama): { count: number; bytes: Uint8Array } {
  const out = new Bytes()
  let count = 0
  const key = (name: string, type: keyof typeof TYPE): Bytes => {
    count++
    return out.string(name).u32(TYPE[type])
  }
  key('general.architecture', 'string').string('llama')
  const sizes: [string, number][] = [
    ['context_length', config.maxPositionEmbeddings],
    ['embedding_length', config.hiddenSize],
    ['block_count', config.numHiddenLayers],
    ['feed_forward_length', config.intermediateSize],
    ['attention.head_count', config.numAttentionHeads],
    ['attention.head_count_kv', config.numKeyValueHeads],
    ['rope.dimension_count', config.headDim],
    ['vocab_size', config.vocabSize],
  ]
  for (const [name, value] of sizes) key(`llama.${name}`, 'u32').u32(value)
  key('llama.attention.layer_norm_rms_epsilon', 'f32').f32(config.rmsNormEps)
  key('llama.rope.freq_base', 'f32').f32(config.ropeTheta)
  key('tokenizer.ggml.model', 'string').string('llama')
  const list = (name: string, type: keyof typeof TYPE): Bytes =>
    key(name, 'array').u32(TYPE[type]).u64(config.vocabSize)
  const tokens = list('tokenizer.ggml.tokens', 'string')
  for (let i = 0; i < config.vocabSize; i++) tokens.string(SPECIAL[i]?.text ?? `▁${i}`)
  list('tokenizer.ggml.scores', 'f32').raw(new Uint8Array(4 * config.vocabSize))
  const kinds = Int32Array.from({ length: config.vocabSize }, (_, i) => SPECIAL[i]?.kind ?? 1)
  list('tokenizer.ggml.token_type', 'i32').raw(new Uint8Array(kinds.buffer))
  key('tokenizer.ggml.bos_token_id', 'u32').u32(1)
  key('tokenizer.ggml.eos_token_id', 'u32').u32(2)
  return { count, bytes: out.all() }
}

const padded = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT

async function writeTensor(
  file: FileHandle,
  { name, tensor, type }: Entry,
  config: Llama['config'],
): Promise<void> {
  let values = (await tensor.toArray()) as Float32Array
  const [, columns = 1] = tensor.shape
  if (name.endsWith('attn_q.weight')) values = interleaved(values, config.numAttentionHeads, columns)
  if (name.endsWith('attn_k.weight')) values = interleaved(values, config.numKeyValueHeads, columns)
  const bytes =
    type === GGML.bf16
      ? toBf16(values)
      : type === GGML.q8_0
        ? toQ8(values)
        : new Uint8Array(values.buffer, values.byteOffset, 4 * values.length)
  await file.write(bytes)
  await file.write(new Uint8Array(padded(bytes.length) - bytes.length))
}

/** Writes the model with its matrices in `dtype`. Not for models with features that LLaMA has not. */
export async function writeGguf(model: Llama, path: string, dtype: GgufDtype): Promise<void> {
  const list = entries(model, dtype)
  const { count, bytes } = metadata(model)
  const head = new Bytes().raw(new TextEncoder().encode('GGUF')).u32(3).u64(list.length).u64(count).raw(bytes)
  let offset = 0
  for (const { name, tensor, type, bytes } of list) {
    head.string(name).u32(tensor.shape.length)
    for (const size of [...tensor.shape].reverse()) head.u64(size)
    head.u32(type).u64(offset)
    offset += padded(bytes)
  }
  const file = await open(path, 'w')
  try {
    await file.write(head.raw(new Uint8Array(padded(head.length) - head.length)).all())
    for (const entry of list) await writeTensor(file, entry, model.config)
  } finally {
    await file.close()
  }
}
