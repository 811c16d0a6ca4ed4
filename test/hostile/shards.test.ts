// Hostile indices of sharded weights: each ends in a FormatError that names the index or the shard, and no
// file outside the folder is read.

import { execFileSync } from 'node:child_process'
import {
  copyFileSync,
  cpSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { WeightFiles } from '../../lib/io/shards.ts'
import { FormatError } from '../../lib/runtime/errors.ts'

const golden = fileURLToPath(new URL('../golden/sharded/model', import.meta.url))
const INDEX = 'model.safetensors.index.json'
const SHARDS = [1, 2, 3].map((i) => `model-0000${i}-of-00003.safetensors`) as [string, string, string]
const HEAD = 'lm_head.weight'

let folder: string
let made = 0
beforeAll(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'fuselm-index-')))
})
afterAll(() => rmSync(folder, { recursive: true }))

interface Index {
  metadata: Record<string, unknown>
  weight_map: Record<string, unknown>
}

/** A copy of the golden folder, one level down, with its index changed. */
function copy(change: (index: Index, path: string) => unknown = () => undefined): string {
  const path = join(folder, String(made++), 'model')
  cpSync(golden, path, { recursive: true })
  const index = JSON.parse(readFileSync(join(path, INDEX), 'utf8')) as Index
  const text = change(index, path)
  writeFileSync(join(path, INDEX), typeof text === 'string' ? text : JSON.stringify(index))
  return path
}

async function readWhole(path: string): Promise<number> {
  const files = await WeightFiles.open(path)
  try {
    let bytes = 0
    for (const [name, { byteLength }] of files.tensors) {
      await files.readPart(name, 0, new Uint8Array(byteLength))
      bytes += byteLength
    }
    return bytes
  } finally {
    await files.close()
  }
}

async function refused(path: string, message: RegExp): Promise<void> {
  const began = performance.now()
  const error = await readWhole(path).then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  expect(error).toBeInstanceOf(FormatError)
  expect(error).toMatchObject({ code: 'ERR_FORMAT', message: expect.stringMatching(message) })
  expect((error as FormatError).message).toContain(path)
  expect((error as FormatError).message.length).toBeLessThan(2000)
  expect(performance.now() - began).toBeLessThan(5000)
}

test('the folder as it is', async () => {
  expect(await readWhole(copy())).toBe(39232)
})

describe('names of shards', () => {
  test.each([
    '../x.safetensors',
    'a/../../x.safetensors',
    '/etc/passwd',
    '/x.safetensors',
    './x.safetensors',
    'a/x.safetensors',
    'a\\x.safetensors',
    '..\\x.safetensors',
    'x.safetensors\0',
    'x\0.safetensors',
    '',
    '.',
    '..',
    '.safetensors/',
    'x.bin',
    'config.json',
    '__proto__',
    'x'.repeat(4000),
  ])('%j', async (name) => {
    const path = copy((index, path) => {
      index.weight_map[HEAD] = name
      // what they point at is a file that would load
      copyFileSync(join(path, SHARDS[2]), join(path, '..', 'x.safetensors'))
    })
    await refused(path, /weight_map: expected the name of a \.safetensors file beside it/)
  })

  test.each([7, null, ['a'], { a: 1 }, true])('%j instead of a name', async (value) => {
    await refused(
      copy((index) => {
        index.weight_map[HEAD] = value
      }),
      /byte \d+: expected a string/,
    )
  })

  test('a file that is missing, and one whose name is too long for the system', async () => {
    for (const name of ['none.safetensors', `${'x'.repeat(300)}.safetensors`]) {
      await refused(
        copy((index) => {
          index.weight_map[HEAD] = name
        }),
        /no such file/,
      )
    }
  })
})

