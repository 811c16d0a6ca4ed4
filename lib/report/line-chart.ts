// Curves over training steps.

import { count, shown } from './html.ts'
import { dot, line, svg, text } from './svg.ts'

export interface Curve {
  /** [step, value], ascending; what is not finite leaves a gap. */
  readonly points: readonly (readonly [number, number])[]
  readonly classes: string
  /** Marks each point, with its figures where the pointer rests. */
  readonly dots?: 'full' | 'hollow'
}

export interface LineChart {
  readonly title: string
  /** Below the horizontal axis. */
  readonly xLabel: string
  /** Above the vertical one: quantity and unit. */
  readonly yLabel: string
  readonly curves: readonly Curve[]
  /** Values to compare with, as lines across. */
  readonly baselines?: readonly { readonly name: string; readonly value: number }[]
  readonly logarithmic?: boolean
  /** Begins the vertical axis at 0. */
  readonly fromZero?: boolean
  readonly height?: number
  readonly width?: number
}

const MARGIN = { left: 64, right: 16, top: 28, bottom: 42 }
/** Points of a curve that is drawn; more are no more to see. */
const MOST_POINTS = 800

/** Round values between two others, about `count` of them. */
export function ticks(from: number, to: number, count: number): number[] {
  const raw = (to - from) / Math.max(1, count)
  if (!(raw > 0)) return [from]
  const magnitude = 10 ** Math.floor(Math.log10(raw))
  const step = ([1, 2, 5, 10].find((m) => m * magnitude >= raw) ?? 10) * magnitude
  const found: number[] = []
  for (let i = Math.ceil(from / step); i * step <= to + step * 1e-9; i++) found.push(i * step + 0) // no -0
  return found
}

/** 1, 2 and 5 of each power of ten; powers alone where those would be too many. */
export function logTicks(from: number, to: number): number[] {
  const found: number[] = []
  const decades = Math.log10(to / from)
  const factors = decades > 3 ? [1] : [1, 2, 5]
  for (let e = Math.floor(Math.log10(from)); e <= Math.ceil(Math.log10(to)); e++) {
    for (const factor of factors) {
      const value = factor * 10 ** e
      if (value >= from * 0.999 && value <= to * 1.001) found.push(value)
    }
  }
  return found
}

/** Means of so many neighbours that few enough points are left. */
export function thinned(points: Curve['points'], most = MOST_POINTS): [number, number][] {
  const per = Math.ceil(points.length / most)
  const result: [number, number][] = []
  for (let at = 0; at < points.length; at += per) {
    const part = points.slice(at, at + per)
    const mean = (index: 0 | 1): number => part.reduce((sum, point) => sum + point[index], 0) / part.length
    result.push([mean(0), mean(1)])
  }
  return result
}

/** Short enough for an axis: 0.0004, 25, 1.5k, 2M. */
function tickText(value: number): string {
  const size = Math.abs(value)
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`
  if (size > 0 && size < 1e-3) return value.toExponential(0)
  return String(Number(value.toPrecision(3)))
}

/** Draws curves with axes; an empty text when there is nothing to draw. */
export function lineChart(chart: LineChart): string {
  const { width = 920, height = 300, curves, baselines = [], logarithmic = false } = chart
  const usable = ([x, y]: readonly [number, number]): boolean =>
    Number.isFinite(x) && Number.isFinite(y) && (!logarithmic || y > 0)
  const drawn = curves.map((curve) => ({ ...curve, points: thinned(curve.points) }))
  const all = drawn.flatMap(({ points }) => points.filter(usable))
  if (all.length === 0) return ''
  const values = [...all.map(([, y]) => y), ...baselines.map(({ value }) => value)]
  const xs = all.map(([x]) => x)
  const span = extent(values, { logarithmic, fromZero: chart.fromZero ?? false })
  const [x0, x1] = [Math.min(0, ...xs), Math.max(1, ...xs)]
  const scale = (value: number): number => (logarithmic ? Math.log(value) : value)
  const [y0, y1] = [scale(span.low), scale(span.high)]
  const right = width - MARGIN.right
  const bottom = height - MARGIN.bottom
  const x = (value: number): number => MARGIN.left + ((value - x0) / (x1 - x0)) * (right - MARGIN.left)
  const y = (value: number): number => bottom - ((scale(value) - y0) / (y1 - y0)) * (bottom - MARGIN.top)

  let body = ''
  for (const tick of logarithmic
    ? logTicks(span.low, span.high)
    : ticks(span.low, span.high, Math.round(height / 45))) {
    body += line(MARGIN.left, y(tick), right, y(tick), 'grid')
    body += text(MARGIN.left - 8, y(tick) + 4, tickText(tick), 'tick', 'end')
  }
  for (const tick of ticks(x0, x1, Math.round(width / 90))) {
    body += line(x(tick), bottom, x(tick), bottom + 4, 'grid')
    body += text(x(tick), bottom + 17, tickText(tick), 'tick', 'middle')
  }
  body += line(MARGIN.left, bottom, right, bottom, 'pair')
  body += text((MARGIN.left + right) / 2, height - 6, chart.xLabel, 'tick', 'middle')
  body += text(4, 14, chart.yLabel, 'tick')
  for (const { points, classes } of drawn) {
    const path = pathOf(points, usable, x, y)
    if (path !== '') body += `<path d="${path}" class="curve ${classes}"/>\n`
  }
  for (const { name, value } of baselines) {
    body += line(MARGIN.left, y(value), right, y(value), 'baseline')
    body += text(right - 4, y(value) - 6, `${name}: ${shown(value)}`, 'limit-text', 'end')
  }
  for (const { points, dots } of drawn) {
    if (dots === undefined) continue
    for (const point of points.filter(usable)) {
      body += dot(
        x(point[0]),
        y(point[1]),
        4,
        dots === 'hollow' ? 'own hollow' : 'own',
        `step ${count(point[0])}: ${shown(point[1])}`,
      )
    }
  }
  return svg(width, height, chart.title, describe(chart), body)
}

function extent(
  values: readonly number[],
  { logarithmic, fromZero }: { logarithmic: boolean; fromZero: boolean },
): { low: number; high: number } {
  const least = Math.min(...values)
  const most = Math.max(...values)
  if (logarithmic) return { low: least / 1.1, high: most * 1.1 }
  const room = (most - least || Math.abs(most) || 1) * 0.05
  return { low: fromZero ? Math.min(0, least) : least - room, high: most + room }
}

function pathOf(
  points: Curve['points'],
  usable: (point: readonly [number, number]) => boolean,
  x: (value: number) => number,
  y: (value: number) => number,
): string {
  let path = ''
  let open = false
  for (const point of points) {
    const good = usable(point)
    if (good) path += `${open ? 'L' : 'M'}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`
    open = good
  }
  return path
}

/** What a reader who does not see it is told: where each curve begins and ends. */
function describe({ curves, baselines = [] }: LineChart): string {
  const ends = curves
    .map(({ points }) => points.filter(([, y]) => Number.isFinite(y)))
    .filter((points) => points.length > 0)
    .map((points) => {
      const [first, last] = [points[0], points.at(-1)] as [
        readonly [number, number],
        readonly [number, number],
      ]
      return `from ${shown(first[1])} at step ${first[0]} to ${shown(last[1])} at step ${last[0]}`
    })
  return [...ends, ...baselines.map(({ name, value }) => `${name}: ${shown(value)}`)].join('; ')
}
