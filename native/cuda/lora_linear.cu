// y = x W^T + bias + scale (x A^T) B^T, the low-rank term as a second segment of the one product,
// and its gradients. The scale goes into a copy of the small matrix (one pass over it), so that
// x A^T is stored scaled. Work and targets are those of the product's kernels (gemm/gemm.cuh).

#include <algorithm>

#include "native/cuda/device.cuh"
#include "native/cuda/gemm/operand.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 16;

template <class T>
__global__ void __launch_bounds__(kThreads)
    Scale(const T* from, int64_t stride, T* to, int64_t cols, int64_t count, float scale) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step)
    to[i] = FromFloat<T>(ToFloat(from[i / cols * stride + i % cols]) * scale);
}

RowMatrix Scaled(const Arguments& in, const RowMatrix& m, DType dtype, double scale) {
  RowMatrix copy{nullptr, m.rows, m.cols, m.cols};
  const int64_t count = m.rows * m.cols;
  DispatchFloat(dtype, [&]<class T>() {
    T* const to = in.Workspace<T>(std::max<int64_t>(1, count));
    copy.data = to;
    if (count == 0) return;
    const int64_t blocks = std::min(CeilDiv(count, kThreads), kMaxBlocks);
    Launch(in, "lora_linear", {dim3(static_cast<unsigned>(blocks)), kThreads}, Scale<T>,
           static_cast<const T*>(m.data), m.stride, to, m.cols, count, static_cast<float>(scale));
  });
  return copy;
}

void* Low(const Arguments& in, int64_t rows, int64_t rank, DType dtype) {
  return in.Workspace<char>(
      std::max<int64_t>(1, rows * rank * static_cast<int64_t>(ItemSize(dtype))));
}

void Product(const Arguments& in, DType dtype, int64_t m, int64_t n,
             std::span<const GemmSegment> segments, const GemmOutput& out) {
  Gemm(in, "lora_linear", {.dtype = dtype, .m = m, .n = n, .segments = segments, .out = out});
}

// 0 x, 1 weight, 2 bias?, 3 a, 4 b, 5 y, 6 xa?; [scale]
void LoraLinear(const Arguments& in) {
  constexpr const char* kFit =
      "loraLinear: x [.., K], weight [N, K], a [r, K], b [N, r] and y [.., N] do not fit";
  const View &y = in[5], &xa = in[6];
  const DType dtype = in[1].dtype;
  const RowMatrix x = AsRows(in, in[0]), weight = AsRows(in, in[1]), a = AsRows(in, in[3]),
                  b = AsRows(in, in[4]);
  Require(in[1].rank == 2 && in[3].rank == 2 && in[4].rank == 2 && y.contiguous() &&
              in[0].dtype == dtype && in[3].dtype == dtype && in[4].dtype == dtype &&
              y.dtype == dtype && x.cols == weight.cols && x.cols == a.cols &&
              b.rows == weight.rows && b.cols == a.rows && y.dim(-1) == weight.rows &&
              x.rows * weight.rows == y.numel() && (!in.has(2) || in[2].numel() == weight.rows),
          ErrorCode::kShape, kFit);
  CheckBias(in[2], kFit);
  Require(!xa.data || (xa.dtype == dtype && xa.contiguous() && xa.numel() == x.rows * a.rows),
          ErrorCode::kShape, "loraLinear: xa must be [.., r]");
  void* const low_data = xa.data ? xa.data : Low(in, x.rows, a.rows, dtype);
  const RowMatrix low{low_data, x.rows, a.rows, a.rows};
  const RowMatrix scaled = Scaled(in, a, dtype, in.f64(0));
  const GemmSegment down{x.AlongColumns(), scaled.AlongColumns(), x.cols};
  Product(in, dtype, x.rows, a.rows, {&down, 1},
          {.data = low_data, .stride = a.rows, .dtype = dtype});
  const GemmSegment segments[] = {{x.AlongColumns(), weight.AlongColumns(), x.cols},
                                  {low.AlongColumns(), b.AlongColumns(), a.rows}};
  Product(in, dtype, x.rows, weight.rows, segments,
          {.data = y.data, .stride = weight.rows, .dtype = dtype, .bias = &in[2]});
}

// 0 dy, 1 x, 2 weight, 3 a, 4 b, 5 xa, 6 da!?, 7 db!?, 8 dx?;
// [scale, needsDx, accumulateA, accumulateB]
void LoraLinearBackward(const Arguments& in) {
  const View &da = in[6], &db = in[7], &dx = in[8];
  const DType dtype = in[0].dtype;
  const RowMatrix dy = AsRows(in, in[0]), x = AsRows(in, in[1]), weight = AsRows(in, in[2]),
                  a = AsRows(in, in[3]), b = AsRows(in, in[4]), xa = AsRows(in, in[5]);
  bool fits = in[2].rank == 2 && in[3].rank == 2 && in[4].rank == 2 && dy.rows == x.rows &&
              xa.rows == x.rows && dy.cols == weight.rows && x.cols == weight.cols &&
              a.cols == x.cols && b.rows == dy.cols && b.cols == a.rows && xa.cols == a.rows;
  for (size_t i = 1; i < 6; ++i) fits = fits && in[i].dtype == dtype;
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
  const auto gradient = [&](const RowMatrix& d, const RowMatrix& of, const View& out, bool add) {
    const GemmSegment over_rows{d.AlongRows(), of.AlongRows(), d.rows};
    Product(in, dtype, d.cols, of.cols, {&over_rows, 1},
            {.data = out.data,
             .stride = of.cols,
             .dtype = DType::kF32,
             .addend = add ? out.as<float>() : nullptr,
             .addend_stride = of.cols});
  };
  if (db.data) gradient(dy, xa, db, in.flag(3));
  if (!da.data && !dx.data) return;

  const RowMatrix scaled = Scaled(in, b, dtype, in.f64(0));
  void* const dxa_data = Low(in, x.rows, a.rows, dtype);
  const RowMatrix dxa{dxa_data, x.rows, a.rows, a.rows};
  const GemmSegment up{dy.AlongColumns(), scaled.AlongRows(), dy.cols};
  Product(in, dtype, x.rows, a.rows, {&up, 1},
          {.data = dxa_data, .stride = a.rows, .dtype = dtype});
  if (da.data) gradient(dxa, x, da, in.flag(2));
  if (!dx.data) return;
  const GemmSegment segments[] = {{dy.AlongColumns(), weight.AlongRows(), dy.cols},
                                  {dxa.AlongColumns(), a.AlongRows(), a.rows}};
  Product(in, dtype, x.rows, x.cols, segments,
          {.data = dx.data, .stride = x.cols, .dtype = dtype});
}

FUSELM_CUDA_KERNEL("lora_linear(x, weight, bias?, a, b) -> (y, xa?) [scale]", kFloat, LoraLinear);
FUSELM_CUDA_KERNEL(
    "lora_linear.backward(dy, x, weight, a, b, xa, da!?, db!?) -> (dx?) "
    "[scale, needsDx, accumulateA, accumulateB]",
    kFloat, LoraLinearBackward);

}  // namespace
}  // namespace fuselm::cuda
