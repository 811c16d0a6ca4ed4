// levels: generic
// Batched matrix product over any strides: y[.., m, n] = sum over k of a[.., m, k] b[.., k, n],
// accumulated in double for f64 and float otherwise, in the order of k.
#include <vector>

#include "native/cpu/primitives/elementwise.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

inline constexpr int64_t kTileWork = 1 << 18;  // multiply-adds a tile: about half a millisecond

template <class T>
void RunMatmul(Invocation& inv, const View& a, const View& b, const View& y) {
  using C = ComputeT<T>;
  const int64_t rows = y.dim(-2), cols = y.dim(-1), depth = a.dim(-1);
  if (y.numel() == 0) return;
  int64_t batches = 1;
  for (int i = 0; i < y.rank - 2; ++i) batches *= y.shape[i];
  const int64_t width = std::min<int64_t>(cols, 256);
  const int64_t col_tiles = (cols + width - 1) / width;
  const int64_t height =
      std::clamp<int64_t>(kTileWork / (width * std::max<int64_t>(depth, 1)), 1, rows);
  const int64_t row_tiles = (rows + height - 1) / height;
  inv.ParallelFor(batches * row_tiles * col_tiles, [&](int64_t tile, int) {
    const int64_t n0 = tile % col_tiles * width, n1 = std::min(n0 + width, cols);
    const int64_t m0 = tile / col_tiles % row_tiles * height, m1 = std::min(m0 + height, rows);
    int64_t rest = tile / col_tiles / row_tiles, at_a = 0, at_b = 0, at_y = 0;
    for (int i = y.rank - 3; i >= 0; --i) {
      const int64_t c = rest % y.shape[i];
      rest /= y.shape[i];
      at_a += c * a.stride[i], at_b += c * b.stride[i], at_y += c * y.stride[i];
    }
    C sum[256];
    for (int64_t m = m0; m < m1; ++m) {
      std::fill(sum, sum + (n1 - n0), C(0));
      for (int64_t k = 0; k < depth; ++k) {
        const C x = a.as<T>()[at_a + m * a.step(-2) + k * a.step(-1)];
        const T* w = b.as<T>() + at_b + k * b.step(-2) + n0 * b.step(-1);
        if (b.step(-1) == 1) {
          for (int64_t n = 0; n < n1 - n0; ++n) sum[n] += x * static_cast<C>(w[n]);
        } else {
          for (int64_t n = 0; n < n1 - n0; ++n) sum[n] += x * static_cast<C>(w[n * b.step(-1)]);
        }
      }
      T* out = y.as<T>() + at_y + m * y.step(-2) + n0 * y.step(-1);
      for (int64_t n = 0; n < n1 - n0; ++n) out[n * y.step(-1)] = T(sum[n]);
    }
  });
}

void Matmul(Invocation& inv) {
  const View &a = inv[0], &b = inv[1], &y = inv[2];
  bool fits = a.rank >= 2 && a.rank == b.rank && a.rank == y.rank && b.dtype == a.dtype &&
              y.dtype == a.dtype;
  for (int i = 0; fits && i < a.rank - 2; ++i)
    fits = a.shape[i] == y.shape[i] && b.shape[i] == y.shape[i];
  fits = fits && a.dim(-1) == b.dim(-2) && a.dim(-2) == y.dim(-2) && b.dim(-1) == y.dim(-1);
  if (!fits)
    throw Error(ErrorCode::kShape, "matmul: " + a.ToString() + " times " + b.ToString() +
                                       " does not give " + y.ToString());
  DispatchFloat64(a.dtype, [&]<class T>() { RunMatmul<T>(inv, a, b, y); });
}
FUSELM_KERNEL("matmul(a, b) -> (y)", kFloat64, Matmul);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
