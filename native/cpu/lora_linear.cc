// levels: generic avx2 avx512 avx512bf16 amx
// y = x W^T + bias + scale (x A^T) B^T, the low-rank term as extra K of the one product, and its
// gradients. The scale goes into a copy of the small matrix, so that x A^T is stored scaled.
#include "native/cpu/gemm/operand.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

RowMatrix Scaled(Invocation& inv, const RowMatrix& m, DType dtype, double scale) {
  RowMatrix copy{nullptr, m.rows, m.cols, m.cols};
  DispatchFloat(dtype, [&]<class T>() {
    T* to = inv.Workspace<T>(static_cast<size_t>(m.rows * m.cols));
    copy.data = to;
    constexpr int64_t kGroup = 64;
    const Vec factor = Set(static_cast<float>(scale));
    inv.ParallelFor((m.rows + kGroup - 1) / kGroup, [&](int64_t tile, int) noexcept {
      const int64_t end = std::min(m.rows, (tile + 1) * kGroup);
      for (int64_t r = tile * kGroup; r < end; ++r)
        for (int64_t j = 0; j < m.cols; j += kLanes)
          StoreN(to + r * m.cols + j,
                 factor * LoadN(static_cast<const T*>(m.data) + r * m.stride + j, m.cols - j),
                 m.cols - j);
    });
  });
  return copy;
}

// out [m, n] = sum over segments.
void Product(Invocation& inv, DType dtype, int64_t m, int64_t n,
             std::span<const GemmSegment> segments, const GemmOutput& out) {
  Gemm(inv, {.dtype = dtype, .m = m, .n = n, .segments = segments, .out = out});
}

// 0 x, 1 weight, 2 bias?, 3 a, 4 b, 5 y, 6 xa?; [scale]
void LoraLinear(Invocation& inv) {
  const View &y = inv[5], &xa = inv[6];
  const DType dtype = inv[1].dtype;
  const RowMatrix x = AsRows(inv, inv[0]), weight = AsRows(inv, inv[1]), a = AsRows(inv, inv[3]),
                  b = AsRows(inv, inv[4]);
  Require(inv[1].rank == 2 && inv[3].rank == 2 && inv[4].rank == 2 && y.contiguous() &&
              inv[0].dtype == dtype && inv[3].dtype == dtype && inv[4].dtype == dtype &&
              y.dtype == dtype && x.cols == weight.cols && x.cols == a.cols &&
              b.rows == weight.rows && b.cols == a.rows && y.dim(-1) == weight.rows &&
              x.rows * weight.rows == y.numel() && (!inv.has(2) || inv[2].numel() == weight.rows),
          ErrorCode::kShape,
          "loraLinear: x [.., K], weight [N, K], a [r, K], b [N, r] and y [.., N] do not fit");
  Require(!xa.data || (xa.dtype == dtype && xa.contiguous() && xa.numel() == x.rows * a.rows),
          ErrorCode::kShape, "loraLinear: xa must be [.., r]");
  RowMatrix low{xa.data, x.rows, a.rows, a.rows};
  if (!low.data)
    low.data = inv.Workspace<std::byte>(static_cast<size_t>(x.rows * a.rows) * ItemSize(dtype));
  const RowMatrix scaled = Scaled(inv, a, dtype, inv.f64(0));
  const GemmSegment down{x.AlongColumns(), scaled.AlongColumns(), x.cols};
  Product(inv, dtype, x.rows, a.rows, {&down, 1},
          {.data = const_cast<void*>(low.data), .stride = a.rows, .dtype = dtype});
  const GemmSegment segments[] = {{x.AlongColumns(), weight.AlongColumns(), x.cols},
                                  {low.AlongColumns(), b.AlongColumns(), a.rows}};
  Product(inv, dtype, x.rows, weight.rows, segments,
          {.data = y.data, .stride = weight.rows, .dtype = dtype, .bias = AsFloats(inv, inv[2])});
}

