// Files that an argument means: a file, a folder of text, a pattern.

import { readdir, stat } from 'node:fs/promises'
import { extname, join, sep } from 'node:path'
import { fail } from './command.ts'

const TEXT = new Set(['.txt', '.md', '.jsonl', '.text'])

/** `*` within a name, `**` across folders, `?` one character. */
function patternOf(glob: string): RegExp {
  const source = glob
    .replace(/[.+^${}()|[\]\\]/g, '\\$&')
    .replace(/\*\*\/|\*\*|\*|\?/g, (part) =>
      part === '**/' ? '(?:.*/)?' : part === '**' ? '.*' : part === '*' ? '[^/]*' : '[^/]',
    )
  return new RegExp(`^${source}$`)
}

async function below(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
}

/**
 * Files, sorted, each once. Of folders those with the endings of text (.txt, .md, .jsonl); of a pattern
 * whatever matches.
 * @throws UsageError when an argument means nothing
 */
export async function expandFiles(option: string, paths: readonly string[]): Promise<string[]> {
  const found = new Set<string>()
  for (const path of paths) {
    const known = await stat(path).catch(() => null)
    let files: string[]
    if (known?.isDirectory())
      files = (await below(path)).filter((file) => TEXT.has(extname(file).toLowerCase()))
    else if (known !== null) files = [path]
    else if (/[*?]/.test(path)) {
      const fixed = path.slice(0, path.search(/[*?]/))
      const root = fixed.includes(sep) ? fixed.slice(0, fixed.lastIndexOf(sep)) || sep : '.'
      const pattern = patternOf(path)
      files = (await below(root).catch(() => [])).filter((file) => pattern.test(file))
    } else {
      fail(`--${option}: there is no file or folder '${path}'`)
    }
    if (files.length === 0) fail(`--${option}: no text files in '${path}'`)
    for (const file of files) found.add(file)
  }
  if (found.size === 0) fail(`--${option} is needed`)
  return [...found].sort()
}
