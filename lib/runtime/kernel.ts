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

export function parseSignature(signature: string): Parsed {
  const match =
    /^([\w.]+)\(([^()]*?)(?:,?\s*\.\.\.\(([^()]*)\))?\)(?:\s*->\s*\(([^()]*)\))?(?:\s*\[([^\]]*)\])?$/.exec(
      signature.trim(),
    )
  if (match === null) throw new FormatError(`kernel signature '${signature}' cannot be read`)
  const [, name = '', inputs = '', group, outputs = '', attributes = ''] = match
  const fixed = [
    ...parameters(inputs, signature, false),
    ...parameters(outputs, signature, true),
  ]
  const repeated = group === undefined ? [] : parameters(group, signature, false)
  return {
    name,
    writes: [...fixed, ...repeated],
    fixed: fixed.length,
    group: repeated.length,
    attributes: attributes.trim() === '' ? 0 : attributes.split(',').length,
  }
}
