// Seeded values for tests, independent of the library: what is tested may not make its own inputs.

/** A stream of uniform numbers; equal seeds give equal streams on any machine. */
export type Random = {
  /** Uniform in [0, 1), 32 bits. */
  uniform(): number
  /** N(0, 1). */
  normal(): number
  /** Uniform integer in [lo, hi). */
  integer(lo: number, hi: number): number
}

/** FNV-1a, 32 bits. Source: Fowler, Noll & Vo. */
function hash(text: string): number {
  let h = 0x811c9dc5
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  return h >>> 0
}

/** Counter hashed by the finalizer of SplitMix (32-bit variant); normals by Box & Muller 1958. */
export function random(seed: string | number): Random {
  let state = typeof seed === 'string' ? hash(seed) : seed >>> 0
  let spare: number | undefined
  const uniform = (): number => {
    state = (state + 0x9e3779b9) >>> 0
    let z = state
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad)
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97)
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32
  }
  const normal = (): number => {
    if (spare !== undefined) {
      const value = spare
      spare = undefined
      return value
    }
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()))
    const angle = 2 * Math.PI * uniform()
    spare = radius * Math.sin(angle)
    return radius * Math.cos(angle)
  }
  return { uniform, normal, integer: (lo, hi) => lo + Math.floor(uniform() * (hi - lo)) }
}
