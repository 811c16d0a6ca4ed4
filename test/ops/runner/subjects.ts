// Finds the ops (lib/ops), their case tables (test/ops) and goldens (test/golden): by folder, no list.

import { readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { registeredOps } from '../../../lib/ops/registry.ts'
import type { CaseTable, OpCases } from '../cases.ts'
import type { Subject } from './checks.ts'
import { readGoldens } from './golden.ts'
import type { AnyOp } from './library.ts'

const here = dirname(fileURLToPath(import.meta.url))
// .ts under vitest, .js when compiled for a host without it
const extension = import.meta.url.endsWith('.ts') ? '.ts' : '.js'

function filesUnder(directory: string, suffix: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .filter((f) => f.endsWith(suffix) && !f.endsWith('.d.ts'))
    .sort()
    .map((f) => join(directory, f))
}

function isOp(value: unknown): value is AnyOp {
  return typeof value === 'function' && 'definition' in value && 'signature' in value
}

async function modules(directory: string, suffix: string): Promise<[string, Record<string, unknown>][]> {
  return Promise.all(
    filesUnder(directory, suffix).map(
      async (f): Promise<[string, Record<string, unknown>]> => [
        f,
        (await import(/* @vite-ignore */ f)) as Record<string, unknown>,
      ],
    ),
  )
}

/** Every op defined under lib/ops. */
export async function allOps(): Promise<AnyOp[]> {
  await modules(join(here, '../../../lib/ops'), extension)
  return [...registeredOps().values()].sort((a, b) => (a.definition.name < b.definition.name ? -1 : 1))
}

/** Every case table, with its op and the op's goldens. Goldens are read on demand: see `Subject`. */
export async function allSubjects(goldenDirectory = join(here, '../../golden')): Promise<Subject[]> {
  const subjects: Subject[] = []
  for (const [file, module] of await modules(join(here, '..'), `.cases${extension}`)) {
    const exported = module['default']
    const tables = (Array.isArray(exported) ? exported : [exported]) as (OpCases<AnyOp> | undefined)[]
    for (const table of tables) {
      if (table === undefined || !isOp(table.op))
        throw new Error(`${file}: its default export is not of defineCases`)
      const { op } = table
      let goldens: ReturnType<typeof readGoldens> | undefined
      subjects.push({
        op,
        table: table satisfies CaseTable,
        // lazily: finite differences of the reference come before any golden is loaded
        get goldens() {
          goldens ??= readGoldens(goldenDirectory, op.definition.name)
          return goldens
        },
      })
    }
  }
  const seen = new Set<AnyOp>()
  for (const { op } of subjects) {
    if (seen.has(op)) throw new Error(`two case tables for ${op.definition.name}`)
    seen.add(op)
  }
  return subjects.sort((a, b) => (a.op.definition.name < b.op.definition.name ? -1 : 1))
}
