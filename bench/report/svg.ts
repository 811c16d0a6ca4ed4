// The bench's charts: bars beside a limit, the roofline.

import { shown } from '../../lib/report/html.ts'
import { bar, dot, line, svg, text } from '../../lib/report/svg.ts'
import type { Limits } from '../limits.ts'
import type { KernelRow, TrainRow } from './results.ts'

const WIDTH = 920
const LABELS = 330
const FIGURES = 190

function describe(row: KernelRow): string {
  return `${row.kernel} ${row.shape} ${row.dtype}`
}

/** What a row reached: arithmetic where it has any, else bytes. */
export function rate(row: KernelRow): string {
  return row.gflops > 0 ? `${shown(row.gflops)} GFLOP/s` : `${shown(row.gigabytesPerSecond)} GB/s`
}

/** Share of the limit, ours over the peer's; the limit is the line at 100%. */
export function limitBars(rows: readonly KernelRow[], peer: string | null): string {
  const step = 34
  const top = 26
  const height = top + rows.length * step + 8
  const span = WIDTH - LABELS - FIGURES
  const most = Math.max(
    1.05,
    ...rows.map((row) => Math.max(row.shareOfLimit, row.shareOfLimit / (row.peer?.ratio ?? 1))),
  )
  const at = (share: number): number => LABELS + (share / most) * span
  let body = ''
  for (const tick of [0, 0.25, 0.5, 0.75]) {
    body += line(at(tick), top - 6, at(tick), height - 6, 'grid')
    body += text(at(tick), 14, `${tick * 100}%`, 'tick', 'middle')
  }
  rows.forEach((row, i) => {
    const y = top + i * step
    const own = `${describe(row)}: ${shown(row.ms)} ms, ${(row.shareOfLimit * 100).toFixed(0)}% of the limit of ${row.limit}`
    body += text(LABELS - 10, y + 12, `${row.kernel}`, 'label', 'end')
    body += text(LABELS - 10, y + 25, `${row.shape} ${row.dtype}`, 'tick', 'end')
    body += bar(LABELS, y + 2, at(row.shareOfLimit) - LABELS, 12, 'own', own)
    const figures = `${shown(row.ms)} ms, ${rate(row)}`
    if (row.peer !== null) {
      const share = row.shareOfLimit / row.peer.ratio
      const theirs = `${peer ?? 'peer'} ${row.peer.mode}: ${shown(row.peer.ms)} ms, ${(share * 100).toFixed(0)}% of the limit`
      body += bar(LABELS, y + 16, at(share) - LABELS, 8, 'peer', theirs)
      body += text(
        WIDTH - FIGURES + 8,
        y + 25,
        `${shown(row.peer.ratio)}x ${peer?.split(' ')[0] ?? 'peer'}, ${row.peer.mode}`,
        row.peer.ratio < 1 ? 'slower' : 'tick',
      )
    }
    body += text(WIDTH - FIGURES + 8, y + 12, figures, 'label')
  })
  body += line(at(1), top - 6, at(1), height - 6, 'limit')
  body += text(at(1), 14, 'limit', 'limit-text', 'middle')
  return svg(
    WIDTH,
    height,
    'Share of the measured limit',
    rows
      .map(
        (row) =>
          `${describe(row)}: ${(row.shareOfLimit * 100).toFixed(0)}%${row.peer ? `, ${shown(row.peer.ratio)} times as fast as ${row.peer.mode}` : ''}`,
      )
      .join('; '),
    body,
  )
}

