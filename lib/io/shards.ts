// The weights of a folder: model.safetensors, or shards and model.safetensors.index.json, which says in
// which shard a tensor lies. Names of shards come from the index, which is untrusted: a base name of a
// regular file inside the folder is all that one may be.

import { realpath } from 'node:fs/promises'
import { basename, dirname, join, sep } from 'node:path'
import { FormatError } from '../runtime/errors.ts'
import type { NewFile } from './atomic.ts'
import { JsonScanner, MAX_NAME_BYTES, QUOTE } from './json-scanner.ts'
import { type SafetensorsEntry, SafetensorsFile } from './safetensors.ts'
import { MAX_TENSORS } from './safetensors-header.ts'
import { byteLength, type SafetensorsInput, safetensorsBody } from './safetensors-write.ts'
import { explainMissing, ifThere, readWhole } from './small-file.ts'

const WEIGHTS = 'model.safetensors'
const INDEX = 'model.safetensors.index.json'
const PICKLED = 'a pickle, which is not read; save_pretrained of transformers writes safetensors'
/** What older models, and adapters, have in their place. */
const OTHER_WEIGHTS = {
  'pytorch_model.bin': PICKLED,
  'pytorch_model.bin.index.json': PICKLED,
  'adapter_model.safetensors': 'an adapter, which is loaded beside its base model',
}
const SHARD = /^model-\d{5}-of-\d{5}\.safetensors$/
const MAX_INDEX_BYTES = 64 * 2 ** 20
const MAX_SHARDS = 4096

/** Names of files that hold a model's weights, or say where they are. */
export function isWeightsFile(name: string): boolean {
  return name === WEIGHTS || name === INDEX || SHARD.test(name)
}

/** Tensors of a folder, read by position. One file is open at a time. */
export class WeightFiles {
  /** The file to name in errors that are no single tensor's. */
  readonly path: string
  /** In the order of their bytes, file after file: reading them so never goes back. */
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>
  readonly #files: ReadonlyMap<string, string>
  #open: SafetensorsFile | null

  private constructor(
    path: string,
    tensors: ReadonlyMap<string, SafetensorsEntry>,
    files: ReadonlyMap<string, string>,
    file: SafetensorsFile | null,
  ) {
    this.path = path
    this.tensors = tensors
    this.#files = files
    this.#open = file
  }

  /**
   * Opens `model.safetensors`, or where there is none the shards that the index names, each of whose headers
   * is checked.
   * @throws FormatError naming file, place, what was expected and what was found; the system's error when a
   *   file cannot be opened
   */
  static async open(folder: string): Promise<WeightFiles> {
    const single = join(folder, WEIGHTS)
    try {
      const file = await SafetensorsFile.open(single)
      const files = new Map([...file.tensors.keys()].map((name) => [name, single]))
      return new WeightFiles(single, file.tensors, files, file)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      const index = join(folder, INDEX)
      const bytes = await ifThere(readWhole(index, MAX_INDEX_BYTES))
      if (bytes === null) {
        const missing = `${WEIGHTS}, nor ${INDEX}`
        throw await explainMissing(error, { missing, folder, instead: OTHER_WEIGHTS })
      }
      return WeightFiles.#openShards(folder, index, bytes)
    }
  }

