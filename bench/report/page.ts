// Results of all benches on one page.

import { escapeHtml, page as pageOf, shown } from '../../lib/report/html.ts'
import type { Head, KernelRow, Result, TrainRow } from './results.ts'
import { limitBars, rate, roofline, trainBars } from './svg.ts'

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
  return pageOf(
    'fuselm benchmarks',
    `<p>Medians. Bars are shares of what the machine was measured to reach in the same run (arithmetic in
registers, bandwidth beyond the caches), whichever of the two limits the work; work that finds its data in
a cache can pass the limit of memory. Peers did the same work on the same inputs in turns with ours, in
the fastest of their modes.</p>
<div class="key"><span><i style="background:var(--own)"></i>fuselm (hollow: f32)</span><span><i style="background:var(--peer)"></i>peer</span><span><i style="background:var(--limit)"></i>measured limit</span></div>
${unread}${order.map(section).join('\n')}`,
  )
}
