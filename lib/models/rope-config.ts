// Rotary scaling in configurations: checks, and Hugging Face's spelling, which is `rope_scaling` up to
// transformers 4 (its kind once under `type`) and `rope_parameters`, with theta inside, from 5.

import type { RopeScaling } from '../nn/rotary.ts'
import { ConfigError } from '../runtime/errors.ts'
import { checkOptions, shown } from '../runtime/options.ts'

type Kind = RopeScaling['ropeType']
type Values = 'positive' | 'boolean' | 'positives'

/** The keys of each kind; those that must be there end in `!`. */
const KINDS: Record<Kind, Readonly<Record<string, Values>>> = {
  linear: { 'factor!': 'positive' },
  dynamic: { 'factor!': 'positive' },
  llama3: {
    'factor!': 'positive',
    'lowFreqFactor!': 'positive',
    'highFreqFactor!': 'positive',
    originalMaxPositionEmbeddings: 'positive',
  },
  yarn: {
    factor: 'positive',
    originalMaxPositionEmbeddings: 'positive',
    attentionFactor: 'positive',
    betaFast: 'positive',
    betaSlow: 'positive',
    mscale: 'positive',
    mscaleAllDim: 'positive',
    truncate: 'boolean',
  },
  longrope: {
    'shortFactor!': 'positives',
    'longFactor!': 'positives',
    factor: 'positive',
    originalMaxPositionEmbeddings: 'positive',
    attentionFactor: 'positive',
  },
}

const isPositive = (value: unknown): boolean =>
  typeof value === 'number' && Number.isFinite(value) && value > 0

const CHECKS: Record<Values, { readonly expected: string; holds(value: unknown): boolean }> = {
  positive: { expected: 'a positive number', holds: isPositive },
  boolean: { expected: 'a boolean', holds: (value) => typeof value === 'boolean' },
  positives: {
    expected: 'an array of positive numbers',
    holds: (value) => Array.isArray(value) && value.every(isPositive),
  },
}

/**
 * @param where begins messages
 * @param pairs that turn in a head: entries of longrope's lists
 * @throws ConfigError naming the key, what was expected and what was found
 */
export function checkRopeScaling(where: string, scaling: unknown, pairs: number): RopeScaling | null {
  if (scaling === null) return null
  if (typeof scaling !== 'object' || scaling === undefined || Array.isArray(scaling)) {
    throw new ConfigError(`${where}: ropeScaling must be an object or null, received ${shown(scaling)}`)
  }
  const given = new Map<string, unknown>(Object.entries(scaling))
  const kind = given.get('ropeType')
  if (typeof kind !== 'string' || !Object.hasOwn(KINDS, kind)) {
    throw new ConfigError(
      `${where}: rope_type must be one of default, ${Object.keys(KINDS).join(', ')}, received ${shown(kind)}`,
    )
  }
  const keys = Object.entries(KINDS[kind as Kind])
  const known = keys.map(([key]) => key.replace('!', ''))
  checkOptions(`${where}: ${kind} rope scaling`, scaling, ['ropeType', ...known])
  keys.forEach(([key, values], i) => {
    const name = known[i] ?? key
    const value = given.get(name)
    if (value === undefined && !key.endsWith('!')) return
    const { expected, holds } = CHECKS[values]
    if (holds(value) && (values !== 'positives' || (value as readonly number[]).length === pairs)) return
    const count = values === 'positives' ? `, ${pairs} of them (one per pair)` : ''
    throw new ConfigError(
      `${where}: ${kind} rope scaling: ${name} must be ${expected}${count}, received ${shown(value)}`,
    )
  })
  const checked = scaling as RopeScaling
  if (checked.ropeType === 'llama3' && checked.highFreqFactor <= checked.lowFreqFactor) {
    throw new ConfigError(
      `${where}: llama3 rope scaling: highFreqFactor must be above lowFreqFactor (${checked.lowFreqFactor}), received ${checked.highFreqFactor}`,
    )
  }
  return checked
}

export interface HuggingFaceRope {
  readonly ropeTheta: unknown
  readonly partialRotaryFactor: unknown
  /** In camelCase, not checked. */
  readonly ropeScaling: Record<string, unknown> | null
}

/**
 * What config.json says of rotary positions, old names and new.
 * @throws ConfigError for one set of parameters per kind of layer
 */
export function readRope(config: ReadonlyMap<string, unknown>): HuggingFaceRope {
  const found = config.get('rope_scaling') ?? config.get('rope_parameters') ?? {}
  if (typeof found !== 'object' || found === null || Array.isArray(found)) {
    throw new ConfigError(`config.json: rope_scaling must be an object, received ${shown(found)}`)
  }
  const parameters = new Map(Object.entries(found).filter(([, value]) => value !== null))
  const nested = [...parameters].find(([, value]) => typeof value === 'object' && !Array.isArray(value))
  if (nested !== undefined) {
    throw new ConfigError(
      `config.json: rope_parameters must be the same for all layers, received ones for ${shown(nested[0])}`,
    )
  }
  const take = (key: string): unknown => {
    const value = parameters.get(key)
    parameters.delete(key)
    return value
  }
  const [newKind, oldKind] = [take('rope_type'), take('type')]
  const ropeType = newKind ?? oldKind ?? 'default'
  const ropeTheta = take('rope_theta') ?? config.get('rope_theta')
  const partialRotaryFactor = take('partial_rotary_factor') ?? config.get('partial_rotary_factor')
  if (ropeType === 'default' && parameters.size === 0) {
    return { ropeTheta, partialRotaryFactor, ropeScaling: null }
  }
  // Phi keeps it outside, where it counts for more
  const original = config.get('original_max_position_embeddings')
  const hasOriginal = ropeType === 'llama3' || ropeType === 'yarn' || ropeType === 'longrope'
  if (hasOriginal && original !== undefined && original !== null) {
    parameters.set('original_max_position_embeddings', original)
  }
  const ropeScaling: Record<string, unknown> = { ropeType }
  for (const [key, value] of parameters) ropeScaling[camelCase(key)] = value
  return { ropeTheta, partialRotaryFactor, ropeScaling }
}

/** As transformers 4 and 5 both read it. */
export function writeRopeScaling(scaling: RopeScaling): Record<string, unknown> {
  return Object.fromEntries(Object.entries(scaling).map(([key, value]) => [snakeCase(key), value]))
}

/** numHiddenLayers -> num_hidden_layers */
export function snakeCase(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}

function camelCase(key: string): string {
  return key.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())
}