  static async #openShards(folder: string, index: string, bytes: Uint8Array): Promise<WeightFiles> {
    const { totalSize, shardOf } = new IndexScanner(bytes, index).scan()
    const fail = (expected: string, found: string): never => {
      throw new FormatError(`${index}: expected ${expected}, found ${found}`)
    }
    const shards = [...new Set(shardOf.values())].sort()
    if (shards.length === 0) fail('tensors in weight_map', 'none')
    if (shards.length > MAX_SHARDS) fail(`at most ${MAX_SHARDS} shards`, String(shards.length))
    const tensors = new Map<string, SafetensorsEntry>()
    const files = new Map<string, string>()
    let size = 0
    const paths = new Map<string, string>()
    for (const shard of shards) paths.set(shard, await shardPath(folder, index, shard))
    for (const [shard, path] of paths) {
      const file = await SafetensorsFile.open(path)
      await file.close()
      for (const [name, entry] of file.tensors) {
        const place = `weight_map of ${JSON.stringify(name)}`
        const named = shardOf.get(name)
        if (named !== shard) {
          fail(`${place} to be ${JSON.stringify(shard)}, which has it`, JSON.stringify(named) ?? 'none')
        }
        tensors.set(name, entry)
        files.set(name, path)
        size += entry.byteLength
      }
    }
    for (const [name, shard] of shardOf) {
      if (!tensors.has(name)) fail(`${JSON.stringify(name)} in ${JSON.stringify(shard)}`, 'no such tensor')
    }
    if (totalSize !== null && totalSize !== size) {
      fail(`metadata.total_size ${size}, the bytes of all tensors`, String(totalSize))
    }
    return new WeightFiles(index, tensors, files, null)
  }

  /** The file that has a tensor; `path` for a name that none has. */
  fileOf(name: string): string {
    return this.#files.get(name) ?? this.path
  }

  /**
   * Reads a part of a tensor's bytes, as {@link SafetensorsFile.readPart}.
   * @throws FormatError when the file is no more what it was when it was opened
   */
  async readPart(name: string, begin: number, target: Uint8Array): Promise<void> {
    const path = this.fileOf(name)
    if (this.#open?.path !== path) {
      await this.close()
      this.#open = await SafetensorsFile.open(path)
      const [was, is] = [this.tensors.get(name), this.#open.tensors.get(name)]
      if (is === undefined || is.offset !== was?.offset || is.byteLength !== was.byteLength) {
        throw new FormatError(`${path}: ${JSON.stringify(name)} moved while the model was being read`)
      }
    }
    await this.#open.readPart(name, begin, target)
  }

  async close(): Promise<void> {
    const file = this.#open
    this.#open = null
    await file?.close()
  }
}

