// One to three layers y = x W^T + bias + scale (x A^T) B^T over one x, the low-rank term as a
// second segment of the product, and their gradients: that of x is one product with all weights and
// terms as its segments. The scale goes into a copy of the small matrix (one pass over it), so that
// x A^T is stored scaled; A and B may be float32 beside bf16 weights, and are rounded in that copy.
// Work and targets are those of the product's kernels (gemm/gemm.cuh).

#include <algorithm>

#include "native/cuda/device.cuh"
#include "native/cuda/gemm/operand.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 16;
constexpr size_t kMost = 3;
static_assert(kMaxSegments >= 2 * kMost);

template <class To, class From>
__global__ void __launch_bounds__(kThreads)
    Scale(const From* from, int64_t stride, To* to, int64_t cols, int64_t count, float scale) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step)
    to[i] = FromFloat<To>(ToFloat(from[i / cols * stride + i % cols]) * scale);
}

RowMatrix NewRows(const Arguments& in, DType dtype, int64_t rows, int64_t cols) {
  const int64_t bytes = rows * cols * static_cast<int64_t>(ItemSize(dtype));
  return {in.Workspace<char>(std::max<int64_t>(1, bytes)), rows, cols, cols};
}

// `v` times `scale` as rows of `dtype`: itself where it is that already.
RowMatrix Scaled(const Arguments& in, const View& v, DType dtype, double scale) {
  const RowMatrix m = AsRows(in, v);
  if (v.dtype == dtype && scale == 1) return m;
  const RowMatrix copy = NewRows(in, dtype, m.rows, m.cols);
  const int64_t count = m.rows * m.cols;
  if (count == 0) return copy;
  const Grid grid{dim3(static_cast<unsigned>(std::min(CeilDiv(count, kThreads), kMaxBlocks))),
                  kThreads};
  DispatchFloat(dtype, [&]<class To>() {
    DispatchFloat(v.dtype, [&]<class From>() {
      Launch(in, "lora_linear", grid, Scale<To, From>, static_cast<const From*>(m.data), m.stride,
             static_cast<To*>(const_cast<void*>(copy.data)), m.cols, count,
             static_cast<float>(scale));
    });
  });
  return copy;
}

void Product(const Arguments& in, DType dtype, int64_t m, int64_t n,
             std::span<const GemmSegment> segments, const GemmOutput& out) {
  Gemm(in, "lora_linear", {.dtype = dtype, .m = m, .n = n, .segments = segments, .out = out});
}

bool IsFloat(const View& v) { return v.dtype == DType::kF32 || v.dtype == DType::kBF16; }
bool IsMatrix(const View& v, int64_t rows, int64_t cols) {
  return v.rank == 2 && v.shape[0] == rows && v.shape[1] == cols;
}

// 0 x, 1-3 y0 y1? y2?, 4-6 xa0? xa1? xa2?, then per member: weight?, bias?, base?, a?, b?,
// dropped?; [scale0, scale1, scale2]
enum Forward { kX, kY, kXa = 4, kMembers = 7 };
enum Member { kWeight, kBias, kBase, kA, kB, kDropped, kFields };

