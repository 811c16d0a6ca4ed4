// The quickstart's text: the TypeScript declaration files of the packages in node_modules.
import { createHash } from 'node:crypto'
import type { Dirent } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'

export interface Corpus {
  readonly train: readonly string[]
  readonly heldOut: readonly string[]
  /** Names of the package families held out. */
  readonly heldOutFamilies: readonly string[]
  readonly trainBytes: number
  readonly heldOutBytes: number
  /** Files whose bytes another one has. */
  readonly copies: number
  /** Files most of whose lines stand in larger ones. */
  readonly nearCopies: number
}

/** `@vitest/runner` and `vitest` are one family, `typescript-7` and `typescript` too: they share text. */
function family(path: string): string {
  const name = path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length)
  return name.replace(/^@/, '').split(/[/-]/)[0] ?? name
}

const digest = (content: string | Buffer): string => createHash('sha256').update(content).digest('hex')

interface Declaration {
  readonly path: string
  readonly content: Buffer
}

/** Lines long enough to say something. */
function linesOf({ content }: Declaration): string[] {
  const lines = content.toString('utf8').split('\n')
  return lines.map((line) => line.trim()).filter((line) => line.length > 20)
}

/**
 * Finds declaration files, leaves out copies, and holds out whole package families until they are a
 * twentieth of the text: in the order of a hash of their names, so that no one chose them and a package
 * more or less changes little. A family that is as large as that by itself is always trained on: many
 * small ones are the better judge.
 */
export async function findDeclarations(root: string): Promise<Corpus> {
  const entries: Dirent[] = await readdir(root, { recursive: true, withFileTypes: true })
  const paths = entries
    .filter((entry) => entry.isFile() && entry.name.endsWith('.d.ts'))
    .map((entry) => join(entry.parentPath, entry.name))
  const files: Declaration[] = []
  for (const path of paths.sort()) files.push({ path, content: await readFile(path) })
  const { kept, copies, nearCopies } = await withoutCopies(files)

  const families = new Map<string, { files: string[]; bytes: number }>()
  let bytes = 0
  for (const { path, content } of kept) {
    const name = family(path)
    const known = families.get(name) ?? { files: [], bytes: 0 }
    families.set(name, known)
    known.files.push(path)
    known.bytes += content.length
    bytes += content.length
  }
  const train: string[] = []
  const heldOut: string[] = []
  const heldOutFamilies: string[] = []
  let heldOutBytes = 0
  const order = [...families].sort(([a], [b]) => (digest(a) < digest(b) ? -1 : 1))
  for (const [name, group] of order) {
    if (heldOutBytes >= bytes / 20 || group.bytes >= bytes / 20) {
      train.push(...group.files)
      continue
    }
    heldOut.push(...group.files)
    heldOutFamilies.push(name)
    heldOutBytes += group.bytes
  }
  return {
    train: train.sort(),
    heldOut: heldOut.sort(),
    heldOutFamilies,
    trainBytes: bytes - heldOutBytes,
    heldOutBytes,
    copies,
    nearCopies,
  }
}

/** Leaves out what another file has byte for byte, and what mostly repeats the lines of larger files. */
async function withoutCopies(
  files: readonly Declaration[],
): Promise<{ kept: Declaration[]; copies: number; nearCopies: number }> {
  const contents = new Set<string>()
  const lines = new Set<string>()
  const kept: Declaration[] = []
  let copies = 0
  let nearCopies = 0
  for (const file of [...files].sort((a, b) => b.content.length - a.content.length)) {
    await setImmediate()
    const key = digest(file.content)
    if (contents.has(key)) {
      copies++
      continue
    }
    contents.add(key)
    let [known, all] = [0, 0]
    const own = linesOf(file)
    for (const line of own) {
      all += line.length
      if (lines.has(line)) known += line.length
    }
    if (all > 200 && known > all / 2) {
      nearCopies++
      continue
    }
    for (const line of own) lines.add(line)
    kept.push(file)
  }
  return { kept, copies, nearCopies }
}
