// A shuffle that needs no list: any place of any epoch is computed by itself, so a cursor is one number.

/** 32-bit mixing. Source: C. Wellons, "Prospecting for Hash Functions", 2018 (lowbias32). */
function mix(value: number): number {
  let x = value >>> 0
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d)
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b)
  return (x ^ (x >>> 16)) >>> 0
}

const ROUNDS = 6

/**
 * A pseudo-random permutation of 0 to `size - 1` for each (seed, epoch): a Feistel network over the next
 * even number of bits, walked until it lands inside.
 */
export function permutation(size: number, seed: number, epoch: number): (index: number) => number {
  let half = 1
  while (4 ** half < size) half++
  const mask = 2 ** half - 1
  const keys = Array.from({ length: ROUNDS }, (_, round) =>
    mix(mix(mix(seed >>> 0) ^ mix(epoch + 0x51ed270b)) + round * 0x9e3779b9),
  )
  return (index) => {
    let at = index
    do {
      let left = Math.floor(at / (mask + 1))
      let right = at & mask
      for (const key of keys) {
        const next = (left ^ (mix(right ^ key) & mask)) >>> 0
        left = right
        right = next
      }
      at = left * (mask + 1) + right
    } while (at >= size)
    return at
  }
}
