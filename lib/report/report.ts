// A run as one page: curves, figures, samples, settings. Works while the run goes on, and after.

import { join } from 'node:path'
import { writeAtomic } from '../io/atomic.ts'
import { checkOptions } from '../runtime/options.ts'
import { REPORT_FILE } from '../train/run-folder.ts'
import { count, escapeHtml, page, shown } from './html.ts'
import { type Curve, lineChart } from './line-chart.ts'
import { type RunData, readRun } from './run.ts'

export interface ReportOptions {
  /** Folder of the run. */
  readonly run: string
  /** File to write. Default `report.html` in the run's folder. */
  readonly out?: string
  /** Default `Training run`. */
  readonly title?: string
  /** Other models on the same held-out text: lines in the chart of perplexity. */
  readonly baselines?: readonly Baseline[]
  /** Goals, and whether they were met. */
  readonly checks?: readonly Check[]
  /** Texts to show before those that the run drew itself. */
  readonly samples?: readonly ReportSample[]
  /** Further rows of the table of settings. */
  readonly facts?: Readonly<Record<string, string | number>>
}

export interface Baseline {
  readonly name: string
  readonly perplexity: number
}

export interface Check {
  readonly name: string
  /** Null: it could not be judged. */
  readonly met: boolean | null
  /** What was seen. */
  readonly found: string
}

export interface ReportSample {
  readonly prompt: string
  readonly text: string
  /** Such as the temperature. */
  readonly note?: string
}

/**
 * Writes a run's report: one HTML file that needs nothing else, readable in light and dark.
 * @returns its path
 * @throws ConfigError when the folder holds no run; FormatError naming file and line
 */
export async function writeReport(options: ReportOptions): Promise<string> {
  const html = renderReport(await readRun(options.run), options)
  const path = options.out ?? join(options.run, REPORT_FILE)
  await writeAtomic(path, (write) => write(new TextEncoder().encode(html)))
  return path
}

const OPTIONS = ['run', 'out', 'title', 'baselines', 'checks', 'samples', 'facts']

/** @internal */
export function renderReport(run: RunData, options: ReportOptions): string {
  checkOptions('writeReport', options, OPTIONS)
  const { title = 'Training run', checks = [], baselines = [] } = options
  const sections = [
    figures(run),
    checks.length === 0 ? '' : section('Goals', checkList(checks)),
    lossSection(run),
    perplexitySection(run, baselines),
    courseSection(run),
    sampleSection(run, options.samples ?? []),
    section('Settings', settingsTable(run, options.facts ?? {})),
  ]
  return page(title, sections.filter((part) => part !== '').join('\n'))
}

function section(title: string, body: string): string {
  return `<section><h2>${escapeHtml(title)}</h2>${body}</section>`
}

function median(values: readonly number[]): number {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}

/** Tokens of a step, where the settings are known. */
function tokensOf({ settings }: RunData): number | null {
  const { batchSize, accumulate, 'train.contextLength': contextLength } = settings
  const product = Number(batchSize) * Number(accumulate) * Number(contextLength)
  return Number.isFinite(product) ? product : null
}

function figures(run: RunData): string {
  const { steps, evals, reason } = run
  const last = steps.at(-1)
  if (last === undefined) return '<p>No step has been done yet.</p>'
  const entries: [string, string][] = [
    [count(last.step), last.steps > last.step ? `of ${count(last.steps)} steps` : 'steps'],
  ]
  const perStep = tokensOf(run)
  if (perStep !== null) entries.push([count(last.step * perStep), 'tokens read'])
  entries.push([last.epoch.toFixed(2), 'epochs'])
  const tail = steps.slice(-Math.min(50, Math.ceil(steps.length / 10)))
  const mean = tail.reduce((sum, { loss }) => sum + loss, 0) / tail.length
  entries.push([
    Number.isFinite(mean) ? mean.toFixed(3) : 'no number',
    `training loss, last ${tail.length === 1 ? 'step' : `${tail.length} steps`}`,
  ])
  const judged = evals.at(-1)
  if (judged !== undefined) entries.push([shown(judged.perplexity), 'held-out perplexity'])
  entries.push([shown(median(steps.map(({ tokensPerSecond }) => tokensPerSecond))), 'tokens per second'])
  const cells = entries.map(
    ([value, name]) => `<div><b>${escapeHtml(value)}</b><span>${escapeHtml(name)}</span></div>`,
  )
  const note =
    reason === 'steps'
      ? ''
      : `<p>${reason === null ? 'The run has not ended.' : `Ended before its last step: ${escapeHtml(reason)}.`}</p>`
  return `${note}<div class="figures">${cells.join('')}</div>`
}

function checkList(checks: readonly Check[]): string {
  const items = checks.map(({ name, met, found }) => {
    const [classes, word] =
      met === null ? ['unknown', 'not judged'] : met ? ['met', 'met'] : ['missed', 'missed']
    return `<li class="${classes}"><b>${word}</b> ${escapeHtml(name)}: ${escapeHtml(found)}</li>`
  })
  return `<ul class="checks">${items.join('')}</ul>`
}