/** Arithmetic rate over arithmetic intensity, both logarithmic, under the roofs measured. */
export function roofline(rows: readonly KernelRow[], limits: Limits): string {
  const points = rows.filter((row) => row.gflops > 0 && row.gigabytesPerSecond > 0)
  if (points.length === 0) return ''
  const [height, left, right, top, bottom] = [360, 64, 20, 20, 46]
  const bandwidth = Math.max(limits.copyGBs, limits.readGBs)
  const dtypes = new Set(points.map((row) => row.dtype))
  const roofs: [string, number][] = [
    ...(dtypes.has('bf16') ? [['bf16', limits.bf16Gflops] as [string, number]] : []),
    ...(dtypes.has('f32') ? [['f32', limits.f32Gflops] as [string, number]] : []),
    ...(points.some(({ kernel }) => kernel.includes('int8'))
      ? [['int8', limits.int8Gops] as [string, number]]
      : []),
  ]
  const intensities = points.map((row) => row.gflops / row.gigabytesPerSecond)
  const x0 = Math.floor(Math.log10(Math.min(1, ...intensities)))
  const x1 = Math.ceil(Math.log10(Math.max(...intensities, ...roofs.map(([, peak]) => peak / bandwidth))))
  const y0 = Math.floor(Math.log10(Math.min(bandwidth * 10 ** x0, ...points.map((row) => row.gflops))))
  const y1 = Math.ceil(Math.log10(Math.max(...roofs.map(([, peak]) => peak))))
  const x = (v: number): number => left + ((Math.log10(v) - x0) / (x1 - x0)) * (WIDTH - left - right)
  const y = (v: number): number =>
    height - bottom - ((Math.log10(v) - y0) / (y1 - y0)) * (height - top - bottom)
  let body = ''
  for (let e = x0; e <= x1; e++) {
    body += line(x(10 ** e), top, x(10 ** e), height - bottom, 'grid')
    body += text(x(10 ** e), height - bottom + 16, String(10 ** e), 'tick', 'middle')
  }
  for (let e = y0; e <= y1; e++) {
    body += line(left, y(10 ** e), WIDTH - right, y(10 ** e), 'grid')
    body += text(left - 6, y(10 ** e) + 4, String(10 ** e), 'tick', 'end')
  }
  body += text((left + WIDTH - right) / 2, height - 8, 'FLOP per byte that must be moved', 'tick', 'middle')
  body += text(left, 12, 'GFLOP/s', 'tick')
  const highest = Math.max(...roofs.map(([, peak]) => peak))
  const from = Math.max(10 ** x0, 10 ** y0 / bandwidth)
  body += line(x(from), y(from * bandwidth), x(highest / bandwidth), y(highest), 'limit')
  body += text(x(from) + 14, y(from * bandwidth) + 6, `memory ${shown(bandwidth)} GB/s`, 'limit-text')
  for (const [name, peak] of roofs) {
    body += line(x(peak / bandwidth), y(peak), WIDTH - right, y(peak), 'limit')
    body += text(WIDTH - right, y(peak) - 5, `${name} ${shown(peak)}`, 'limit-text', 'end')
  }
  for (const [i, row] of points.entries()) {
    const cx = x(intensities[i] ?? 1)
    const hint = `${describe(row)}: ${shown(row.gflops)} GFLOP/s at ${shown(intensities[i] ?? 0)} FLOP/byte`
    if (row.peer !== null) {
      const theirs = row.gflops / row.peer.ratio
      body += line(cx, y(row.gflops), cx, y(theirs), 'pair')
      body += dot(cx, y(theirs), 4, 'peer', `${describe(row)}, ${row.peer.mode}: ${shown(theirs)} GFLOP/s`)
    }
    body += dot(cx, y(row.gflops), 5, row.dtype === 'f32' ? 'own hollow' : 'own', hint)
  }
  return svg(
    WIDTH,
    height,
    'Roofline',
    points.map((row) => `${describe(row)}: ${shown(row.gflops)} GFLOP/s`).join('; '),
    body,
  )
}

/** Tokens per second of each contestant. */
export function trainBars(rows: readonly TrainRow[]): string {
  const step = 30
  const most = Math.max(...rows.map((row) => row.tokensPerSecond), 1)
  const span = WIDTH - LABELS - FIGURES
  const body = rows
    .map((row, i) => {
      const y = i * step
      const figures = `${shown(row.tokensPerSecond)} tok/s, ${shown(row.peakRssMB)} MB`
      return (
        text(LABELS - 10, y + 19, row.name, 'label', 'end') +
        bar(
          LABELS,
          y + 7,
          (row.tokensPerSecond / most) * span,
          16,
          i === 0 ? 'own' : 'peer',
          `${row.name}: ${figures}`,
        ) +
        text(WIDTH - FIGURES + 8, y + 19, figures, 'label')
      )
    })
    .join('')
  return svg(
    WIDTH,
    rows.length * step + 4,
    'Tokens per second',
    rows.map((row) => `${row.name}: ${shown(row.tokensPerSecond)}`).join('; '),
    body,
  )
}
