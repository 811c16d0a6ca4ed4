// Two or three linear layers over one x: a product each, for x stays in L2 between them; and the
// gradient of x as one product with their weights as the segments of one K, rounded once. Work and
// targets are those of the product's kernels (gemm/gemm.cuh).

#include "native/cuda/gemm/operand.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kMost = 3;

// 0 x, 1 weight0, 2 bias0?, 3 weight1, 4 bias1?, 5 weight2?, 6 bias2?, 7 y0, 8 y1, 9 y2?
void LinearGroup(const Arguments& in) {
  constexpr const char* kFit =
      "linearGroup: x [.., K], weight [N, K], bias [N] and y [.., N] do not fit";
  const DType dtype = in[1].dtype;
  const RowMatrix x = AsRows(in, in[0]);
  GemmSegment segments[kMost];
  for (int i = 0; i < kMost; ++i) {
    const View &w = in[1 + 2 * i], &bias = in[2 + 2 * i], &y = in[7 + i];
    Require((w.data != nullptr) == (y.data != nullptr) && (w.data || !bias.data), ErrorCode::kShape,
            "linearGroup: a weight without its output");
    if (!w.data) continue;
    const RowMatrix weight = AsRows(in, w);
    Require(w.rank == 2 && y.contiguous() && in[0].dtype == dtype && w.dtype == dtype &&
                y.dtype == dtype && x.cols == weight.cols && x.rows * weight.rows == y.numel() &&
                y.dim(-1) == weight.rows && (!bias.data || bias.numel() == weight.rows),
            ErrorCode::kShape, kFit);
    CheckBias(bias, kFit);
    segments[i] = {x.AlongColumns(), weight.AlongColumns(), x.cols};
  }
  for (int i = 0; i < kMost; ++i) {
    const View& y = in[7 + i];
    if (!y.data) continue;
    Gemm(in, "linear_group",
         {.dtype = dtype,
          .m = x.rows,
          .n = y.dim(-1),
          .segments = {&segments[i], 1},
          .out = {.data = y.data, .stride = y.dim(-1), .dtype = dtype, .bias = &in[2 + 2 * i]}});
  }
}

// 0 dy0, 1 weight0, 2 dy1, 3 weight1, 4 dy2?, 5 weight2?, 6 dx
void LinearGroupDx(const Arguments& in) {
  const View& dx = in[6];
  GemmSegment segments[kMost];
  size_t count = 0;
  for (int i = 0; i < kMost; ++i) {
    const View &dy_view = in[2 * i], &w = in[2 * i + 1];
    Require((dy_view.data != nullptr) == (w.data != nullptr), ErrorCode::kShape,
            "linearGroup.dx: a gradient without its weight");
    if (!w.data) continue;
    const RowMatrix dy = AsRows(in, dy_view), weight = AsRows(in, w);
    Require(w.rank == 2 && dx.contiguous() && dy_view.dtype == dx.dtype && w.dtype == dx.dtype &&
                dy.cols == weight.rows && dy.rows * weight.cols == dx.numel() &&
                dx.dim(-1) == weight.cols,
            ErrorCode::kShape,
            "linearGroup.dx: dy [.., N], weight [N, K] and dx [.., K] do not fit");
    segments[count++] = {dy.AlongColumns(), weight.AlongRows(), dy.cols};
  }
  const int64_t k = dx.dim(-1);
  Gemm(in, "linear_group.dx",
       {.dtype = dx.dtype,
        .m = k == 0 ? 0 : dx.numel() / k,
        .n = k,
        .segments = {segments, count},
        .out = {.data = dx.data, .stride = k, .dtype = dx.dtype}});
}

FUSELM_CUDA_KERNEL(
    "linear_group(x, weight0, bias0?, weight1, bias1?, weight2?, bias2?) -> (y0, y1, y2?)", kFloat,
    LinearGroup);
FUSELM_CUDA_KERNEL("linear_group.dx(dy0, weight0, dy1, weight1, dy2?, weight2?) -> (dx)", kFloat,
                   LinearGroupDx);

}  // namespace
}  // namespace fuselm::cuda
