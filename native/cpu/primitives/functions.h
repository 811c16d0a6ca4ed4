// Functions of one Vec over the whole range of float, as the primitives of their names promise:
// overflow to infinity, NaN kept.
#pragma once

#include <cmath>

#include "native/cpu/primitives/lanes.h"
#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// e^x, relative error below 3e-7; infinity above 88.73, subnormal and then 0 below -87.34.
inline Vec ExpFull(Vec x) {
  const Vec clamped = Min(Set(89.0f), Max(Set(-104.0f), x));  // the second operand wins: NaN stays
  const Vec n = Round(clamped * Set(1.44269504f));
  // two-part ln 2 (Cody and Waite): the first product is exact
  const Vec r = Fnma(n, Set(-2.12194440e-4f), Fnma(n, Set(0.693359375f), clamped));
  Vec p = Set(1.9875691500e-4f);
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Fma(p, r * r, r + Set(1.0f));
  // in two steps: 2^n alone may lie outside the normal numbers
  const Vec half = Round(n * Set(0.5f));
  return Ldexp(Ldexp(p, half), n - half);
}

inline Vec SigmoidFull(Vec x) { return Set(1.0f) / (Set(1.0f) + ExpFull(x * Set(-1.0f))); }

// sin(x + quarter pi / 2) for quarter 0 (sine) or 1 (cosine): x = n pi/2 + r with pi/2 in three
// parts whose products with |n| < 2^13 are exact (Cody and Waite), then polynomials of least
// relative error on [-pi/4, pi/4]. Absolute error below 1.2e-7 for |x| <= 8192.
inline constexpr float kReducible = 8192.0f;

inline Vec SinReduced(Vec x, float quarter) {
  const Vec n = Round(x * Set(0.636619772f));
  Vec r = Fnma(n, Set(1.5703125f), x);
  r = Fnma(n, Set(4.83751296997e-4f), r);
  r = Fnma(n, Set(7.54978995489e-8f), r);
  const Vec z = r * r;
  Vec s = Fma(Set(-1.951697632e-4f), z, Set(8.332176134e-3f));
  s = Fma(s, z, Set(-1.666665524e-1f));
  s = Fma(s * z, r, r);
  Vec c = Fma(Set(2.443808989e-5f), z, Set(-1.388736418e-3f));
  c = Fma(c, z, Set(4.166664556e-2f));
  c = Fma(c * z, z, Fnma(Set(0.5f), z, Set(1.0f)));
  // quadrant 0..3 in float: q - 4 round(q / 4) is in [-2, 2]
  const Vec q = n + Set(quarter);
  const Vec turn = Fnma(Set(4.0f), Round(q * Set(0.25f)), q);
  const Vec odd = turn - Set(2.0f) * Round(turn * Set(0.5f));  // -1, 0 or 1
  const Vec value = Select(NotEqual(odd, Zero()), c, s);
  // sine is negative in quadrants 2 and 3, which are 2, -2 and -1 here
  const LaneMask flip_even = Less(Set(1.5f), Max(turn, turn * Set(-1.0f)));
  const LaneMask flip_odd = Equal(turn, Set(-1.0f));
  return Select(flip_odd, value * Set(-1.0f), Select(flip_even, value * Set(-1.0f), value));
}

template <class F>
inline Vec ByLane(Vec x, F f) {
  float lanes[kLanes];
  Store(lanes, x);
  for (float& lane : lanes) lane = f(lane);
  return Load(lanes);
}

// Larger arguments need pi to hundreds of bits: the library's own reduction, lane by lane.
inline Vec Sin(Vec x) {
  const Vec size = Max(x, x * Set(-1.0f));
  if (Any(Less(Set(kReducible), size))) return ByLane(x, [](float v) { return std::sin(v); });
  return SinReduced(x, 0.0f);
}
inline Vec Cos(Vec x) {
  const Vec size = Max(x, x * Set(-1.0f));
  if (Any(Less(Set(kReducible), size))) return ByLane(x, [](float v) { return std::cos(v); });
  return SinReduced(x, 1.0f);
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
