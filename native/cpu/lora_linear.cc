// levels: generic avx2 avx512 avx512bf16 amx
// One to three layers y = x W^T + bias + scale (x A^T) B^T over one x, the low-rank term as extra K
// of the product, and their gradients. The scale goes into a copy of the small matrix, so that x
// A^T is stored scaled; A and B may be float32 beside bf16 weights, and are rounded in that copy.
#include "native/cpu/gemm/gemv.h"
#include "native/cpu/gemm/stack.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int kMost = RowStack::kMost;

// `v` times `scale` as rows of `dtype`: itself where it is that already.
RowMatrix Scaled(Invocation& inv, const View& v, DType dtype, double scale) {
  const RowMatrix m = AsRows(inv, v);
  if (v.dtype == dtype && scale == 1) return m;
  RowMatrix copy{nullptr, m.rows, m.cols, m.cols};
  const Vec factor = Set(static_cast<float>(scale));
  DispatchFloat(dtype, [&]<class To>() {
    To* const to = inv.Workspace<To>(static_cast<size_t>(m.rows * m.cols));
    copy.data = to;
    DispatchFloat(v.dtype, [&]<class From>() {
      constexpr int64_t kGroup = 64;
      inv.ParallelFor((m.rows + kGroup - 1) / kGroup, [&](int64_t tile, int) noexcept {
        const int64_t end = std::min(m.rows, (tile + 1) * kGroup);
        for (int64_t r = tile * kGroup; r < end; ++r)
          for (int64_t j = 0; j < m.cols; j += kLanes)
            StoreN(to + r * m.cols + j,
                   factor * LoadN(static_cast<const From*>(m.data) + r * m.stride + j, m.cols - j),
                   m.cols - j);
      });
    });
  });
  return copy;
}

RowMatrix NewRows(Invocation& inv, DType dtype, int64_t rows, int64_t cols) {
  return {inv.Workspace<std::byte>(static_cast<size_t>(rows * cols) * ItemSize(dtype)), rows, cols,
          cols};
}

// out = sum over segments.
void Product(Invocation& inv, DType dtype, int64_t m, int64_t n,
             std::span<const GemmSegment> segments, const GemmOutput& out) {
  Gemm(inv, {.dtype = dtype, .m = m, .n = n, .segments = segments, .out = out});
}

bool IsFloat(const View& v) { return v.dtype == DType::kF32 || v.dtype == DType::kBF16; }
bool IsMatrix(const View& v, int64_t rows, int64_t cols) {
  return v.rank == 2 && v.shape[0] == rows && v.shape[1] == cols;
}

// y = base + the finished sums, block by block.
template <class T>
struct AddBase {
  RowMatrix base;
  T* y;
  static void Store(void* context, const GemmBlock& block) {
    const AddBase& s = *static_cast<const AddBase*>(context);
    for (int64_t i = 0; i < block.rows; ++i)
      for (int64_t j = 0; j < block.cols; j += kLanes) {
        const int64_t left = block.cols - j, m = block.m + i, n = block.n + j;
        const Vec base = LoadN(static_cast<const T*>(s.base.data) + m * s.base.stride + n, left);
        StoreN(s.y + m * s.base.cols + n, base + LoadN(block.c + i * block.stride + j, left), left);
      }
  }
};

// 0 x, 1-3 y0 y1? y2?, 4-6 xa0? xa1? xa2?, then per member: weight?, bias?, base?, a?, b?,
// dropped?; [scale0, scale1, scale2]
enum Forward { kX, kY, kXa = 4, kMembers = 7 };
enum Member { kWeight, kBias, kBase, kA, kB, kDropped, kFields };

