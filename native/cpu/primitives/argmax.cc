// levels: generic avx2 avx512
// Index of the largest of the last axis; the first among equals; a NaN is largest. The largest
// value first, then where it stands: the second pass finds its row in the cache. Bandwidth-bound: 1
// stream.
#include "native/cpu/primitives/elementwise.h"
#include "native/cpu/primitives/lanes.h"
#include "native/cpu/primitives/reduce.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int64_t kTile = 1 << 15;

template <class T>
int64_t IndexInRow(const T* x, int64_t n) {
  using C = Total<T>;
  C top = ReducePiece<T, MaxOp>(x, n);
  int64_t i = 0;
  if constexpr (kInLanes<T>) {
    const Vec value = Set(top);
    for (; i + kLanes <= n; i += kLanes) {
      const Vec v = Load(x + i);
      if (Any(top != top ? IsNan(v) : Equal(v, value))) break;
    }
  }
  for (; i < n; ++i) {
    const C v = static_cast<C>(x[i]);
    if (v == top || (v != v && top != top)) break;
  }
  return i;
}

template <class T>
int64_t IndexByStep(const T* x, int64_t n, int64_t step) {
  using C = Total<T>;
  int64_t best = 0;
  for (int64_t i = 1; i < n; ++i) {
    const C value = static_cast<C>(x[i * step]), top = static_cast<C>(x[best * step]);
    if (value > top || (value != value && top == top)) best = i;
  }
  return best;
}

void Argmax(Invocation& inv) {
  const View &x = inv[0], &y = inv[1];
  bool fits = x.rank >= 1 && y.rank == x.rank - 1;
  for (int i = 0; fits && i < y.rank; ++i) fits = x.shape[i] == y.shape[i];
  if (!fits)
    throw Error(ErrorCode::kShape,
                "argmax: " + y.ToString() + " is not " + x.ToString() + " without its last axis");
  RequireDType("argmax", y, DType::kI32);
  Require(y.contiguous(), ErrorCode::kShape, "argmax: the output must be contiguous");
  const int64_t n = x.dim(-1), step = x.step(-1), rows = y.numel();
  Require(n > 0 && n <= std::numeric_limits<int32_t>::max(), ErrorCode::kShape,
          "argmax: the last axis must have 1 to 2^31 - 1 elements");
  const int64_t per_tile = std::max<int64_t>(1, kTile / n);
  DispatchFloatOrI32(x.dtype, [&]<class T>() {
    inv.ParallelFor((rows + per_tile - 1) / per_tile, [&](int64_t tile, int) {
      for (int64_t r = tile * per_tile; r < std::min(rows, (tile + 1) * per_tile); ++r)
        y.as<int32_t>()[r] = static_cast<int32_t>(step == 1 ? IndexInRow(x.row<T>(r), n)
                                                            : IndexByStep(x.row<T>(r), n, step));
    });
  });
}
FUSELM_KERNEL("argmax(x) -> (y)", kFloat64 | Mask(DType::kI32), Argmax);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