describe('what stands there', () => {
  const replaced = (make: (shard: string, path: string) => void): string =>
    copy((_, path) => {
      const shard = join(path, SHARDS[2])
      copyFileSync(shard, join(path, '..', 'outside.safetensors'))
      rmSync(shard)
      make(shard, path)
    })

  test('a link out of the folder', async () => {
    await refused(
      replaced((shard, path) => symlinkSync(join(path, '..', 'outside.safetensors'), shard)),
      /a link out of the folder/,
    )
    await refused(
      replaced((shard) => symlinkSync('../outside.safetensors', shard)),
      /a link out of the folder/,
    )
  })

  test('a link to itself, to nothing, to a folder', async () => {
    await refused(replaced((shard) => symlinkSync(SHARDS[2], shard)), /no such file/)
    await refused(replaced((shard) => symlinkSync('nothing', shard)), /no such file/)
    await refused(replaced((shard) => symlinkSync('.', shard)), /a link out of the folder|regular file/)
  })

  test('a FIFO, without waiting for a writer; a device; a folder', async () => {
    await refused(
      replaced((shard) => execFileSync('mkfifo', [shard])),
      /regular file, found a FIFO/,
    )
    await refused(replaced((shard) => symlinkSync('/dev/zero', shard)), /a link out of the folder/)
    await refused(replaced((shard) => mkdirSync(shard)), /regular file/)
  })

  test('a FIFO as the index', async () => {
    const path = copy()
    rmSync(join(path, INDEX))
    execFileSync('mkfifo', [join(path, INDEX)])
    await refused(path, /regular file/)
  })

  test('a link inside the folder, a hard link, and the links of the Hugging Face cache load', async () => {
    const inside = replaced((shard, path) => {
      copyFileSync(join(path, '..', 'outside.safetensors'), join(path, 'real.safetensors'))
      symlinkSync('real.safetensors', shard)
    })
    expect(await readWhole(inside)).toBe(39232)
    const hard = replaced((shard, path) => linkSync(join(path, '..', 'outside.safetensors'), shard))
    expect(await readWhole(hard)).toBe(39232)

    const repository = join(folder, 'models--a--b')
    const snapshot = join(repository, 'snapshots', 'c0ffee')
    const blobs = join(repository, 'blobs')
    mkdirSync(blobs, { recursive: true })
    cpSync(golden, snapshot, { recursive: true })
    SHARDS.forEach((name, i) => {
      const hash = String(i).repeat(64)
      copyFileSync(join(snapshot, name), join(blobs, hash))
      rmSync(join(snapshot, name))
      symlinkSync(`../../blobs/${hash}`, join(snapshot, name))
    })
    expect(await readWhole(snapshot)).toBe(39232)
    // but not whatever stands beside the blobs
    copyFileSync(join(blobs, '2'.repeat(64)), join(repository, 'refs'))
    rmSync(join(snapshot, SHARDS[2]))
    symlinkSync('../../refs', join(snapshot, SHARDS[2]))
    await refused(snapshot, /a link out of the folder/)
  })
})

describe('index and shards that do not agree', () => {
  test('a tensor in another shard than the index says', async () => {
    await refused(
      copy((index) => {
        index.weight_map[HEAD] = SHARDS[0]
      }),
      /weight_map of "lm_head.weight" to be "model-00003-of-00003.safetensors", which has it/,
    )
  })

  test('a tensor that the index does not name', async () => {
    await refused(
      copy((index) => {
        delete index.weight_map[HEAD]
      }),
      /weight_map of "lm_head.weight".*found none/,
    )
  })

  test('a tensor that no shard has', async () => {
    await refused(
      copy((index) => {
        index.weight_map['ghost'] = SHARDS[0]
      }),
      /"ghost" in "model-00001-of-00003.safetensors", found no such tensor/,
    )
  })

  test('a shard under two names: its tensors are there twice', async () => {
    await refused(
      copy((index, path) => {
        copyFileSync(join(path, SHARDS[0]), join(path, 'again.safetensors'))
        index.weight_map['ghost'] = 'again.safetensors'
      }),
      /weight_map of .* to be "again.safetensors", which has it/,
    )
  })

  test('a tensor twice in the index, a key twice', async () => {
    await refused(
      copy((index) => JSON.stringify(index).replace('"weight_map":{', `"weight_map":{"${HEAD}":"${SHARDS[2]}",`)),
      /expected each tensor once, found "lm_head.weight" again/,
    )
    await refused(copy((index) => `{"weight_map":{},${JSON.stringify(index).slice(1)}`), /each once/)
  })

  test.each([0, 1, 39231, 39233, 2 ** 53 - 1])('a total size of %d', async (size) => {
    await refused(
      copy((index) => {
        index.metadata['total_size'] = size
      }),
      new RegExp(`total_size 39232, the bytes of all tensors, found ${size}`),
    )
  })

  test.each([-1, 1.5, '39232', null, [1], 1e300, 2 ** 53])('a total size of %j', async (size) => {
    await refused(
      copy((index) => {
        index.metadata['total_size'] = size
      }),
      /expected a number of bytes|below 2\^53/,
    )
  })

  test('without a total size, and with one in floating point, it loads', async () => {
    expect(await readWhole(copy((index) => JSON.stringify({ weight_map: index.weight_map })))).toBe(39232)
    const float = copy((index) => JSON.stringify(index).replace('39232', '39232.0'))
    expect(await readWhole(float)).toBe(39232)
  })

  test('a shard that is cut short, when it is opened and afterwards', async () => {
    const path = copy()
    truncateSync(join(path, SHARDS[1]), 1000)
    await refused(path, /truncated|expected/)
    const later = copy()
    const files = await WeightFiles.open(later)
    truncateSync(join(later, SHARDS[1]), 1000)
    const entry = files.tensors.get('model.layers.0.mlp.down_proj.weight')
    await expect(
      files.readPart('model.layers.0.mlp.down_proj.weight', 0, new Uint8Array(entry?.byteLength ?? 0)),
    ).rejects.toThrow(FormatError)
    await files.close()
  })

  test('a shard replaced after it was opened', async () => {
    const path = copy()
    const files = await WeightFiles.open(path)
    copyFileSync(join(path, SHARDS[0]), join(path, SHARDS[2]))
    await expect(files.readPart(HEAD, 0, new Uint8Array(8))).rejects.toThrow(/moved while the model was being read/)
    await files.close()
  })
})

