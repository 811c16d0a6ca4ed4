#!/usr/bin/env node
// Checks the floors of docs/architecture.md: a file imports only from its own floor and from rows
// above it in the table; floors in one row never see each other. The table is the only list.
//
//   node scripts/check-floors.mjs [root]

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize, relative, resolve } from 'node:path'

const root = resolve(process.argv[2] ?? '.')

// What the order of rows does not say.
const NEVER = {
  'lib/models': ['lib/adapters', 'lib/quant'],
  'lib/data': ['lib/tensor', 'lib/ops', 'lib/autograd', 'lib/nn', 'lib/optim', 'lib/models'],
  'lib/tokenizer': ['lib/tensor', 'lib/ops', 'lib/autograd', 'lib/nn', 'lib/optim', 'lib/models'],
}
// Headers that belong to one floor.
const HEADER_OWNER = [
  [/^(napi|node_api|js_native_api)\.h$/, 'native/binding'],
  [/^(cuda\w*|cublas\w*|nccl)(\/.*|\.h)$/, 'native/cuda'],
  [/^immintrin\.h$/, 'native/cpu'],
]
// Folders outside the floors: what each may import from the rest of the tree.
const OUTSIDE = {
  examples: [], // as a user would: only the package by its own name
  test: ['lib', 'bench', 'examples', 'scripts', 'test'],
  bench: ['lib', 'test', 'bench', 'examples', 'scripts'],
}

/** @returns {Map<string, number>} floor -> row of the table */
function readFloors() {
  const text = readFileSync(join(root, 'docs/architecture.md'), 'utf8')
  const section = /^## Floors$([\s\S]*?)(?=^## |(?![\s\S]))/m.exec(text)?.[1] ?? ''
  const floors = new Map()
  let row = 0
  for (const line of section.split('\n')) {
    const cell = /^\|([^|]*)\|/.exec(line)?.[1] ?? ''
    const names = [...cell.matchAll(/`((?:native|lib)\/[\w-]+)\/?`/g)].map((m) => m[1])
    for (const name of names) floors.set(name, row)
    if (names.length > 0) row += 1
  }
  if (floors.size === 0) throw new Error('docs/architecture.md: no table of floors found')
  return floors
}

function* walk(folder) {
  const full = join(root, folder)
  if (!existsSync(full)) return
  for (const entry of readdirSync(full, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isDirectory() && entry.name !== 'node_modules') yield* walk(path)
    else if (/\.(ts|mjs|h|cc|cu|cuh|cpp)$/.test(entry.name)) yield path
  }
}

const blankComments = (source) =>
  source.replace(/\/\*[\s\S]*?\*\//g, (c) => c.replace(/[^\n]/g, ' ')).replace(/^\s*\/\/.*$/gm, '')

/** Imported specifiers of a TypeScript or C++ source, with line numbers. */
function* importsOf(path) {
  const source = blankComments(readFileSync(join(root, path), 'utf8'))
  const patterns = /\.(ts|mjs)$/.test(path)
    ? [
        /\bfrom\s*['"]([^'"\n]+)['"]/g,
        /^\s*import\s*['"]([^'"\n]+)['"]/gm,
        /\b(?:import|require)\(\s*['"]([^'"\n]+)['"]/g,
        /^\s*declare\s+module\s+['"]([^'"\n]+)['"]/gm,
      ]
    : [/^\s*#\s*include\s*[<"]([^>"\n]+)[>"]/gm]
  for (const pattern of patterns) {
    for (const match of source.matchAll(pattern)) {
      yield { target: match[1], line: source.slice(0, match.index).split('\n').length }
    }
  }
}

/** The path in the tree that a specifier names, or null for a package or a system header. */
function resolveTarget(path, target) {
  if (/\.(ts|mjs)$/.test(path)) {
    return target.startsWith('.') ? normalize(join(dirname(path), target)) : null
  }
  if (/^(native|lib|test)\//.test(target)) return target
  const beside = normalize(join(dirname(path), target))
  return existsSync(join(root, beside)) ? beside : null
}

const floorOf = (path) => path.split('/').slice(0, 2).join('/')
// native/test, native/bench and native/fuzz are programs: they see everything.
const isFloorPath = (path) =>
  /^(native|lib)\/[^/]+\//.test(path) && !/^native\/(test|bench|fuzz)\//.test(path)

/** @returns {string | null} why this import is not allowed */
function objection(floors, path, target) {
  const found = resolveTarget(path, target)
  const top = path.split('/')[0]
  if (found === null) {
    const owner = HEADER_OWNER.find(([pattern]) => pattern.test(target))?.[1]
    if (!/\.(ts|mjs)$/.test(path) && owner !== undefined && floorOf(path) !== owner) {
      return !isFloorPath(path) ? null : `only ${owner} includes ${target}`
    }
    return null
  }
  if (found.startsWith('..')) return 'points outside the repository'
  if (top in OUTSIDE) {
    const allowed = OUTSIDE[top]
    const to = found.split('/')[0]
    if (to === top || allowed.includes(to) || to === 'package.json') return null
    return `${top} may not import from ${to}`
  }
  if (!isFloorPath(path)) return null // lib/index.ts and the programs
  const from = floorOf(path)
  if (!isFloorPath(found)) return `${from} may not import ${found}`
  const to = floorOf(found)
  if (from === to) return null
  const [fromRow, toRow] = [floors.get(from), floors.get(to)]
  if (toRow === undefined) return `${to} is not a floor of docs/architecture.md`
  if (NEVER[from]?.includes(to)) return `${from} never imports ${to}`
  if (fromRow === toRow) return `${from} and ${to} stand side by side and never see each other`
  if (toRow > fromRow) return `${to} stands after ${from} in docs/architecture.md`
  return null
}

const floors = readFloors()
const problems = []
let files = 0
const unlisted = new Set()
for (const folder of ['native', 'lib', 'test', 'bench', 'examples']) {
  for (const path of walk(folder)) {
    files += 1
    if (isFloorPath(path) && !floors.has(floorOf(path))) unlisted.add(floorOf(path))
    for (const { target, line } of importsOf(path)) {
      const why = objection(floors, path, target)
      if (why !== null) problems.push(`${path}:${line}: imports '${target}': ${why}`)
    }
  }
}
for (const floor of unlisted) problems.push(`${floor}/: not listed in the floors of docs/architecture.md`)
for (const problem of problems) console.error(problem)
console.log(`check-floors: ${files} files in ${relative('.', root) || '.'}, ${problems.length} problems`)
process.exitCode = problems.length > 0 ? 1 : 0