// 0 dy, 1 x, 2 weight, 3 a, 4 b, 5 xa, 6 da!?, 7 db!?, 8 dx?;
// [scale, needsDx, accumulateA, accumulateB]
void LoraLinearBackward(Invocation& inv) {
  const View &da = inv[6], &db = inv[7], &dx = inv[8];
  const DType dtype = inv[0].dtype;
  const RowMatrix dy = AsRows(inv, inv[0]), x = AsRows(inv, inv[1]), weight = AsRows(inv, inv[2]),
                  a = AsRows(inv, inv[3]), b = AsRows(inv, inv[4]), xa = AsRows(inv, inv[5]);
  bool fits = inv[2].rank == 2 && inv[3].rank == 2 && inv[4].rank == 2 && dy.rows == x.rows &&
              xa.rows == x.rows && dy.cols == weight.rows && x.cols == weight.cols &&
              a.cols == x.cols && b.rows == dy.cols && b.cols == a.rows && xa.cols == a.rows;
  for (int i = 1; i < 6; ++i) fits = fits && inv[i].dtype == dtype;
  Require(fits, ErrorCode::kShape,
          "loraLinear.backward: dy [.., N], x [.., K], weight [N, K], a [r, K], b [N, r] and "
          "xa [.., r] do not fit");
  const auto target = [](const View& v, int64_t rows, int64_t cols) {
    return !v.data || (v.dtype == DType::kF32 && v.contiguous() && v.rank == 2 &&
                       v.shape[0] == rows && v.shape[1] == cols);
  };
  Require(target(da, a.rows, a.cols) && target(db, b.rows, b.cols), ErrorCode::kShape,
          "loraLinear.backward: da must be f32 [r, K] and db f32 [N, r]");
  Require(!dx.data || (dx.contiguous() && dx.dtype == dtype && dx.numel() == x.rows * x.cols),
          ErrorCode::kShape, "loraLinear.backward: dx must be like x");
  const auto gradient = [&](const RowMatrix& d, const RowMatrix& in, const View& out, bool add) {
    const GemmSegment over_rows{d.AlongRows(), in.AlongRows(), d.rows};
    Product(inv, dtype, d.cols, in.cols, {&over_rows, 1},
            {.data = out.data,
             .stride = in.cols,
             .dtype = DType::kF32,
             .addend = add ? out.as<float>() : nullptr,
             .addend_stride = in.cols});
  };
  if (db.data) gradient(dy, xa, db, inv.flag(3));
  if (!da.data && !dx.data) return;

  const RowMatrix scaled = Scaled(inv, b, dtype, inv.f64(0));
  const RowMatrix dxa{
      inv.Workspace<std::byte>(static_cast<size_t>(x.rows * a.rows) * ItemSize(dtype)), x.rows,
      a.rows, a.rows};
  const GemmSegment up{dy.AlongColumns(), scaled.AlongRows(), dy.cols};
  Product(inv, dtype, x.rows, a.rows, {&up, 1},
          {.data = const_cast<void*>(dxa.data), .stride = a.rows, .dtype = dtype});
  if (da.data) gradient(dxa, x, da, inv.flag(2));
  if (!dx.data) return;
  const GemmSegment segments[] = {{dy.AlongColumns(), weight.AlongRows(), dy.cols},
                                  {dxa.AlongColumns(), a.AlongRows(), a.rows}};
  Product(inv, dtype, x.rows, x.cols, segments,
          {.data = dx.data, .stride = x.cols, .dtype = dtype});
}

FUSELM_KERNEL("lora_linear(x, weight, bias?, a, b) -> (y, xa?) [scale]", kFloat, LoraLinear);
FUSELM_KERNEL(
    "lora_linear.backward(dy, x, weight, a, b, xa, da!?, db!?) -> (dx?) "
    "[scale, needsDx, accumulateA, accumulateB]",
    kFloat, LoraLinearBackward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