function stepLabel(run: RunData): string {
  const tokens = tokensOf(run)
  return tokens === null ? 'step' : `step (each of ${count(tokens)} tokens)`
}

/** Means over about a fiftieth of the run around each step: what the noise of single batches hides. */
function smoothed(points: Curve['points']): [number, number][] {
  const half = Math.ceil(points.length / 100)
  const sums = [0]
  const counts = [0]
  for (const [, y] of points) {
    sums.push((sums.at(-1) as number) + (Number.isFinite(y) ? y : 0))
    counts.push((counts.at(-1) as number) + (Number.isFinite(y) ? 1 : 0))
  }
  return points.map(([x], i) => {
    // no wider than it is far to an end: else the mean would be of one side only
    const reach = Math.min(half, i, points.length - 1 - i)
    const between = (list: readonly number[]): number =>
      (list[i + reach + 1] as number) - (list[i - reach] as number)
    return [x, between(sums) / between(counts)]
  })
}

function lossSection(run: RunData): string {
  const losses = run.steps.map(({ step, loss }) => [step, loss] as const)
  const evals = run.evals.map(({ step, loss }) => [step, loss] as const)
  const chart = lineChart({
    title: 'Loss',
    xLabel: stepLabel(run),
    yLabel: 'loss, nats per token',
    curves: [
      { points: losses, classes: 'faint' },
      { points: smoothed(losses), classes: '' },
      { points: evals, classes: 'hidden', dots: 'hollow' },
    ],
  })
  if (chart === '') return ''
  const key = `<div class="key"><span><i style="background:var(--own)"></i>training, mean around each step</span><span><i style="background:var(--peer)"></i>each step</span>${evals.length > 0 ? '<span><i style="border:2px solid var(--own);border-radius:50%"></i>held-out text</span>' : ''}</div>`
  return section('Loss', key + chart)
}

function perplexitySection(run: RunData, baselines: readonly Baseline[]): string {
  if (run.evals.length === 0) return ''
  const points = run.evals.map(({ step, perplexity }) => [step, perplexity] as const)
  const chart = lineChart({
    title: 'Held-out perplexity',
    xLabel: stepLabel(run),
    yLabel: 'perplexity, logarithmic',
    logarithmic: true,
    curves: [{ points, classes: '', dots: 'full' }],
    baselines: baselines.map(({ name, perplexity }) => ({ name, value: perplexity })),
  })
  const tokens = run.evals.at(-1)?.tokens ?? 0
  return section(
    'Held-out perplexity',
    `<p>Over ${count(tokens)} tokens of text that was never trained on.</p>${chart}`,
  )
}

function courseSection(run: RunData): string {
  const of = (name: 'tokensPerSecond' | 'learningRate' | 'gradientNorm'): Curve => ({
    points: run.steps.map((event) => [event.step, event[name]]),
    classes: '',
  })
  const small = { width: 320, height: 200, xLabel: 'step', fromZero: true }
  const charts = [
    lineChart({
      ...small,
      title: 'Throughput',
      yLabel: 'tokens per second',
      curves: [of('tokensPerSecond')],
    }),
    lineChart({ ...small, title: 'Learning rate', yLabel: 'learning rate', curves: [of('learningRate')] }),
    lineChart({
      ...small,
      title: 'Norm of the gradients',
      yLabel: 'norm of the gradients, not clipped',
      curves: [of('gradientNorm')],
    }),
  ].filter((chart) => chart !== '')
  return charts.length === 0
    ? ''
    : section('Course', `<div class="small">${charts.map((chart) => `<div>${chart}</div>`).join('')}</div>`)
}

const MOST_SAMPLES = 12

function sampleSection(run: RunData, given: readonly ReportSample[]): string {
  const own = run.samples
    .slice(-MOST_SAMPLES)
    .reverse()
    .map(({ step, prompt, text }) => ({ prompt, text, note: `step ${step}` }))
  const all: readonly ReportSample[] = [...given, ...own]
  if (all.length === 0) return ''
  const items = all.map(({ prompt, text, note }) => {
    const head = note === undefined ? '' : `<p>${escapeHtml(note)}</p>`
    return `${head}<pre><b>${escapeHtml(prompt)}</b>${escapeHtml(text)}</pre>`
  })
  return section('Samples', items.join('\n'))
}

function settingsTable(run: RunData, facts: Readonly<Record<string, string | number>>): string {
  const shownValue = (value: unknown): string =>
    typeof value === 'string' ? value : typeof value === 'number' ? String(value) : JSON.stringify(value)
  const rows = [...Object.entries(facts), ...Object.entries(run.settings), ...Object.entries(run.config)]
    // the model's shape stands in its own configuration
    .filter(([name, value]) => value !== null && !name.startsWith('model.'))
    .map(
      ([name, value]) =>
        `<tr><td>${escapeHtml(name)}</td><td>${escapeHtml(shownValue(value) ?? '')}</td></tr>`,
    )
  return `<div class="scroll"><table class="pairs"><tbody>${rows.join('\n')}</tbody></table></div>`
}
