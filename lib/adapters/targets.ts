// Which modules of a model an adapter is for, by PEFT's rules.

import type { CausalLm } from '../models/causal-lm.ts'
import { snakeCasePath } from '../models/family.ts'
import { Embedding, Linear } from '../nn/layers.ts'
import { ConfigError, FuselmError } from '../runtime/errors.ts'
import { SplitPattern } from '../tokenizer/pattern.ts'
import type { LoraConfig, Targets } from './config.ts'

/** A module that an adapter changes. */
export interface Target {
  /** As Hugging Face names it. */
  readonly path: string
  readonly module: Linear | Embedding
}

/** A term's place, rank and scale. */
export interface TermTarget extends Target {
  readonly rank: number
  readonly scale: number
}

/**
 * Whether paths match an expression as a whole.
 * @throws ConfigError for syntax that is not known, or a match that takes too long
 */
function expressionOf(where: string, source: string): (path: string) => boolean {
  const explained = <T>(fn: () => T): T => {
    try {
      return fn()
    } catch (error) {
      if (!(error instanceof FuselmError)) throw error
      throw new ConfigError(`${where}: expression ${JSON.stringify(source)}: ${error.message}`)
    }
  }
  const pattern = explained(() => new SplitPattern(source))
  return (path) => explained(() => pattern.fullMatch(path))
}

/** Whether a path is, or ends in, one of the names. */
function isNamed(path: string, names: readonly string[]): boolean {
  return names.some((name) => path === name || path.endsWith(`.${name}`))
}

/** Linears and embeddings by path. */
function modulesOf(model: CausalLm): Target[] {
  const modules: Target[] = []
  for (const [path, module] of model.namedModules()) {
    if (module instanceof Linear || module instanceof Embedding) {
      modules.push({ path: snakeCasePath(path), module })
    }
  }
  return modules
}

function matcher(where: string, targets: Targets, head: Linear | null): (target: Target) => boolean {
  if (typeof targets !== 'string') return ({ path }) => isNamed(path, targets)
  if (targets.toLowerCase() === 'all-linear') {
    return ({ module }) => module instanceof Linear && module !== head
  }
  const matches = expressionOf(`${where}: targets`, targets)
  return ({ path }) => matches(path)
}

/** The value of the first pattern that a path ends in. */
function patternValues(
  where: string,
  patterns: Readonly<Record<string, number>>,
): (path: string) => number | undefined {
  const all = Object.entries(patterns).map(
    ([key, value]) => [expressionOf(`${where}: pattern`, `(?:.*\\.)?(?:${key})`), value] as const,
  )
  return (path) => all.find(([matches]) => matches(path))?.[1]
}

/**
 * The modules that get a term, in the model's order, and those that are copied whole.
 * @throws ConfigError when a name or expression matches none, or a module of a kind that takes none
 */
export function resolveTargets(
  where: string,
  model: CausalLm,
  config: LoraConfig,
): { readonly terms: readonly TermTarget[]; readonly saved: readonly Target[] } {
  const modules = modulesOf(model)
  const known = (): string => {
    const names = modules.map(({ path }) => path.split('.').at(-1) as string)
    return [...new Set(names)].join(', ')
  }
  const saved = modules.filter(({ path }) => isNamed(path, config.modulesToSave))
  for (const name of config.modulesToSave) {
    if (saved.some(({ path }) => isNamed(path, [name]))) continue
    throw new ConfigError(
      `${where}: modulesToSave ${JSON.stringify(name)} is no linear layer or embedding of this model; it has ${known()}`,
    )
  }
  const matches = matcher(where, config.targets, model.lmHead)
  const rankOf = patternValues(where, config.rankPattern)
  const alphaOf = patternValues(where, config.alphaPattern)
  const terms = modules
    .filter((target) => !saved.includes(target) && matches(target))
    .map((target) => {
      const rank = rankOf(target.path) ?? config.rank
      const alpha = alphaOf(target.path) ?? config.alpha
      return { ...target, rank, scale: alpha / (config.rsLora ? Math.sqrt(rank) : rank) }
    })
  if (terms.length === 0) {
    throw new ConfigError(
      `${where}: targets ${JSON.stringify(config.targets)} match no linear layer or embedding of this model; it has ${known()}`,
    )
  }
  return { terms, saved }
}

/** Targets as a file says them: `all-linear` by the names it stands for. */
export function writtenTargets(targets: Targets, terms: readonly Target[]): Targets {
  if (typeof targets !== 'string' || targets.toLowerCase() !== 'all-linear') return targets
  return [...new Set(terms.map(({ path }) => path.split('.').at(-1) as string))].sort()
}