void LoraLinear(Invocation& inv) {
  const DType dtype = inv[kX].dtype;
  const RowMatrix x = AsRows(inv, inv[kX]);
  const int count = static_cast<int>((inv.size() - kMembers) / kFields);
  Require((inv.size() - kMembers) % kFields == 0 && count >= 1 && count <= kMost, ErrorCode::kShape,
          "loraLinear: takes one to three members");
  RowMatrix low[kMost] = {}, up[kMost] = {};
  RowStack downs;  // of those terms that see x itself
  GemmColumns columns[kMost];
  for (int i = 0; i < count; ++i) {
    const size_t at = kMembers + static_cast<size_t>(i) * kFields;
    const View &weight = inv[at + kWeight], &bias = inv[at + kBias], &base = inv[at + kBase],
               &a = inv[at + kA], &b = inv[at + kB], &dropped = inv[at + kDropped],
               &y = inv[kY + i], &xa = inv[kXa + i];
    const int64_t n = weight.data ? weight.dim(0) : base.dim(-1);
    Require(y.data && y.contiguous() && y.dtype == dtype && y.dim(-1) == n &&
                y.numel() == x.rows * n && !weight.data == (base.data != nullptr) &&
                (!weight.data || (IsMatrix(weight, n, x.cols) && weight.dtype == dtype)) &&
                (!base.data || (base.dtype == dtype && base.numel() == x.rows * n)) &&
                (!bias.data || (weight.data && bias.numel() == n)),
            ErrorCode::kShape,
            "loraLinear: x [.., K], weight [N, K] or base [.., N], bias [N] "
            "and y [.., N] do not fit");
    Require(!a.data == !b.data && (a.data || (!xa.data && !dropped.data)), ErrorCode::kShape,
            "loraLinear: a without b");
    if (!a.data) continue;
    const int64_t r = a.dim(0);
    Require(IsMatrix(a, r, x.cols) && IsMatrix(b, n, r) && IsFloat(a) && IsFloat(b) &&
                (!dropped.data || (dropped.dtype == dtype && dropped.dim(-1) == x.cols &&
                                   dropped.numel() == x.rows * x.cols)) &&
                (!xa.data || (xa.dtype == dtype && xa.contiguous() && xa.numel() == x.rows * r)),
            ErrorCode::kShape,
            "loraLinear: a [r, K], b [N, r], dropped like x and xa [.., r] do "
            "not fit");
    low[i] = xa.data ? RowMatrix{xa.data, x.rows, r, r} : NewRows(inv, dtype, x.rows, r);
    const RowMatrix down = Scaled(inv, a, dtype, inv.f64(static_cast<size_t>(i)));
    up[i] = Scaled(inv, b, dtype, 1);
    if (!dropped.data && r > 0 && x.rows > kGemvRows) {
      columns[downs.count] = {downs.rows(), downs.rows() + r, const_cast<void*>(low[i].data), r,
                              nullptr};
      downs.Add(down);
      continue;
    }
    const RowMatrix from = dropped.data ? AsRows(inv, dropped) : x;
    const GemmSegment own{from.AlongColumns(), down.AlongColumns(), x.cols};
    Product(inv, dtype, x.rows, r, {&own, 1},
            {.data = const_cast<void*>(low[i].data), .stride = r, .dtype = dtype});
  }
  if (downs.count > 0) {
    const GemmSegment all{x.AlongColumns(), downs.AlongColumns(dtype), x.cols};
    Product(inv, dtype, x.rows, downs.rows(), {&all, 1},
            {.dtype = dtype, .columns = {columns, static_cast<size_t>(downs.count)}});
  }
  for (int i = 0; i < count; ++i) {
    const size_t at = kMembers + static_cast<size_t>(i) * kFields;
    const View &y = inv[kY + i], &base = inv[at + kBase];
    const int64_t n = y.dim(-1);
    GemmSegment segments[2];
    size_t used = 0;
    if (!base.data) {
      const RowMatrix weight = AsRows(inv, inv[at + kWeight]);
      segments[used++] = {x.AlongColumns(), weight.AlongColumns(), x.cols};
    }
    if (up[i].data && up[i].cols > 0)
      segments[used++] = {low[i].AlongColumns(), up[i].AlongColumns(), up[i].cols};
    if (!base.data) {
      Product(
          inv, dtype, x.rows, n, {segments, used},
          {.data = y.data, .stride = n, .dtype = dtype, .bias = AsFloats(inv, inv[at + kBias])});
      continue;
    }
    DispatchFloat(dtype, [&]<class T>() {
      AddBase<T> add{AsRows(inv, base), y.as<T>()};
      Product(inv, dtype, x.rows, n, {segments, used},
              {.on_block = AddBase<T>::Store, .context = &add});
    });
  }
}

// 0 x, 1 dx?, 2-4 ddropped0? ddropped1? ddropped2?, then per member: dy, weight?, a?, b?, xa?,
// dropped?, da!?, db!?; [needsDx, scale0, scale1, scale2, accumulateA, accumulateB]
enum Backward { kDx = 1, kDdropped, kGradients = 5 };
enum Gradient { kDy, kGWeight, kGA, kGB, kGXa, kGDropped, kDa, kDb, kGFields };

