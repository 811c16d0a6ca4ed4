// The report of a run: what it reads, what it draws, that it needs nothing else and takes no markup.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { writeReport } from 'fuselm'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { lineChart, logTicks, thinned, ticks } from '../../lib/report/line-chart.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-report-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const step = (step: number, more: object = {}): object => ({
  type: 'step',
  step,
  steps: 40,
  epoch: step / 40,
  loss: 8 - step / 10,
  learningRate: 1e-3,
  gradientNorm: 1.5,
  skipped: false,
  tokensPerSecond: 1000 + step,
  secondsLeft: 1,
  ...more,
})
const evaluation = (step: number, perplexity: number): object => ({
  type: 'eval',
  step,
  loss: Math.log(perplexity),
  perplexity,
  tokens: 4321,
  best: true,
})

function log(events: readonly object[], rest = ''): void {
  const lines = events.map((event) => `${JSON.stringify(event)}\n`).join('')
  writeFileSync(join(folder, 'metrics.jsonl'), lines + rest)
}

const steps = Array.from({ length: 40 }, (_, i) => step(i + 1))
const samples = [{ type: 'sample', step: 40, prompt: '<b>prompt', text: 'text & "more" <script>' }]

/** An HTML parser in small: every element closed in order, attributes quoted. */
function checkMarkup(html: string): void {
  const open: string[] = []
  const rest = html.replace(/<!doctype html>/, '').replace(/<style>[^<]*<\/style>/, '')
  for (const [tag, slash, name = '', attributes = ''] of rest.matchAll(/<(\/?)([a-z0-9]+)([^>]*)>/g)) {
    expect(attributes.replace(/ [a-z0-9-]+="[^"<>]*"/gi, '').replace(/\/$/, ''), tag).toBe('')
    if (slash === '/') expect(open.pop(), tag).toBe(name)
    else if (name !== 'meta' && !attributes.endsWith('/')) open.push(name)
  }
  expect(open).toEqual([])
  expect(rest.replace(/<\/?[a-z0-9]+[^>]*>/g, '')).not.toMatch(/[<>]/)
}

describe('a page', () => {
  test('is whole, refers to nothing outside, and takes no markup from a run', async () => {
    log([
      evaluation(0, 4000),
      ...steps,
      evaluation(40, 80),
      ...samples,
      { type: 'done', step: 40, reason: 'steps' },
    ])
    const path = await writeReport({
      run: folder,
      title: 'A <title>',
      baselines: [{ name: 'counts & "co"', perplexity: 123 }],
      checks: [
        { name: 'good', met: true, found: '1' },
        { name: 'bad', met: false, found: '2 < 3' },
        { name: 'open', met: null, found: '?' },
      ],
      samples: [{ prompt: 'a', text: '</pre>', note: 'seed 1' }],
      facts: { 'training <text>': 3 },
    })
    expect(path).toBe(join(folder, 'report.html'))
    const html = readFileSync(path, 'utf8')
    checkMarkup(html)
    expect(html).not.toMatch(/\b(?:src|href|url|@import|srcset|action)\b\s*[=(:]/i)
    expect(html).not.toMatch(/https?:|<script|\bon[a-z]+=/)
    expect(html).toContain('A &lt;title&gt;')
    expect(html).toContain('text &amp; &quot;more&quot; &lt;script&gt;')
    expect(html).toContain('&lt;/pre&gt;')
    expect(html).toMatch(
      /class="met"><b>met<\/b> good.*class="missed"><b>missed<\/b> bad.*<b>not judged<\/b> open/s,
    )
    expect(html).toContain('counts &amp; &quot;co&quot;: 123')
    expect(html).toContain('step 40: 80.0')
    expect(html).toContain('prefers-color-scheme: dark')
  })

  test('of a run that goes on, and of one that diverged', async () => {
    log([...steps.slice(0, 5), step(6, { loss: null, gradientNorm: null, skipped: true })], '{"type":"st')
    const html = readFileSync(await writeReport({ run: folder, out: join(folder, 'x.html') }), 'utf8')
    checkMarkup(html)
    expect(html).toContain('The run has not ended')
    expect(html).not.toMatch(/NaN|Infinity|undefined/)
    log([])
    expect(readFileSync(await writeReport({ run: folder }), 'utf8')).toContain('No step has been done yet')
  })

  test('shows what the newest checkpoint says', async () => {
    log(steps)
    for (const [name, batchSize] of [
      ['checkpoint-9', 2],
      ['checkpoint-10', 4],
    ] as const) {
      mkdirSync(join(folder, name))
      const settings = { batchSize, accumulate: 2, 'train.contextLength': 256 }
      const state = { global_step: 1, max_steps: 2, epoch: 0, best_metric: null, evaluations_since_best: 0 }
      const more = { skipped_in_row: 0, metrics_length: 0, settings }
      writeFileSync(join(folder, name, 'trainer_state.json'), JSON.stringify({ ...state, ...more }))
      writeFileSync(join(folder, name, 'config.json'), '{"hidden_size": 77}')
    }
    mkdirSync(join(folder, 'checkpoint-11')) // being deleted
    const html = readFileSync(await writeReport({ run: folder }), 'utf8')
    expect(html).toContain('step (each of 2,048 tokens)')
    expect(html).toContain('<td>hidden_size</td><td>77</td>')
  })

  test.each([
    ['no run', null, /holds no run: there is no metrics.jsonl/],
    [
      'a broken line amid others',
      '{"type":\n{}\n',
      /metrics.jsonl:1: expected a JSON object, found {"type":/,
    ],
    [
      'a text for a number',
      '{"type":"step","step":"1"}\n',
      /metrics.jsonl:1: step: expected a number, found "1"/,
    ],
  ])('refuses %s', async (_, content, message) => {
    if (content !== null) writeFileSync(join(folder, 'metrics.jsonl'), content)
    await expect(writeReport({ run: folder })).rejects.toThrow(message)
  })
})

describe('a chart', () => {
  test('has round ticks inside its range', () => {
    expect(ticks(0, 10, 5)).toEqual([0, 2, 4, 6, 8, 10])
    expect(ticks(-0.3, 0.32, 4)).toEqual([-0.2, 0, 0.2].map((value) => expect.closeTo(value, 12)))
    expect(ticks(5, 5, 4)).toEqual([5])
    expect(logTicks(30, 1200)).toEqual([50, 100, 200, 500, 1000])
    expect(logTicks(1, 1e5)).toEqual([1, 10, 100, 1e3, 1e4, 1e5])
  })

  test('thins many points to their means', () => {
    const points = Array.from({ length: 1000 }, (_, i) => [i, i % 2] as const)
    const few = thinned(points, 100)
    expect(few).toHaveLength(100)
    expect(few[0]).toEqual([4.5, 0.5])
  })

  test('places values where the axis says', () => {
    const html = lineChart({
      title: 't',
      xLabel: 'step',
      yLabel: 'y',
      fromZero: true,
      curves: [
        {
          points: [
            [0, 0],
            [10, 100],
          ],
          classes: '',
          dots: 'full',
        },
      ],
    })
    const [from, to] = [...html.matchAll(/<circle cx="([\d.]+)" cy="([\d.]+)"/g)].map(([, x, y]) => [
      Number(x),
      Number(y),
    ])
    const tick = (value: string): number =>
      Number(new RegExp(`y="([\\d.]+)" class="tick" text-anchor="end">${value}<`).exec(html)?.[1]) - 4
    expect(from).toEqual([64, expect.closeTo(tick('0'), 1)])
    expect(to).toEqual([904, expect.closeTo(tick('100'), 1)])
    expect(lineChart({ title: 't', xLabel: '', yLabel: '', curves: [] })).toBe('')
  })
})
