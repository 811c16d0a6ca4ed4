// Marks of a chart as SVG text. Colours are classes: the page's style gives them for light and dark.

import { escapeHtml } from './html.ts'

export function svg(width: number, height: number, title: string, description: string, body: string): string {
  // no <title>: a browser would show it wherever the pointer rests
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escapeHtml(`${title}. ${description}`)}">
${body}</svg>`
}

export function text(x: number, y: number, content: string, classes = '', anchor = 'start'): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" class="${classes}" text-anchor="${anchor}">${escapeHtml(content)}</text>\n`
}

export function bar(
  x: number,
  y: number,
  width: number,
  height: number,
  classes: string,
  hint: string,
): string {
  const w = Math.max(1, width).toFixed(1)
  return `<rect x="${x}" y="${y.toFixed(1)}" width="${w}" height="${height}" rx="2" class="${classes}"><title>${escapeHtml(hint)}</title></rect>\n`
}

export function line(x1: number, y1: number, x2: number, y2: number, classes: string): string {
  return `<line x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}" class="${classes}"/>\n`
}

export function dot(x: number, y: number, radius: number, classes: string, hint: string): string {
  return `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${radius}" class="${classes}"><title>${escapeHtml(hint)}</title></circle>\n`
}
