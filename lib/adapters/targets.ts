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

function expressionOf(where: string, source: string): SplitPattern {
  try {
    return new SplitPattern(source)
  } catch (error) {
    if (!(error instanceof FuselmError)) throw error
    throw new ConfigError(
      `${where}: ${JSON.stringify(source)} is no expression that is known: ${error.message}`,
    )
  }
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

function matcher(targets: Targets, head: Linear | null): (target: Target) => boolean {
  if (typeof targets !== 'string') return ({ path }) => isNamed(path, targets)
  if (targets.toLowerCase() === 'all-linear') {
    return ({ module }) => module instanceof Linear && module !== head
  }
  const expression = expressionOf('targets', targets)
  return ({ path }) => expression.fullMatch(path)
}

/** The value of the first pattern that a path ends in. */
function patternValue(patterns: Readonly<Record<string, number>>, path: string): number | undefined {
  const found = Object.keys(patterns).find((key) =>
    expressionOf('pattern', `(?:.*\\.)?(?:${key})`).fullMatch(path),
  )
  return found === undefined ? undefined : patterns[found]
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
  const matches = matcher(config.targets, model.lmHead)
  const terms = modules
    .filter((target) => !saved.includes(target) && matches(target))
    .map((target) => {
      const rank = patternValue(config.rankPattern, target.path) ?? config.rank
      const alpha = patternValue(config.alphaPattern, target.path) ?? config.alpha
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
