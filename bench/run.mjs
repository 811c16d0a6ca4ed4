#!/usr/bin/env node
// `npm run bench -- <name> [--json] [its own options]`: builds, compiles bench/<name>.bench.ts into
// build/bench and calls its run(argv). What it returns goes into bench/results with the commit and
// the machine; its `rows` are printed as a table, or all of it as one JSON object with --json. A text
// that it returns is printed instead. --compile only compiles; --built takes build/bench as it is, for
// hosts that cannot build.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { cpus } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { buildAll, buildToStderr } from '../scripts/build.mjs'

const folder = dirname(fileURLToPath(import.meta.url))
const root = dirname(folder)
const out = join(root, 'build', 'bench')

function names() {
  return readdirSync(folder)
    .filter((file) => file.endsWith('.bench.ts'))
    .map((file) => file.slice(0, -'.bench.ts'.length))
}

function compile(name) {
  createRequire(import.meta.url)('esbuild').buildSync({
    absWorkingDir: root,
    entryPoints: [`bench/${name}.bench.ts`],
    outdir: out,
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node20.19',
    packages: 'external',
    sourcemap: 'inline',
    logLevel: 'warning',
  })
  return join(out, `${name}.bench.js`)
}

function git(...args) {
  try {
    return execFileSync('git', args, {
      cwd: root,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim()
  } catch {
    return ''
  }
}

/** Of the checkout, or what the bundle was packed from. */
function commit() {
  const head = git('rev-parse', '--short', 'HEAD')
  if (head !== '') return head + (git('status', '--porcelain') ? '+' : '')
  return JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).gitHead ?? ''
}

/** What the environment chose, but for paths. */
function settings() {
  const chosen = Object.entries(process.env).filter(
    ([name, value]) => name.startsWith('FUSELM_') && !value.includes('/'),
  )
  return Object.fromEntries(chosen)
}

function shown(value) {
  if (typeof value !== 'number' || Number.isInteger(value)) return String(value ?? '')
  return Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(4)
}

function printTable(rows) {
  const columns = [...new Set(rows.flatMap(Object.keys))]
  const cells = [columns, ...rows.map((row) => columns.map((column) => shown(row[column])))]
  const widths = columns.map((_, i) => Math.max(...cells.map((row) => row[i].length)))
  for (const row of cells) {
    console.log(
      row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  '),
    )
  }
}

const argv = process.argv.slice(2)
const json = argv.includes('--json')
const built = argv.includes('--built')
const name = argv.find((arg) => !arg.startsWith('-'))
const known =
  name !== undefined && (built ? existsSync(join(out, `${name}.bench.js`)) : names().includes(name))
if (!known) {
  console.error(`usage: npm run bench -- <name> [--json]; names: ${names().join(', ')}`)
  process.exit(2)
}
if (argv.includes('--compile')) {
  compile(name)
  process.exit(0)
}
if (!built) {
  buildToStderr()
  buildAll()
}
const program = built ? join(out, `${name}.bench.js`) : compile(name)
const { run } = await import(pathToFileURL(program).href)
const result = await run(argv.filter((arg) => arg !== '--json' && arg !== '--built' && arg !== name))
if (typeof result === 'string') {
  console.log(result)
  process.exit(0)
}
const { Device } = await import('fuselm')
const device = Device.default()
const date = new Date().toISOString()
const record = {
  bench: name,
  date,
  commit: commit(),
  cpu: cpus()[0]?.model,
  device: device.name,
  isa: device.isa,
  threads: device.threads,
  node: process.version,
  environment: settings(),
  ...result,
}
device.close()
mkdirSync(join(folder, 'results'), { recursive: true })
const file = join(folder, 'results', `${name}-${date.replaceAll(':', '')}.json`)
writeFileSync(file, `${JSON.stringify(record, null, 2)}\n`)
if (json) {
  console.log(JSON.stringify(record))
} else {
  const { rows = [], ...rest } = record
  for (const [key, value] of Object.entries(rest)) {
    if (typeof value !== 'object') console.log(`${key}: ${shown(value)}`)
  }
  if (rows.length > 0) printTable(rows)
}
