// levels: generic avx2 avx512 avx512bf16 amx
// Two or three linear layers over one x as one product: their weights are the columns of one B, and
// in the gradient of x the segments of one K.
#include "native/cpu/gemm/gemv.h"
#include "native/cpu/gemm/stack.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int kMost = RowStack::kMost;

// 0 x, 1 weight0, 2 bias0?, 3 weight1, 4 bias1?, 5 weight2?, 6 bias2?, 7 y0, 8 y1, 9 y2?
void LinearGroup(Invocation& inv) {
  const DType dtype = inv[1].dtype;
  const RowMatrix x = AsRows(inv, inv[0]);
  RowStack stack;
  GemmColumns columns[kMost];
  for (int i = 0; i < kMost; ++i) {
    const View &w = inv[1 + 2 * i], &bias = inv[2 + 2 * i], &y = inv[7 + i];
    Require((w.data != nullptr) == (y.data != nullptr) && (w.data || !bias.data), ErrorCode::kShape,
            "linearGroup: a weight without its output");
    if (!w.data) continue;
    const RowMatrix weight = AsRows(inv, w);
    Require(w.rank == 2 && y.contiguous() && inv[0].dtype == dtype && w.dtype == dtype &&
                y.dtype == dtype && x.cols == weight.cols && x.rows * weight.rows == y.numel() &&
                y.dim(-1) == weight.rows && (!bias.data || bias.numel() == weight.rows),
            ErrorCode::kShape,
            "linearGroup: x [.., K], weight [N, K], bias [N] and y [.., N] do not fit");
    const int64_t begin = stack.rows();
    columns[stack.count] = {begin, begin + weight.rows, y.data, weight.rows, AsFloats(inv, bias)};
    stack.Add(weight);
  }
  if (x.rows <= kGemvRows) {  // nothing to pack, so nothing to share
    for (int i = 0; i < stack.count; ++i) {
      const GemmColumns& c = columns[i];
      const GemmSegment own{x.AlongColumns(), stack.matrix[i].AlongColumns(), x.cols};
      Gemm(inv, {.dtype = dtype,
                 .m = x.rows,
                 .n = c.end - c.begin,
                 .segments = {&own, 1},
                 .out = {.data = c.data, .stride = c.stride, .dtype = dtype, .bias = c.bias}});
    }
    return;
  }
  const GemmSegment segment{x.AlongColumns(), stack.AlongColumns(dtype), x.cols};
  Gemm(inv, {.dtype = dtype,
             .m = x.rows,
             .n = stack.rows(),
             .segments = {&segment, 1},
             .out = {.dtype = dtype, .columns = {columns, static_cast<size_t>(stack.count)}}});
}

// 0 dy0, 1 weight0, 2 dy1, 3 weight1, 4 dy2?, 5 weight2?, 6 dx
void LinearGroupDx(Invocation& inv) {
  const View& dx = inv[6];
  GemmSegment segments[kMost];
  size_t count = 0;
  for (int i = 0; i < kMost; ++i) {
    const View &dy_view = inv[2 * i], &w = inv[2 * i + 1];
    Require((dy_view.data != nullptr) == (w.data != nullptr), ErrorCode::kShape,
            "linearGroup.dx: a gradient without its weight");
    if (!w.data) continue;
    const RowMatrix dy = AsRows(inv, dy_view), weight = AsRows(inv, w);
    Require(w.rank == 2 && dx.contiguous() && dy_view.dtype == dx.dtype && w.dtype == dx.dtype &&
                dy.cols == weight.rows && dy.rows * weight.cols == dx.numel() &&
                dx.dim(-1) == weight.cols,
            ErrorCode::kShape,
            "linearGroup.dx: dy [.., N], weight [N, K] and dx [.., K] do not fit");
    segments[count++] = {dy.AlongColumns(), weight.AlongRows(), dy.cols};
  }
  const int64_t k = dx.dim(-1);
  Gemm(inv, {.dtype = dx.dtype,
             .m = k == 0 ? 0 : dx.numel() / k,
             .n = k,
             .segments = {segments, count},
             .out = {.data = dx.data, .stride = k, .dtype = dx.dtype}});
}

FUSELM_KERNEL(
    "linear_group(x, weight0, bias0?, weight1, bias1?, weight2?, bias2?) -> (y0, y1, y2?)", kFloat,
    LinearGroup);
FUSELM_KERNEL("linear_group.dx(dy0, weight0, dy1, weight1, dy2?, weight2?) -> (dx)", kFloat,
              LinearGroupDx);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
