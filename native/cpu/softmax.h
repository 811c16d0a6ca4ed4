// What softmax and its logarithm over the last axis share. float32 inside; the largest element is
// subtracted first. A row that holds NaN or +inf, or nothing but -inf, becomes NaN.
#pragma once

#include <limits>

#include "native/cpu/exp2.h"
#include "native/cpu/norm.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// The head of a row's last vector, -inf in the lanes past the end: neutral to a maximum, and e^-inf
// is 0.
template <class T>
inline Vec LoadLast(const T* p, int64_t n) {
  alignas(64) float part[kLanes];
  Store(part, Set(-std::numeric_limits<float>::infinity()));
  StoreN(part, LoadN(p, n), n);
  return Load(part);
}

// f(i, vector, left) for each vector of a row, -inf past its end
template <class T, class F>
inline void ForLogits(const T* x, int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, Load(x + i), static_cast<int64_t>(kLanes));
  if (i < n) f(i, LoadLast(x + i, n - i), n - i);
}

// Largest element; one that is NaN is passed over.
template <class T>
inline float RowMax(const T* x, int64_t n) {
  Vec m0 = Set(-std::numeric_limits<float>::infinity()), m1 = m0;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    m0 = Max(Load(x + i), m0);
    m1 = Max(Load(x + i + kLanes), m1);
  }
  ForLogits(x + i, n - i, [&](int64_t, Vec a, int64_t) { m0 = Max(a, m0); });
  return MaxOf(Max(m0, m1));
}

// e^x to the precision of T
template <class T>
inline Vec ExpOf(Vec x) {
  if constexpr (sizeof(T) == 4) {
    return Exp(x);
  } else {
    // a NaN goes through Max as its second operand, and -inf would become one in Exp2
    return Exp2<5>(Max(Set(-1000.0f), x * Set(1.44269504f)));
  }
}

// The tensors of both ops: inputs and outputs of one shape.
inline void RequireLogits(const char* op, std::initializer_list<const View*> views) {
  const View& x = **views.begin();
  bool fits = x.rank >= 1 && x.dim(-1) > 0;
  for (const View* v : views) fits = fits && IsRows(*v, x.dtype, x.rows(), x.dim(-1));
  RequireShape(op, fits, "all tensors must be alike, with unit stride in a last axis not empty");
}

// f(row) for all rows, in tiles
template <class F>
inline void ForRows(Invocation& call, const View& x, F&& f) {
  // an exponential costs as much as some loads and stores
  const int64_t rows = x.rows(), per_tile = std::max<int64_t>(1, RowsPerTile(x.dim(-1)) / 2);
  call.ParallelFor(CeilDiv(rows, per_tile), [&](int64_t tile, int worker) {
    const int64_t end = std::min(rows, (tile + 1) * per_tile);
    for (int64_t r = tile * per_tile; r < end; ++r) f(r, worker);
  });
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
