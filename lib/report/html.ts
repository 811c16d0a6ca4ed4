// One page that needs nothing but itself: no script, no font, no address.

export function escapeHtml(text: string): string {
  const names: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }
  return text.replace(/[&<>"]/g, (c) => names[c] ?? c)
}

/** Three digits, and no more than are known. */
export function shown(value: number): string {
  if (value >= 1000) return Math.round(value).toLocaleString('en')
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3)
}

/** A whole number: 1,234 or 1.23M. */
export function count(value: number): string {
  return value >= 1e6 ? `${(value / 1e6).toPrecision(3)}M` : Math.round(value).toLocaleString('en')
}

const STYLE = `
:root { color-scheme: light dark; --page: #fbfbfa; --card: #fff; --ink: #1d2126; --dim: #5d6670; --rule: #e3e5e8;
  --own: #1565a8; --peer: #a7afb8; --limit: #b3261e; --met: #1b7a3d; --code: #f4f5f6; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1c2024; --ink: #e8eaed; --dim: #a0a8b1;
  --rule: #31373d; --own: #6db3ee; --peer: #6a737d; --limit: #ff8a80; --met: #6fd694; --code: #15181b; } }
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
.curve { fill: none; stroke: var(--own); stroke-width: 2; stroke-linejoin: round } .curve.hidden { stroke: none } .curve.faint { stroke: var(--peer); stroke-width: 1 }
.baseline { stroke: var(--limit); stroke-width: 1.5; stroke-dasharray: 6 4 }
details { margin-top: .6rem } summary { cursor: pointer; color: var(--dim) }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; width: 100% }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--rule); white-space: nowrap }
th:first-child, td:first-child { text-align: left } .key { display: flex; gap: 1.2rem; flex-wrap: wrap; font-size: .9rem; color: var(--dim) }
.key i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem; margin: 1.2rem 0 }
.figures div { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: .7rem .9rem }
.figures b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums } .figures span { color: var(--dim); font-size: .85rem }
.checks { list-style: none; margin: .4rem 0 0; padding: 0 } .checks li { padding: .3rem 0; border-bottom: 1px solid var(--rule) }
.checks b { display: inline-block; min-width: 6.5rem } .met b { color: var(--met) } .missed b { color: var(--limit) } .unknown b { color: var(--dim) }
table.pairs td { white-space: normal; text-align: left } table.pairs td:first-child { color: var(--dim); width: 16rem }
pre { background: var(--code); border: 1px solid var(--rule); border-radius: 6px; padding: .7rem .9rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; line-height: 1.45 }
pre b { color: var(--own); font-weight: 600 }
.small { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 0 1rem }
`

/** @param body what stands below the title, as HTML */
export function page(title: string, body: string): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title><style>${STYLE}</style></head><body><main>
<h1>${escapeHtml(title)}</h1>
${body}
</main></body></html>
`
}
