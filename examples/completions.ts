// Whether a completion is worth something: a line that TypeScript takes for a member of an interface, and
// no line over and over.
import ts from 'typescript'

/** Whole lines: the last is one only if the text ends there by itself. */
function linesOf(text: string, ended: boolean): string[] {
  const lines = text.split('\n')
  if (!ended) lines.pop()
  return lines.map((line) => line.trim()).filter((line) => line !== '')
}

/**
 * Whether a line is one member of an interface, without a syntax error: a property with its type, a
 * method, a call, an index. (A bare word would parse, too, as a property of any type: it does not count.)
 */
export function isInterfaceMember(line: string): boolean {
  const source = `interface X {\n${line}\n}`
  const { diagnostics = [] } = ts.transpileModule(source, { reportDiagnostics: true })
  if (diagnostics.length > 0) return false
  const { statements } = ts.createSourceFile('x.ts', source, ts.ScriptTarget.Latest)
  const [only] = statements
  if (statements.length !== 1 || only === undefined || !ts.isInterfaceDeclaration(only)) return false
  const [member] = only.members
  if (only.members.length !== 1 || member === undefined) return false
  return !ts.isPropertySignature(member) || member.type !== undefined
}

export interface Verdict {
  /** The first line that is a member of an interface; null when none is. */
  readonly member: string | null
  /** How often the most frequent line stands there; lines without a letter or digit (`}`, `/**`) are not counted. */
  readonly repeats: number
}

/** @param ended whether the text came to an end by itself, so that its last line is whole */
export function judge(text: string, ended: boolean): Verdict {
  const lines = linesOf(text, ended)
  const counts = new Map<string, number>()
  for (const line of lines) {
    if (/[\p{L}\p{N}]/u.test(line)) counts.set(line, (counts.get(line) ?? 0) + 1)
  }
  return {
    member: lines.find((line) => isInterfaceMember(line)) ?? null,
    repeats: Math.max(0, ...counts.values()),
  }
}