void LoraLinearBackward(Invocation& inv) {
  const View& dx = inv[kDx];
  const DType dtype = inv[0].dtype;
  const RowMatrix x = AsRows(inv, inv[0]);
  const int count = static_cast<int>((inv.size() - kGradients) / kGFields);
  Require((inv.size() - kGradients) % kGFields == 0 && count >= 1 && count <= kMost,
          ErrorCode::kShape, "loraLinear.backward: takes one to three members");
  const auto like_x = [&](const View& v) {
    return !v.data || (v.contiguous() && v.dtype == dtype && v.numel() == x.rows * x.cols);
  };
  Require(like_x(dx), ErrorCode::kShape, "loraLinear.backward: dx must be like x");
  const auto gradient = [&](const RowMatrix& d, const RowMatrix& in, const View& out, bool add) {
    const GemmSegment over_rows{d.AlongRows(), in.AlongRows(), d.rows};
    Product(inv, dtype, d.cols, in.cols, {&over_rows, 1},
            {.data = out.data,
             .stride = in.cols,
             .dtype = DType::kF32,
             .addend = add ? out.as<float>() : nullptr,
             .addend_stride = in.cols});
  };
  GemmSegment segments[2 * kMost];
  size_t used = 0;
  for (int i = 0; i < count; ++i) {
    const size_t at = kGradients + static_cast<size_t>(i) * kGFields;
    const View &dy_view = inv[at + kDy], &weight_view = inv[at + kGWeight], &a = inv[at + kGA],
               &b = inv[at + kGB], &xa_view = inv[at + kGXa], &dropped_view = inv[at + kGDropped],
               &da = inv[at + kDa], &db = inv[at + kDb], &ddropped = inv[kDdropped + i];
    const RowMatrix dy = AsRows(inv, dy_view);
    Require(dy_view.dtype == dtype && dy.rows == x.rows && like_x(ddropped) &&
                (!weight_view.data ||
                 (IsMatrix(weight_view, dy.cols, x.cols) && weight_view.dtype == dtype)),
            ErrorCode::kShape,
            "loraLinear.backward: x [.., K], dy [.., N], weight [N, K] and ddropped like x do not "
            "fit");
    if (weight_view.data && dx.data)
      segments[used++] = {dy.AlongColumns(), AsRows(inv, weight_view).AlongRows(), dy.cols};
    Require(!a.data == !b.data && !a.data == !xa_view.data &&
                (a.data || (!da.data && !db.data && !dropped_view.data)),
            ErrorCode::kShape, "loraLinear.backward: a, b and xa come together");
    if (!a.data) continue;
    const int64_t r = a.dim(0);
    const RowMatrix xa = AsRows(inv, xa_view);
    const auto target = [](const View& v, int64_t rows, int64_t cols) {
      return !v.data || (v.dtype == DType::kF32 && v.contiguous() && IsMatrix(v, rows, cols));
    };
    Require(
        IsMatrix(a, r, x.cols) && IsMatrix(b, dy.cols, r) && IsFloat(a) && IsFloat(b) &&
            xa_view.dtype == dtype && xa.rows == x.rows && xa.cols == r &&
            (!dropped_view.data || (dropped_view.dtype == dtype && dropped_view.dim(-1) == x.cols &&
                                    dropped_view.numel() == x.rows * x.cols)) &&
            target(da, r, x.cols) && target(db, dy.cols, r),
        ErrorCode::kShape,
        "loraLinear.backward: a [r, K], b [N, r], xa [.., r], dropped like x, and da and db "
        "f32 like a and b do not fit");
    if (db.data) gradient(dy, xa, db, inv.i64(5) >> i & 1);
    if (!da.data && !dx.data && !ddropped.data) continue;
    const RowMatrix scaled = Scaled(inv, b, dtype, inv.f64(static_cast<size_t>(i) + 1));
    const RowMatrix dxa = NewRows(inv, dtype, x.rows, r);
    const GemmSegment up{dy.AlongColumns(), scaled.AlongRows(), dy.cols};
    Product(inv, dtype, x.rows, r, {&up, 1},
            {.data = const_cast<void*>(dxa.data), .stride = r, .dtype = dtype});
    const RowMatrix seen = dropped_view.data ? AsRows(inv, dropped_view) : x;
    if (da.data) gradient(dxa, seen, da, inv.i64(4) >> i & 1);
    if (!dx.data) continue;
    const RowMatrix down = Scaled(inv, a, dtype, 1);
    const GemmSegment low{dxa.AlongColumns(), down.AlongRows(), r};
    if (!dropped_view.data)
      segments[used++] = low;
    else if (ddropped.data)
      Product(inv, dtype, x.rows, x.cols, {&low, 1},
              {.data = ddropped.data, .stride = x.cols, .dtype = dtype});
  }
  if (dx.data)
    Product(inv, dtype, x.rows, x.cols, {segments, used},
            {.data = dx.data, .stride = x.cols, .dtype = dtype});
}

FUSELM_KERNEL(
    "lora_linear(x, ...(weight?, bias?, base?, a?, b?, dropped?)) -> (y0, y1?, y2?, xa0?, xa1?, "
    "xa2?) [scale0, scale1, scale2]",
    kFloat, LoraLinear);
FUSELM_KERNEL(
    "lora_linear.backward(x, ...(dy, weight?, a?, b?, xa?, dropped?, da!?, db!?)) -> (dx?, "
    "ddropped0?, ddropped1?, ddropped2?) [needsDx, scale0, scale1, scale2, accumulateA, "
    "accumulateB]",
    kFloat, LoraLinearBackward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
