// One page that needs nothing but itself.

import type { Head, KernelRow, Result, TrainRow } from './results.ts'
import { escapeHtml, limitBars, rate, roofline, shown, trainBars } from './svg.ts'

const STYLE = `
:root { color-scheme: light dark; --page: #fbfbfa; --card: #fff; --ink: #1d2126; --dim: #5d6670; --rule: #e3e5e8;
  --own: #1565a8; --peer: #a7afb8; --limit: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1c2024; --ink: #e8eaed; --dim: #a0a8b1;
  --rule: #31373d; --own: #6db3ee; --peer: #6a737d; --limit: #ff8a80; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1rem 4rem }
h1 { font-size: 1.7rem; margin: 0 0 .3rem } h2 { font-size: 1.2rem; margin: 0 0 .2rem }
p { margin: .2rem 0 .8rem; color: var(--dim) } p.warn { color: var(--limit) }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 1.2rem; margin: 1.2rem 0 }
svg { width: 100%; height: auto; display: block; margin: .6rem 0 }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink) } svg text.tick { fill: var(--dim); font-size: 11px }
svg text.limit-text { fill: var(--limit); font-size: 11px } svg text.slower { fill: var(--limit); font-size: 11px; font-weight: 600 }
.own { fill: var(--own) } .peer { fill: var(--peer) } .hollow { fill: var(--card); stroke: var(--own); stroke-width: 2 }
.grid { stroke: var(--rule) } .limit { stroke: var(--limit); stroke-width: 1.5 } .pair { stroke: var(--peer); stroke-width: 1 }
details { margin-top: .6rem } summary { cursor: pointer; color: var(--dim) }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; width: 100% }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--rule); white-space: nowrap }
th:first-child, td:first-child { text-align: left } .key { display: flex; gap: 1.2rem; flex-wrap: wrap; font-size: .9rem; color: var(--dim) }
.key i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em }
`

function table(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (tag: string, values: readonly string[]): string =>
    values.map((value) => `<${tag}>${escapeHtml(value)}</${tag}>`).join('')
  return `<details><summary>All figures</summary><div class="scroll"><table><thead><tr>${cells('th', columns)}</tr></thead><tbody>${rows
    .map((row) => `<tr>${cells('td', row)}</tr>`)
    .join('\n')}</tbody></table></div></details>`
}

function origin({ date, commit, cpu, isa, threads }: Head): string {
  const note = commit.endsWith('+') ? ' with changes that are in no commit' : ''
  return `<p>${escapeHtml(`${date.slice(0, 16).replace('T', ' ')} UTC, commit ${commit.replace('+', '')}${note}; ${cpu}, ${isa}, ${threads} threads`)}</p>`
}

function kernelTable(rows: readonly KernelRow[]): string {
  return table(
    ['kernel', 'shape', 'dtype', 'ms', 'IQR', 'rate', 'of limit', 'limited by', 'peer', 'peer ms', 'ratio'],
    rows.map((row) => [
      row.kernel,
      row.shape,
      row.dtype,
      shown(row.ms),
      shown(row.iqrMs),
      rate(row),
      `${(row.shareOfLimit * 100).toFixed(0)}%`,
      row.limit,
      row.peer?.mode ?? '',
      row.peer === null ? '' : shown(row.peer.ms),
      row.peer === null ? '' : shown(row.peer.ratio),
    ]),
  )
}

function trainTable(rows: readonly TrainRow[]): string {
  return table(
    ['', 'tok/s', 'step ms', 'IQR', 'peak MB'],
    rows.map((row) => [
      row.name,
      shown(row.tokensPerSecond),
      shown(row.stepMs),
      shown(row.interquartileMs),
      shown(row.peakRssMB),
    ]),
  )
}

/** Whether the middle half of the samples is wider than a third of the median: a disturbed run. */
function disturbed(result: Result): boolean {
  return result.kind === 'train'
    ? result.rows.some((row) => row.interquartileMs > row.stepMs / 3)
    : result.rows.some((row) => row.iqrMs > row.ms / 3)
}

function section(result: Result): string {
  const warning = disturbed(result)
    ? '<p class="warn">The samples of some rows spread by more than a third: the machine was not quiet.</p>'
    : ''
  if (result.kind === 'train') {
    return `<section><h2>Training step, ${escapeHtml(`${result.model} ${result.dtype}`)}</h2>${origin(result)}${warning}${trainBars(result.rows)}${trainTable(result.rows)}</section>`
  }
  const { limits, rows, peer } = result
  const measured = `Measured in the same run: f32 ${shown(limits.f32Gflops)}, bf16 ${shown(limits.bf16Gflops)} GFLOP/s, int8 ${shown(limits.int8Gops)} GOP/s; read ${shown(limits.readGBs)}, copy ${shown(limits.copyGBs)}, write ${shown(limits.writeGBs)} GB/s.`
  return `<section><h2>${escapeHtml(result.bench)}</h2>${origin(result)}<p>${escapeHtml(measured)}</p>${warning}${limitBars(rows, peer)}${roofline(rows, limits)}${kernelTable(rows)}</section>`
}

/** @param problems result files that could not be read */
export function page(results: readonly Result[], problems: readonly string[]): string {
  const order = [...results].sort(
    (a, b) => Number(b.kind === 'train') - Number(a.kind === 'train') || a.bench.localeCompare(b.bench),
  )
  const unread = problems.map((problem) => `<p class="warn">Not drawn: ${escapeHtml(problem)}</p>`).join('')
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>fuselm benchmarks</title><style>${STYLE}</style></head><body><main>
<h1>fuselm benchmarks</h1>
<p>Medians. Bars are shares of what the machine was measured to reach in the same run (arithmetic in
registers, bandwidth beyond the caches), whichever of the two limits the work; work that finds its data in
a cache can pass the limit of memory. Peers did the same work on the same inputs in turns with ours, in
the fastest of their modes.</p>
<div class="key"><span><i style="background:var(--own)"></i>fuselm (hollow: f32)</span><span><i style="background:var(--peer)"></i>peer</span><span><i style="background:var(--limit)"></i>measured limit</span></div>
${unread}${order.map(section).join('\n')}
</main></body></html>
`
}
