// Token ids on disk, read by position: corpora need not fit into memory. (Not mapped: a mapped file that
// is cut short ends the process.)
//
//   bytes 0-7   "FSLMTOK1"
//   8-11        bytes of an id, 2 or 4      12-15  0
//   16-23       number of tokens            24-31  number of documents, both u64
//   32-         ids; the top bit marks a token that is no target of the loss
//   then        end of each document, in tokens, u64
//
// Little-endian. The counts are written last: a file that was not finished says 0 tokens.

import { createHash } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import { ConfigError, DisposedError, FormatError } from '../runtime/errors.ts'

const MAGIC = 'FSLMTOK1'
const HEADER_BYTES = 32
const BUFFERED = 1 << 18 // tokens
// of which a digest is made: enough to tell corpora apart, little enough to read at every start
const DIGEST_PARTS = 64
const DIGEST_BYTES = 4096

/** Writes a token file, document after document. */
export class TokenFileWriter {
  readonly path: string
  readonly #file: FileHandle
  readonly #width: 2 | 4
  readonly #buffer: Uint16Array | Uint32Array
  #held = 0
  #tokens = 0
  #written = HEADER_BYTES
  readonly #ends: number[] = []

  private constructor(path: string, file: FileHandle, width: 2 | 4) {
    this.path = path
    this.#file = file
    this.#width = width
    this.#buffer = width === 2 ? new Uint16Array(BUFFERED) : new Uint32Array(BUFFERED)
  }

  /** @param vocabSize ids are below it; decides between 2 and 4 bytes */
  static async create(path: string, vocabSize: number): Promise<TokenFileWriter> {
    const file = await open(path, 'w+')
    await file.write(new Uint8Array(HEADER_BYTES), 0, HEADER_BYTES, 0)
    return new TokenFileWriter(path, file, vocabSize <= 0x8000 ? 2 : 4)
  }

  get tokens(): number {
    return this.#tokens
  }

  get documents(): number {
    return this.#ends.length
  }

