// levels: generic avx2
// Running sums along an axis, from its start or, reversed, from its end; kept in double (64 bits
// for integers) and rounded per element. Long axes are cut into chunks of fixed size: their sums
// first, then each chunk from the sum of those before it.
#include "native/cpu/primitives/elementwise.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int64_t kChunk = 1 << 14;  // elements along the axis
constexpr int64_t kStrip = 256;      // columns beside each other

template <class T>
void Run(Invocation& inv, const View& x, const View& y, int axis, bool reverse) {
  using C = std::conditional_t<std::is_integral_v<T>, int64_t, double>;
  int64_t outer = 1, inner = 1;
  for (int i = 0; i < axis; ++i) outer *= x.shape[i];
  for (int i = axis + 1; i < x.rank; ++i) inner *= x.shape[i];
  const int64_t n = x.shape[axis];
  if (outer * inner * n == 0) return;
  const int64_t strip = std::min(inner, kStrip), strips = (inner + strip - 1) / strip;
  const int64_t chunk = std::max<int64_t>(16, kChunk / strip), chunks = (n + chunk - 1) / chunk;
  C* const carry = inv.Workspace<C>(outer * chunks * inner);
  // f(row of the chunk's elements, chunk, first column, columns) for all, in any order
  const auto tiles = [&](auto f) {
    inv.ParallelFor(outer * chunks * strips, [&](int64_t tile, int) {
      const int64_t column = tile % strips * strip;
      f(tile / strips / chunks, tile / strips % chunks, column, std::min(strip, inner - column));
    });
  };
  // Elements in the order they are summed; chunk c begins at element c * chunk of that order.
  const auto at = [&](int64_t o, int64_t i) { return (o * n + (reverse ? n - 1 - i : i)) * inner; };
  const auto walk = [&](int64_t o, int64_t c, int64_t column, int64_t count, C* sums, bool writes) {
    for (int64_t i = c * chunk; i < std::min(n, (c + 1) * chunk); ++i) {
      const T* in = x.as<T>() + at(o, i) + column;
      T* out = y.as<T>() + at(o, i) + column;
      for (int64_t j = 0; j < count; ++j) sums[j] += static_cast<C>(in[j]);
      if (writes)
        for (int64_t j = 0; j < count; ++j) out[j] = static_cast<T>(sums[j]);
    }
  };
  if (chunks > 1) {
    tiles([&](int64_t o, int64_t c, int64_t column, int64_t count) {
      C* const sums = carry + (o * chunks + c) * inner + column;
      std::fill_n(sums, count, C(0));
      walk(o, c, column, count, sums, false);
    });
  }
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t j = 0; j < inner; ++j) {
      C before = 0;
      for (int64_t c = 0; c < chunks; ++c) {
        C& sum = carry[(o * chunks + c) * inner + j];
        const C own = chunks > 1 ? sum : C(0);
        sum = before;
        before += own;
      }
    }
  }
  tiles([&](int64_t o, int64_t c, int64_t column, int64_t count) {
    walk(o, c, column, count, carry + (o * chunks + c) * inner + column, true);
  });
}

void Cumsum(Invocation& inv) {
  const View &x = inv[0], &y = inv[1];
  const int64_t axis = inv.i64(0);
  RequireSameShape("cumsum", x, y);
  RequireDType("cumsum", y, x.dtype);
  Require(axis >= 0 && axis < x.rank, ErrorCode::kShape, "cumsum: axis outside the rank of x");
  Require(x.contiguous() && y.contiguous(), ErrorCode::kShape,
          "cumsum: x and y must be contiguous");
  DispatchFloatOrI32(x.dtype,
                     [&]<class T>() { Run<T>(inv, x, y, static_cast<int>(axis), inv.flag(1)); });
}
FUSELM_KERNEL("cumsum(x) -> (y) [axis, reverse]", kFloat64 | Mask(DType::kI32), Cumsum);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
