// The types of an operator definition (docs/adding-an-op.md shows one in use).

import type { DType } from '../tensor/dtype.ts'
import type { Tensor } from '../tensor/tensor.ts'

/** What shape inference sees of a tensor: never its data. */
export interface TensorMeta {
  readonly shape: readonly number[]
  readonly dtype: DType
  readonly rank: number
}

/** The shape and dtype of an output. */
export interface TensorSpec {
  readonly shape: readonly number[]
  readonly dtype: DType
}

/** Which memory layout a kernel takes; `defineOp` inserts (and counts) a copy when it is unmet. */
export type Layout = 'any' | 'rows' | 'contiguous'

/** 'float' is f32, bf16 or f64; all 'float' inputs of a call have one dtype, but for `mixed` ones. */
export type InputDType = 'float' | 'any' | DType | readonly DType[]

export interface InputDef {
  readonly name: string
  /** 'any' when left out. */
  readonly dtype?: InputDType
  /** 'contiguous' when left out. */
  readonly layout?: Layout
  /** May be null; `?` in the signature. */
  readonly optional?: true
  /** Read and written; `!` in the signature. Bumps the version of its storage. */
  readonly inPlace?: true
  /** A 'float' input that need not have the dtype of the other 'float' inputs. */
  readonly mixed?: true
  /** No gradient flows into it: one that requires a gradient is refused, not silently lost. */
  readonly constant?: true
}

export interface OutputDef {
  readonly name: string
  /** Made only when a gradient is needed, for `vjp`; `?` in the signature, and null otherwise. */
  readonly saved?: true
  /** Absent when `infer` gives null for it; `?` in the signature. */
  readonly optional?: true
  /** Often unused: `vjp` gets null for its gradient then, where others get zeros. */
  readonly sparse?: true
}

export type Inputs = readonly InputDef[]
export type Outputs = readonly OutputDef[]

type TensorOf<I extends InputDef, T> = I extends { readonly optional: true } ? T | null : T

/** One `T` per input, in order; null allowed for optional ones. */
export type InputTuple<I extends Inputs, T = Tensor> = {
  readonly [K in keyof I]: I[K] extends InputDef ? TensorOf<I[K], T> : never
}

/** What an op call returns: saved outputs are null when no gradient is needed. */
export type OutputTuple<O extends Outputs> = {
  readonly [K in keyof O]: O[K] extends { readonly saved: true } | { readonly optional: true }
    ? Tensor | null
    : Tensor
}

/** One `T` per output, saved ones included. */
export type AllOutputs<O extends Outputs, T = Tensor> = {
  readonly [K in keyof O]: O[K] extends { readonly optional: true } ? T | null : T
}

/** One gradient per output that is not `saved`; that of a `sparse` or absent one is null. */
export type GradTuple<O extends Outputs> = O extends readonly [
  infer First extends OutputDef,
  ...infer Rest extends Outputs,
]
  ? First extends { readonly saved: true }
    ? GradTuple<Rest>
    : readonly [
        First extends { readonly sparse: true } | { readonly optional: true } ? Tensor | null : Tensor,
        ...GradTuple<Rest>,
      ]
  : O extends readonly []
    ? readonly []
    : readonly Tensor[]

/** Attributes as `infer`, `reference` and `vjp` see them: booleans are 0 or 1. */
export type AttributeValues<A extends readonly string[]> = { readonly [K in keyof A]: number }

/** Attributes as a call gives them. */
export type AttributeArgs<A extends readonly string[]> = { readonly [K in keyof A]: number | boolean }

/** Where a weight-gradient kernel writes (or adds, when `accumulate`). */
export interface GradTarget {
  /** f32 (f64 for f64 leaves), contiguous, of the input's shape. */
  readonly tensor: Tensor
  /** True when the tensor holds an earlier gradient that must be added to. */
  readonly accumulate: boolean
}

export interface VjpContext<
  I extends Inputs,
  O extends Outputs,
  A extends readonly string[],
  G extends Inputs,