  /** @param isTarget whether the loss counts them */
  async append(ids: ArrayLike<number>, isTarget: boolean): Promise<void> {
    const mark = isTarget ? 0 : this.#width === 2 ? 0x8000 : 0x80000000
    for (let i = 0; i < ids.length; i++) {
      this.#buffer[this.#held++] = ((ids[i] as number) | mark) >>> 0
      if (this.#held === BUFFERED) await this.#flush()
    }
    this.#tokens += ids.length
  }

  /** A document without tokens leaves no trace. */
  endDocument(): void {
    if (this.#tokens > (this.#ends.at(-1) ?? 0)) this.#ends.push(this.#tokens)
  }

  async #flush(): Promise<void> {
    const bytes = new Uint8Array(this.#buffer.buffer, 0, this.#held * this.#width)
    await writeFully(this.#file, bytes, this.#written)
    this.#written += bytes.length
    this.#held = 0
  }

  /** Completes the file and opens it for reading. */
  async finish(): Promise<TokenFile> {
    this.endDocument()
    await this.#flush()
    const ends = BigUint64Array.from(this.#ends, BigInt)
    await writeFully(this.#file, new Uint8Array(ends.buffer), this.#written)
    await this.#file.sync()
    const header = new Uint8Array(HEADER_BYTES)
    const view = new DataView(header.buffer)
    header.set(new TextEncoder().encode(MAGIC))
    view.setUint32(8, this.#width, true)
    view.setBigUint64(16, BigInt(this.#tokens), true)
    view.setBigUint64(24, BigInt(this.#ends.length), true)
    await writeFully(this.#file, header, 0)
    await this.#file.sync()
    return new TokenFile(this.path, this.#file, this.#width, this.#tokens, Float64Array.from(this.#ends))
  }
}

async function writeFully(file: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done, bytes.length - done, at + done)).bytesWritten
  }
}

/** A finished token file. */
export class TokenFile {
  readonly path: string
  readonly tokens: number
  /** Where each document ends, in tokens; ascending. */
  readonly documentEnds: Float64Array
  readonly #file: FileHandle
  readonly #width: 2 | 4
  #closed = false

  /** @internal */
  constructor(path: string, file: FileHandle, width: 2 | 4, tokens: number, documentEnds: Float64Array) {
    this.path = path
    this.#file = file
    this.#width = width
    this.tokens = tokens
    this.documentEnds = documentEnds
  }

  /** @throws FormatError for a file that is none, or was not finished */
  static async open(path: string): Promise<TokenFile> {
    const file = await open(path)
    try {
      const { size } = await file.stat()
      const fail = (expected: string, found: string): never => {
        throw new FormatError(`${path}: expected ${expected}, found ${found}`)
      }
      if (size < HEADER_BYTES) fail(`a token file of at least ${HEADER_BYTES} bytes`, `${size}`)
      const header = await readFully(file, path, 0, HEADER_BYTES)
      const view = new DataView(header.buffer)
      const magic = new TextDecoder('latin1').decode(header.subarray(0, 8))
      if (magic !== MAGIC) fail(`a finished token file ("${MAGIC}")`, JSON.stringify(magic))
      const width = view.getUint32(8, true)
      if (width !== 2 && width !== 4) return fail('ids of 2 or 4 bytes', String(width))
      const tokens = Number(view.getBigUint64(16, true))
      const documents = Number(view.getBigUint64(24, true))
      const expected = HEADER_BYTES + tokens * width + documents * 8
      if (size !== expected)
        fail(`${expected} bytes for ${tokens} tokens of ${documents} documents`, `${size}`)
      const bytes = await readFully(file, path, HEADER_BYTES + tokens * width, documents * 8)
      const ends = Float64Array.from(new BigUint64Array(bytes.buffer), Number)
      let last = 0
      for (const end of ends) {
        if (end <= last || end > tokens) fail('documents whose ends ascend', `${end} after ${last}`)
        last = end
      }
      if (last !== tokens) fail(`the last document to end at ${tokens}`, String(last))
      return new TokenFile(path, file, width, tokens, ends)
    } catch (error) {
      await file.close()
      throw error
    }
  }

  /**
   * Ids from `begin` on, into `ids`; `labels` get the same, or -100 where a token is no target.
   * @throws FormatError when the file was cut short meanwhile
   */
  async read(begin: number, ids: Int32Array, labels: Int32Array): Promise<void> {
    this.#checkOpen()
    if (begin < 0 || begin + ids.length > this.tokens || labels.length !== ids.length) {
      throw new ConfigError(`${this.path}: no tokens ${begin} to ${begin + ids.length} among ${this.tokens}`)
    }
    const width = this.#width
    const bytes = await readFully(this.#file, this.path, HEADER_BYTES + begin * width, ids.length * width)
    const values = width === 2 ? new Uint16Array(bytes.buffer) : new Uint32Array(bytes.buffer)
    const mark = width === 2 ? 0x8000 : 0x80000000
    for (let i = 0; i < ids.length; i++) {
      const value = values[i] as number
      ids[i] = value >= mark ? value - mark : value
      labels[i] = value >= mark ? -100 : value
    }
  }

  /** A hash of the counts, the ends of documents and tokens from all over the file. */
  async digest(): Promise<string> {
    this.#checkOpen()
    const hash = createHash('sha256').update(`${this.tokens} ${this.documentEnds.length} ${this.#width}`)
    hash.update(
      new Uint8Array(
        this.documentEnds.buffer,
        this.documentEnds.byteOffset,
        Math.min(this.documentEnds.byteLength, DIGEST_BYTES),
      ),
    )
    const bytes = this.tokens * this.#width
    for (let part = 0; part < DIGEST_PARTS; part++) {
      const at = Math.floor(((bytes - DIGEST_BYTES) * part) / (DIGEST_PARTS - 1))
      if (at < 0 && part > 0) break // a small file is read once, whole
      const begin = Math.max(0, at)
      hash.update(
        await readFully(this.#file, this.path, HEADER_BYTES + begin, Math.min(DIGEST_BYTES, bytes - begin)),
      )
    }
    return hash.digest('hex').slice(0, 16)
  }

  /** Twice is once. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#file.close()
  }

  #checkOpen(): void {
    if (this.#closed) throw new DisposedError(`${this.path}: read after close()`)
  }
}

async function readFully(
  file: FileHandle,
  path: string,
  at: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length)
  for (let done = 0; done < length; ) {
    const { bytesRead } = await file.read(bytes, done, length - done, at + done)
    if (bytesRead === 0) {
      throw new FormatError(
        `${path}: expected ${length} bytes at ${at}, found ${done}: the file was cut short`,
      )
    }
    done += bytesRead
  }
  return bytes
}
