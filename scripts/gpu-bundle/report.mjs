// What run.sh found, as one page of Markdown: report.md. Called after every part, so that a run cut off
// leaves what it knows.

import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'

const FIGURES = 4 // significant digits
const FAILURES = 20 // lines of a failed part

const read = (path) => (existsSync(path) ? readFileSync(path, 'utf8').trim() : '')
function json(text) {
  try {
    return JSON.parse(text)
  } catch {
    return {}
  }
}

function shown(value) {
  if (typeof value !== 'number' || Number.isInteger(value)) return String(value ?? '')
  return Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(FIGURES)))
}

function table(rows) {
  const columns = [...new Set(rows.flatMap(Object.keys))]
  const line = (cells) => `| ${cells.map((cell) => String(cell).replaceAll('|', '\\|')).join(' | ')} |`
  const body = rows.map((row) => line(columns.map((column) => shown(row[column]))))
  return [line(columns), line(columns.map(() => '---')), ...body].join('\n')
}

/** The rows of a bench, the GPU's limits beside them. */
function bench(record) {
  const facts = [
    'date',
    'commit',
    'device',
    'model',
    'dtype',
    'batch',
    'peer',
    'ratioGeomean',
    'ratioToBestPeer',
  ]
  const said = facts
    .filter((name) => record[name] !== undefined)
    .map((name) => `${name} ${shown(record[name])}`)
  const limits = Object.entries(record.limits ?? {}).map(([name, value]) => `${name} ${shown(value)}`)
  const settings = Object.entries(record.environment ?? {}).map(([name, value]) => `${name}=${value}`)
  return [
    `### ${[record.bench, ...settings].join(' ')}`,
    said.join(', '),
    ...(limits.length > 0 ? [`Measured limits: ${limits.join(', ')}`] : []),
    table(record.rows ?? []),
  ].join('\n\n')
}

/** The first lines that name a failure, else the last of the log. */
function failure(name) {
  const lines = read(`logs/${name}.log`).split('\n')
  const named = lines.flatMap((line, i) => (line.startsWith('FAIL') ? lines.slice(i, i + 2) : []))
  const chosen = named.length > 0 ? named.slice(0, FAILURES) : lines.slice(-FAILURES)
  return `### ${name}\n\n\`\`\`\n${chosen.join('\n')}\n\`\`\``
}

const { gitHead = 'unknown' } = json(read('package.json'))
const parts = read('logs/parts.tsv')
  .split('\n')
  .filter((line) => line !== '')
  .map((line) => {
    const [part, result, seconds, note] = line.split('\t')
    return { part, result, seconds: Number(seconds), note }
  })
const doctor = Object.entries(json(read('logs/doctor.json'))).map(([what, found]) => ({
  what,
  found: String(found),
}))
const results = existsSync('bench/results') ? readdirSync('bench/results').sort() : []
const benches = results.map((file) => json(read(`bench/results/${file}`)))
const failed = parts.filter(({ result }) => result === 'FAILED').map(({ part }) => part)

const page = [
  '# fuselm on this GPU',
  `${new Date().toISOString()}, commit ${gitHead}`,
  `GPU, driver, compute capability, memory, power limit, highest clock: ${read('logs/gpu.txt') || 'no nvidia-smi'}`,
  '## Parts',
  table(parts),
  ...(failed.length > 0 ? ['## Failures', ...failed.map(failure)] : []),
  '## Machine',
  table(doctor),
  ...(benches.length > 0 ? ['## Benches', ...benches.map(bench)] : []),
].join('\n\n')
writeFileSync('report.md', `${page}\n`)

for (const { part, result, seconds, note } of parts) {
  console.log(`${part.padEnd(22)} ${result.padEnd(8)} ${String(seconds).padStart(5)} s  ${note}`)
}