> {
  readonly inputs: InputTuple<I>
  readonly groups: readonly InputTuple<G>[]
  readonly outputs: AllOutputs<O>
  readonly attributes: AttributeValues<A>
  readonly grads: GradTuple<O>
  /**
   * Whether input `index` needs a gradient (groups count on after the inputs). Return null for one
   * that does not: what is returned for it is thrown away.
   */
  needs(index: number): boolean
  /** The leaf's own gradient when input `index` is a leaf, else a fresh uninitialised tensor. */
  gradTarget(index: number): GradTarget
}

/** One gradient per input, then per member of each group; null where there is none. */
export type Gradients = readonly (Tensor | null)[]

export interface OpDefinition<
  I extends Inputs = Inputs,
  O extends Outputs = Outputs,
  A extends readonly string[] = readonly string[],
  G extends Inputs = Inputs,
> {
  /** snake_case: file name, kernel id, test and bench. A backward is `<op>.backward`. */
  readonly name: string
  readonly inputs: I
  readonly outputs: O
  /** Numbers and booleans, float64 each. Whatever varies per step is an input instead. */
  readonly attributes?: A
  /** A trailing group of inputs that repeats any number of times: `...(param!, grad)`. */
  readonly group?: G
  /**
   * Output shapes and dtypes, one per output (null for an absent optional one). Throws ShapeError for inputs that do not fit; never
   * looks at data. `groups` are the repeats of `group`.
   */
  infer(
    inputs: InputTuple<I, TensorMeta>,
    attributes: AttributeValues<A>,
    groups: readonly InputTuple<G, TensorMeta>[],
  ): AllOutputs<O, TensorSpec>
  /** No kernel is due: the composition is all there is. */
  readonly referenceOnly?: true
  /** A plain native loop in f64, f32 and bf16: what references are composed of. */
  readonly primitive?: true
  /**
   * The op composed of primitives: its outputs in order, of which saved ones may be left out; targets
   * updated in place by `copyInto`. Or the gradient of another op's reference, matched by name: `dy` is
   * the gradient of output `y`, output or in-place target `dx` that of input `x`, and an attribute
   * `accumulate` says that in-place targets are added to.
   */
  readonly reference?:
    | ((
        inputs: InputTuple<I>,
        attributes: AttributeValues<A>,
        groups: readonly InputTuple<G>[],
      ) => readonly (Tensor | null)[])
    | { readonly gradientOf: string }
  /**
   * Gradients of the inputs; runs without recording gradients, and what it makes and does not return
   * is freed. Without one the reference is differentiated.
   */
  readonly vjp?: (context: VjpContext<I, O, A, G>) => Gradients
  /**
   * Names of the inputs and outputs whose values `vjp` reads; all inputs and the saved outputs when
   * left out. Others reach `vjp` as shapes only, so that their memory need not be kept.
   */
  readonly saves?: readonly (I[number]['name'] | O[number]['name'] | G[number]['name'])[]
  /** False: an input that requires a gradient is refused (inside `noGrad` it is taken). */
  readonly differentiable?: false
  /** Floating-point operations of a call, for the profile. */
  readonly flops?: (
    inputs: InputTuple<I, TensorMeta>,
    attributes: AttributeValues<A>,
    groups: readonly InputTuple<G, TensorMeta>[],
  ) => number
}

/** What `defineOp` returns: a function to call, with the definition beside it. */
export interface Op<
  I extends Inputs = Inputs,
  O extends Outputs = Outputs,
  A extends readonly string[] = readonly string[],
  G extends Inputs = Inputs,
> {
  (
    inputs: InputTuple<I>,
    ...rest: A extends readonly []
      ? [attributes?: readonly [], groups?: readonly InputTuple<G>[]]
      : [attributes: AttributeArgs<A>, groups?: readonly InputTuple<G>[]]
  ): OutputTuple<O>
  readonly definition: OpDefinition<I, O, A, G>
  /** The text kernels are registered under. */
  readonly signature: string
}