void LoraLinear(const Arguments& in) {
  constexpr const char* kFit =
      "loraLinear: x [.., K], weight [N, K] or base [.., N], bias [N] and y [.., N] do not fit";
  const DType dtype = in[kX].dtype;
  const RowMatrix x = AsRows(in, in[kX]);
  const size_t count = (in.size() - kMembers) / kFields;
  Require((in.size() - kMembers) % kFields == 0 && count >= 1 && count <= kMost, ErrorCode::kShape,
          "loraLinear: takes one to three members");
  for (size_t i = 0; i < count; ++i) {
    const size_t at = kMembers + i * kFields;
    const View &weight = in[at + kWeight], &bias = in[at + kBias], &base = in[at + kBase],
               &a = in[at + kA], &b = in[at + kB], &dropped = in[at + kDropped], &y = in[kY + i],
               &xa = in[kXa + i];
    const int64_t n = weight.data ? weight.dim(0) : base.dim(-1);
    Require(y.data && y.contiguous() && y.dtype == dtype && y.dim(-1) == n &&
                y.numel() == x.rows * n && !weight.data == (base.data != nullptr) &&
                (!weight.data || (IsMatrix(weight, n, x.cols) && weight.dtype == dtype)) &&
                (!base.data || (base.dtype == dtype && base.numel() == x.rows * n)) &&
                (!bias.data || (weight.data && bias.numel() == n)),
            ErrorCode::kShape, kFit);
    CheckBias(bias, kFit);
    Require(!a.data == !b.data && (a.data || (!xa.data && !dropped.data)), ErrorCode::kShape,
            "loraLinear: a without b");
    GemmSegment segments[2];
    size_t used = 0;
    if (weight.data)
      segments[used++] = {x.AlongColumns(), AsRows(in, weight).AlongColumns(), x.cols};
    if (a.data) {
      const int64_t r = a.dim(0);
      Require(IsMatrix(a, r, x.cols) && IsMatrix(b, n, r) && IsFloat(a) && IsFloat(b) &&
                  (!dropped.data || (dropped.dtype == dtype && dropped.dim(-1) == x.cols &&
                                     dropped.numel() == x.rows * x.cols)) &&
                  (!xa.data || (xa.dtype == dtype && xa.contiguous() && xa.numel() == x.rows * r)),
              ErrorCode::kShape,
              "loraLinear: a [r, K], b [N, r], dropped like x and xa [.., r] do not fit");
      const RowMatrix low =
          xa.data ? RowMatrix{xa.data, x.rows, r, r} : NewRows(in, dtype, x.rows, r);
      const RowMatrix seen = dropped.data ? AsRows(in, dropped) : x;
      const GemmSegment down{seen.AlongColumns(), Scaled(in, a, dtype, in.f64(i)).AlongColumns(),
                             x.cols};
      Product(in, dtype, x.rows, r, {&down, 1},
              {.data = const_cast<void*>(low.data), .stride = r, .dtype = dtype});
      if (r > 0) segments[used++] = {low.AlongColumns(), Scaled(in, b, dtype, 1).AlongColumns(), r};
    }
    GemmOutput out{.data = y.data, .stride = n, .dtype = dtype, .bias = &bias};
    if (base.data) {
      const RowMatrix rows = AsRows(in, base);
      out.addend = rows.data, out.addend_stride = rows.stride, out.addend_dtype = dtype;
    }
    Product(in, dtype, x.rows, n, {segments, used}, out);
  }
}

// 0 x, 1 dx?, 2-4 ddropped0? ddropped1? ddropped2?, then per member: dy, weight?, a?, b?, xa?,
// dropped?, da!?, db!?; [needsDx, scale0, scale1, scale2, accumulateA, accumulateB]
enum Backward { kDx = 1, kDdropped, kGradients = 5 };
enum Gradient { kDy, kGWeight, kGA, kGB, kGXa, kGDropped, kDa, kDb, kGFields };

