// Closed forms in float64, written from the papers and not from the library.

/** -log softmax(logits)[target]. */
export function negativeLogLikelihood(logits: ArrayLike<number>, target: number): number {
  let max = Number.NEGATIVE_INFINITY
  for (let i = 0; i < logits.length; i++) max = Math.max(max, logits[i] ?? 0)
  let sum = 0
  for (let i = 0; i < logits.length; i++) sum += Math.exp((logits[i] ?? 0) - max)
  return max + Math.log(sum) - (logits[target] ?? Number.NaN)
}

/** Mean loss over the targets of rows [rows, vocab] that are not `ignoreIndex`. */
export function crossEntropyMean(
  logits: ArrayLike<number>,
  labels: readonly number[],
  vocab: number,
  { ignoreIndex = -100, labelSmoothing = 0 } = {},
): number {
  let sum = 0
  let count = 0
  labels.forEach((label, row) => {
    if (label === ignoreIndex) return
    const z = Array.from({ length: vocab }, (_, v) => logits[row * vocab + v] ?? 0)
    const losses = z.map((_, v) => negativeLogLikelihood(z, v))
    // PyTorch: (1 - s) x loss of the label + s x the mean over all classes
    sum +=
      (1 - labelSmoothing) * (losses[label] ?? Number.NaN) +
      (labelSmoothing / vocab) * losses.reduce((a, b) => a + b, 0)
    count++
  })
  return sum / count
}

/** Half-split rotary embedding of one head [size] at a position. Source: Su et al. 2021, Llama's layout. */
export function ropeHalfSplit(x: ArrayLike<number>, position: number, theta: number): number[] {
  const half = x.length / 2
  const y = new Array<number>(x.length)
  for (let i = 0; i < half; i++) {
    // Hugging Face stores the frequencies in float32
    const phase = position * Math.fround(theta ** ((-2 * i) / x.length))
    const a = x[i] ?? 0
    const b = x[i + half] ?? 0
    y[i] = a * Math.cos(phase) - b * Math.sin(phase)
    y[i + half] = b * Math.cos(phase) + a * Math.sin(phase)
  }
  return y
}

export type AdamWState = { p: number; m: number; v: number }

/** One scalar AdamW update, step counted from 1. Source: Loshchilov & Hutter 2019; torch.optim.AdamW. */
export function adamW(
  state: AdamWState,
  grad: number,
  step: number,
  o: { lr: number; beta1: number; beta2: number; eps: number; weightDecay: number },
): AdamWState {
  const m = o.beta1 * state.m + (1 - o.beta1) * grad
  const v = o.beta2 * state.v + (1 - o.beta2) * grad * grad
  const mHat = m / (1 - o.beta1 ** step)
  const vHat = v / (1 - o.beta2 ** step)
  const p = state.p * (1 - o.lr * o.weightDecay) - (o.lr * mHat) / (Math.sqrt(vHat) + o.eps)
  return { p, m, v }
}

export function l2(values: Iterable<number>): number {
  let sum = 0
  for (const v of values) sum += v * v
  return Math.sqrt(sum)
}