describe('an index that is none', () => {
  test.each<[string, RegExp]>([
    ['', /expected "\{"/],
    ['[]', /expected "\{"/],
    ['null', /expected "\{"/],
    ['{}', /a "weight_map", found none/],
    ['{"weight_map":{}}', /tensors in weight_map, found none/],
    ['{"weight_map":[]}', /expected "\{"/],
    ['{"weight_map":"x"}', /expected "\{"/],
    ['{"metadata":[],"weight_map":{}}', /expected "\{"/],
    ['{"metadata":{"x":[]},"weight_map":{}}', /a text, number or word/],
    ['{"metadata":{"x":{}},"weight_map":{}}', /a text, number or word/],
    ['{"weight_map":{}} {}', /only spaces after/],
    ['{"weight_map":{},}', /a string/],
    ['{"other":1,"weight_map":{}}', /"metadata" and "weight_map", each once, found "other"/],
    ['{"weight_map":{"\\ud800":"x"}}', /well-formed Unicode/],
    [`{"weight_map":${'{"a":'.repeat(100_000)}`, /a string/],
  ])('%s', async (text, message) => {
    await refused(
      copy(() => (text === '' ? ' ' : text)),
      message,
    )
  })

  test('too many shards, too many bytes', async () => {
    const map = Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`t${i}`, `s${i}.safetensors`]))
    await refused(
      copy(() => JSON.stringify({ weight_map: map })),
      /at most 4096 shards, found 5000/,
    )
    const path = copy()
    truncateSync(join(path, INDEX), 64 * 2 ** 20 + 1)
    await refused(path, /at most 67108864 bytes/)
  })

  test('cut at every byte', async () => {
    const path = copy()
    const text = readFileSync(join(path, INDEX))
    for (let length = 0; length < text.length; length++) {
      writeFileSync(join(path, INDEX), text.subarray(0, length))
      await expect(WeightFiles.open(path), `at ${length}`).rejects.toThrow(FormatError)
    }
  })

  test('1,000 bit flips: a FormatError, or the same tensors', async () => {
    const path = copy()
    const text = readFileSync(join(path, INDEX))
    let refusals = 0
    let state = 99
    for (let i = 0; i < 1000; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      const bit = state % (text.length * 8)
      const mutated = Buffer.from(text)
      mutated[bit >> 3] = (mutated[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      writeFileSync(join(path, INDEX), mutated)
      const error = await readWhole(path).then(
        (bytes) => {
          expect(bytes).toBe(39232)
        },
        (thrown: unknown) => thrown,
      )
      if (error === undefined) continue
      expect(error).toBeInstanceOf(FormatError)
      refusals++
    }
    expect(refusals).toBeGreaterThan(800)
  })

  test('neither weights nor index: the system says which file is missing', async () => {
    const path = copy()
    rmSync(join(path, INDEX))
    await expect(WeightFiles.open(path)).rejects.toMatchObject({
      code: 'ENOENT',
      message: expect.stringMatching(/has no model\.safetensors, nor model\.safetensors\.index\.json$/),
    })
    writeFileSync(join(path, 'pytorch_model.bin'), '')
    await expect(WeightFiles.open(path)).rejects.toThrow(/it has pytorch_model\.bin: a pickle, which is not read/)
    await expect(WeightFiles.open(join(path, 'none'))).rejects.toThrow(/ENOENT: there is no folder '.*none'/)
  })
})