void LoraLinearBackward(const Arguments& in) {
  const View& dx = in[kDx];
  const DType dtype = in[0].dtype;
  const RowMatrix x = AsRows(in, in[0]);
  const size_t count = (in.size() - kGradients) / kGFields;
  Require((in.size() - kGradients) % kGFields == 0 && count >= 1 && count <= kMost,
          ErrorCode::kShape, "loraLinear.backward: takes one to three members");
  const auto like_x = [&](const View& v) {
    return !v.data || (v.contiguous() && v.dtype == dtype && v.numel() == x.rows * x.cols);
  };
  Require(like_x(dx), ErrorCode::kShape, "loraLinear.backward: dx must be like x");
  const auto gradient = [&](const RowMatrix& d, const RowMatrix& of, const View& out, bool add) {
    const GemmSegment over_rows{d.AlongRows(), of.AlongRows(), d.rows};
    Product(in, dtype, d.cols, of.cols, {&over_rows, 1},
            {.data = out.data,
             .stride = of.cols,
             .dtype = DType::kF32,
             .addend = add ? out.data : nullptr,
             .addend_stride = of.cols});
  };
  GemmSegment segments[2 * kMost];
  size_t used = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t at = kGradients + i * kGFields;
    const View &dy_view = in[at + kDy], &weight = in[at + kGWeight], &a = in[at + kGA],
               &b = in[at + kGB], &xa_view = in[at + kGXa], &dropped = in[at + kGDropped],
               &da = in[at + kDa], &db = in[at + kDb], &ddropped = in[kDdropped + i];
    const RowMatrix dy = AsRows(in, dy_view);
    Require(dy_view.dtype == dtype && dy.rows == x.rows && like_x(ddropped) &&
                (!weight.data || (IsMatrix(weight, dy.cols, x.cols) && weight.dtype == dtype)),
            ErrorCode::kShape,
            "loraLinear.backward: x [.., K], dy [.., N], weight [N, K] and ddropped like x do not "
            "fit");
    if (weight.data && dx.data)
      segments[used++] = {dy.AlongColumns(), AsRows(in, weight).AlongRows(), dy.cols};
    Require(!a.data == !b.data && !a.data == !xa_view.data &&
                (a.data || (!da.data && !db.data && !dropped.data)),
            ErrorCode::kShape, "loraLinear.backward: a, b and xa come together");
    if (!a.data) continue;
    const int64_t r = a.dim(0);
    const RowMatrix xa = AsRows(in, xa_view);
    const auto target = [](const View& v, int64_t rows, int64_t cols) {
      return !v.data || (v.dtype == DType::kF32 && v.contiguous() && IsMatrix(v, rows, cols));
    };
    Require(IsMatrix(a, r, x.cols) && IsMatrix(b, dy.cols, r) && IsFloat(a) && IsFloat(b) &&
                xa_view.dtype == dtype && xa.rows == x.rows && xa.cols == r &&
                (!dropped.data || (dropped.dtype == dtype && dropped.dim(-1) == x.cols &&
                                   dropped.numel() == x.rows * x.cols)) &&
                target(da, r, x.cols) && target(db, dy.cols, r),
            ErrorCode::kShape,
            "loraLinear.backward: a [r, K], b [N, r], xa [.., r], dropped like x, and da and db "
            "f32 like a and b do not fit");
    if (db.data) gradient(dy, xa, db, in.i64(5) >> i & 1);
    if (!da.data && !dx.data && !ddropped.data) continue;
    const RowMatrix scaled = Scaled(in, b, dtype, in.f64(i + 1));
    const RowMatrix dxa = NewRows(in, dtype, x.rows, r);
    const GemmSegment up{dy.AlongColumns(), scaled.AlongRows(), dy.cols};
    Product(in, dtype, x.rows, r, {&up, 1},
            {.data = const_cast<void*>(dxa.data), .stride = r, .dtype = dtype});
    if (da.data) gradient(dxa, dropped.data ? AsRows(in, dropped) : x, da, in.i64(4) >> i & 1);
    if (!dx.data) continue;
    const GemmSegment low{dxa.AlongColumns(), Scaled(in, a, dtype, 1).AlongRows(), r};
    if (!dropped.data)
      segments[used++] = low;
    else if (ddropped.data)
      Product(in, dtype, x.rows, x.cols, {&low, 1},
              {.data = ddropped.data, .stride = x.cols, .dtype = dtype});
  }
  if (dx.data)
    Product(in, dtype, x.rows, x.cols, {segments, used},
            {.data = dx.data, .stride = x.cols, .dtype = dtype});
}

FUSELM_CUDA_KERNEL(
    "lora_linear(x, ...(weight?, bias?, base?, a?, b?, dropped?)) -> (y0, y1?, y2?, xa0?, xa1?, "
    "xa2?) [scale0, scale1, scale2]",
    kFloat, LoraLinear);
FUSELM_CUDA_KERNEL(
    "lora_linear.backward(x, ...(dy, weight?, a?, b?, xa?, dropped?, da!?, db!?)) -> (dx?, "
    "ddropped0?, ddropped1?, ddropped2?) [needsDx, scale0, scale1, scale2, accumulateA, "
    "accumulateB]",
    kFloat, LoraLinearBackward);

}  // namespace
}  // namespace fuselm::cuda
