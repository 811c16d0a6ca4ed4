// The quickstart's text: the TypeScript declaration files of the packages in node_modules.
import type { Dirent } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'

export interface Corpus {
  readonly train: readonly string[]
  readonly heldOut: readonly string[]
  /** Names of the packages held out. */
  readonly heldOutFamilies: readonly string[]
}

/** `@vitest/runner` and `vitest` are one family, `typescript-7` and `typescript` too: they share text. */
function family(path: string): string {
  const name = path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length)
  return name.replace(/^@/, '').split(/[/-]/)[0] ?? name
}

/**
 * Finds declaration files and holds out whole package families, every fifth in the order of their
 * names. Of one family at most `maxBytes` are taken; a file of a name and size seen before is a copy
 * and left out.
 */
export async function findDeclarations(root: string, { maxBytes = 1_000_000 } = {}): Promise<Corpus> {
  const entries: Dirent[] = await readdir(root, { recursive: true, withFileTypes: true })
  const paths = entries
    .filter((entry) => entry.isFile() && entry.name.endsWith('.d.ts'))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort()
  const families = new Map<string, { files: string[]; bytes: number }>()
  const seen = new Set<string>()
  for (const path of paths) {
    const { size } = await stat(path)
    const name = family(path)
    const known = families.get(name) ?? { files: [], bytes: 0 }
    families.set(name, known)
    const copy = `${basename(path)} ${size}`
    if (seen.has(copy) || known.bytes + size > maxBytes) continue
    seen.add(copy)
    known.files.push(path)
    known.bytes += size
  }
  const train: string[] = []
  const heldOut: string[] = []
  const heldOutFamilies: string[] = []
  const sorted = [...families].filter(([, { bytes }]) => bytes > 2000).sort(([a], [b]) => (a < b ? -1 : 1))
  for (const [i, [name, { files }]] of sorted.entries()) {
    if (i % 5 === 2) {
      heldOutFamilies.push(name)
      heldOut.push(...files)
    } else {
      train.push(...files)
    }
  }
  return { train, heldOut, heldOutFamilies }
}
