import { FormatError } from './errors.ts'

/** A kernel of one device, found by its signature (docs/architecture.md, "Signatures"). */
export interface Kernel {
  readonly signature: string
  readonly name: string
  /** Word 1 of a record. */
  readonly code: number
  /** Bit per dtype code that the first floating argument may have. */
  readonly dtypes: number
  readonly level: string
  /** Whether tensor i is written: inputs, outputs, then one repeat of the group. */
  readonly writes: readonly boolean[]
  /** Tensors before the repeating group. */
  readonly fixed: number
  /** Tensors of one repeat; 0 where there is no group. */
  readonly group: number
  readonly attributes: number
}

interface Parsed {
  name: string
  writes: boolean[]
  fixed: number
  group: number
  attributes: number
}

const PARAMETER = /^[A-Za-z_]\w*(!?)(\??)$/

function parameters(list: string, signature: string, written: boolean): boolean[] {
  if (list.trim() === '') return []
  return list.split(',').map((text) => {
    const match = PARAMETER.exec(text.trim())
    if (match === null) throw new FormatError(`kernel signature '${signature}': bad '${text}'`)
    return written || match[1] === '!'
  })
}

interface List {
  fixed: boolean[]
  group: boolean[]
}

/** `a, b!, ...(c!, d)`: whether each is written, and those of the repeating group. */
function parseList(text: string, signature: string, output: boolean): List {
  const match = /^([^()]*?)(?:,?\s*\.\.\.\(([^()]*)\))?$/.exec(text.trim())
  if (match === null) throw new FormatError(`kernel signature '${signature}': bad list '${text}'`)
  return {
    fixed: parameters(match[1] ?? '', signature, output),
    group: parameters(match[2] ?? '', signature, output),
  }
}

/** Text between the first parenthesis and its partner, and what follows. */
function parenthesised(text: string, signature: string): [string, string] {
  let depth = 0
  for (let i = 0; i < text.length; i++) {
    if (text[i] === '(') depth++
    if (text[i] === ')' && --depth === 0) return [text.slice(1, i), text.slice(i + 1).trim()]
  }
  throw new FormatError(`kernel signature '${signature}': unbalanced parentheses`)
}

export function parseSignature(signature: string): Parsed {
  const head = /^\s*([\w.]+)(?=\()/.exec(signature)
  if (head === null) throw new FormatError(`kernel signature '${signature}': no name and '('`)
  let [list, rest] = parenthesised(signature.slice(head[0].length), signature)
  const inputs = parseList(list, signature, false)
  let outputs: List = { fixed: [], group: [] }
  if (rest.startsWith('->')) {
    ;[list, rest] = parenthesised(rest.slice(2).trim(), signature)
    outputs = parseList(list, signature, true)
  }
  const attributes = /^\[([^\]]*)\]$/.exec(rest)?.[1]
  if (rest !== '' && attributes === undefined) {
    throw new FormatError(`kernel signature '${signature}': unexpected '${rest}'`)
  }
  const fixed = [...inputs.fixed, ...outputs.fixed]
  const group = [...inputs.group, ...outputs.group]
  return {
    name: head[1] ?? '',
    writes: [...fixed, ...group],
    fixed: fixed.length,
    group: group.length,
    attributes: attributes === undefined || attributes.trim() === '' ? 0 : attributes.split(',').length,
  }
}