/** Where a shard lies, whatever the index says of it. */
async function shardPath(folder: string, index: string, name: string): Promise<string> {
  const fail = (found: string): never => {
    throw new FormatError(
      `${index}: weight_map: expected the name of a .safetensors file beside it, found ${found}`,
    )
  }
  const shown = JSON.stringify(name.slice(0, 200))
  if (!name.endsWith('.safetensors') || basename(name) !== name || /[/\\\0]/.test(name)) fail(shown)
  const path = join(folder, name)
  const home = await realpath(folder)
  let real: string
  try {
    real = await realpath(path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENAMETOOLONG' || code === 'ELOOP')
      return fail(`${shown}: no such file`)
    throw error
  }
  if (dirname(real) !== home && !isHubBlob(home, real)) fail(`${shown}, a link out of the folder`)
  return path
}

/**
 * Hugging Face's cache keeps a model as links from <repository>/snapshots/<revision>/ to
 * <repository>/blobs/<hash>: both are the cache's own.
 */
function isHubBlob(home: string, real: string): boolean {
  const snapshots = dirname(home)
  if (basename(snapshots) !== 'snapshots') return false
  const blobs = `${dirname(snapshots)}${sep}blobs`
  return dirname(real) === blobs && /^[0-9a-f]{40,64}$/.test(basename(real))
}

/** { "metadata": { "total_size": 1, ... }, "weight_map": { "tensor": "shard", ... } } */
class IndexScanner extends JsonScanner {
  constructor(bytes: Uint8Array, file: string) {
    super(bytes, { place: (at) => `${file}, byte ${at}`, whole: 'the index' })
  }

  scan(): { totalSize: number | null; shardOf: ReadonlyMap<string, string> } {
    const found: { totalSize?: number | null; shardOf?: Map<string, string> } = {}
    this.members((key, at) => {
      if (key === 'metadata' && found.totalSize === undefined) found.totalSize = this.#metadata()
      else if (key === 'weight_map' && found.shardOf === undefined) found.shardOf = this.#weightMap()
      else this.fail('"metadata" and "weight_map", each once', JSON.stringify(key.slice(0, 40)), at)
    })
    this.end()
    const { totalSize = null, shardOf } = found
    if (shardOf === undefined) this.fail('a "weight_map"', 'none', 0)
    return { totalSize, shardOf }
  }

  /** Keys other than total_size are what the writer had to say: a text, a number, a word. */
  #metadata(): number | null {
    const sizes: number[] = []
    this.members((key, at) => {
      this.space()
      if (key === 'total_size') {
        if (sizes.length > 0) this.fail('one "total_size"', 'a second one', at)
        // some writers sum in floating point
        const size = Number(this.#word(/^\d+(?:\.0+)?$/, 'a number of bytes'))
        if (!Number.isSafeInteger(size)) this.fail('a total_size below 2^53', 'a larger one', at)
        sizes.push(size)
      } else if (this.bytes[this.at] === QUOTE) this.string(MAX_NAME_BYTES)
      else this.#word(/^(?:true|false|null|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)$/, 'a text, number or word')
    })
    return sizes[0] ?? null
  }

  #word(pattern: RegExp, what: string): string {
    const start = this.at
    while (/[-+.\w]/.test(String.fromCharCode(this.bytes[this.at] ?? 0)) && this.at - start < 64) this.at++
    const text = String.fromCharCode(...this.bytes.subarray(start, this.at))
    if (!pattern.test(text)) this.fail(what, this.excerpt(start), start)
    return text
  }

  #weightMap(): Map<string, string> {
    const shardOf = new Map<string, string>()
    this.members((name, at) => {
      if (shardOf.has(name)) this.fail('each tensor once', `${JSON.stringify(name)} again`, at)
      if (shardOf.size === MAX_TENSORS) this.fail(`at most ${MAX_TENSORS} tensors`, 'more', at)
      shardOf.set(name, this.string(MAX_NAME_BYTES))
    })
    return shardOf
  }
}

/** Tensors in files of at most `maxBytes`, in order; one larger than that has a file of its own. */
function cut(tensors: readonly SafetensorsInput[], maxBytes: number): SafetensorsInput[][] {
  const shards: SafetensorsInput[][] = [[]]
  let size = 0
  for (const tensor of tensors) {
    const bytes = byteLength(tensor)
    if (size > 0 && size + bytes > maxBytes) {
      shards.push([])
      size = 0
    }
    shards.at(-1)?.push(tensor)
    size += bytes
  }
  return shards
}

/** What to write for tensors: one file, or shards and their index. */
export function weightFiles(tensors: readonly SafetensorsInput[], maxShardBytes: number): NewFile[] {
  const shards = cut(tensors, maxShardBytes)
  if (shards.length === 1) return [{ name: WEIGHTS, body: safetensorsBody(tensors) }]
  const digits = (n: number): string => String(n).padStart(5, '0')
  const files = shards.map((shard, i) => ({
    name: `model-${digits(i + 1)}-of-${digits(shards.length)}.safetensors`,
    shard,
  }))
  const total = tensors.reduce((sum, tensor) => sum + byteLength(tensor), 0)
  const map = files.flatMap(({ name, shard }) => shard.map((tensor) => [tensor.name, name] as const))
  const index = {
    metadata: { total_size: total },
    weight_map: Object.fromEntries(map.sort(([a], [b]) => (a < b ? -1 : 1))),
  }
  const bytes = new TextEncoder().encode(`${JSON.stringify(index, null, 2)}\n`)
  return [
    ...files.map(({ name, shard }) => ({ name, body: safetensorsBody(shard) })),
    { name: INDEX, body: (write) => write(bytes) },
  ]
}
