// levels: generic avx2 avx512 avx512bf16 amx
// y = x W^T + b and its gradients, all through the GEMM driver. W is [out, in].
#include "native/cpu/gemm/column_sums.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

// 0 x, 1 weight, 2 bias?, 3 y
void Linear(Invocation& inv) {
  const View &w = inv[1], &y = inv[3];
  const RowMatrix x = AsRows(inv, inv[0]), weight = AsRows(inv, w);
  Require(w.rank == 2 && y.contiguous() && inv[0].dtype == w.dtype && y.dtype == w.dtype &&
              x.cols == weight.cols && x.rows * weight.rows == y.numel() &&
              y.dim(-1) == weight.rows && (!inv.has(2) || inv[2].numel() == weight.rows),
          ErrorCode::kShape, "linear: x [.., K], weight [N, K], bias [N] and y [.., N] do not fit");
  const GemmSegment segment{x.AlongColumns(), weight.AlongColumns(), x.cols};
  Gemm(inv, {.dtype = w.dtype,
             .m = x.rows,
             .n = weight.rows,
             .segments = {&segment, 1},
             .out = {.data = y.data,
                     .stride = weight.rows,
                     .dtype = y.dtype,
                     .bias = AsFloats(inv, inv[2])}});
}

// 0 dy, 1 weight, 2 dx: dx = dy W
void LinearDx(Invocation& inv) {
  const View &w = inv[1], &dx = inv[2];
  const RowMatrix dy = AsRows(inv, inv[0]), weight = AsRows(inv, w);
  Require(w.rank == 2 && dx.contiguous() && inv[0].dtype == w.dtype && dx.dtype == w.dtype &&
              dy.cols == weight.rows && dy.rows * weight.cols == dx.numel() &&
              dx.dim(-1) == weight.cols,
          ErrorCode::kShape, "linear.dx: dy [.., N], weight [N, K] and dx [.., K] do not fit");
  const GemmSegment segment{dy.AlongColumns(), weight.AlongRows(), dy.cols};
  Gemm(inv, {.dtype = w.dtype,
             .m = dy.rows,
             .n = weight.cols,
             .segments = {&segment, 1},
             .out = {.data = dx.data, .stride = weight.cols, .dtype = dx.dtype}});
}

// 0 dy, 1 x, 2 dw!, 3 dbias!?; [accumulate]: dw (+)= dy^T x, dbias (+)= sum of dy
void LinearDw(Invocation& inv) {
  const View &dw = inv[2], &dbias = inv[3];
  const RowMatrix dy = AsRows(inv, inv[0]), x = AsRows(inv, inv[1]);
  Require(dw.rank == 2 && dw.dtype == DType::kF32 && dw.contiguous() &&
              inv[0].dtype == inv[1].dtype && dy.rows == x.rows && dw.shape[0] == dy.cols &&
              dw.shape[1] == x.cols,
          ErrorCode::kShape, "linear.dw: dy [.., N], x [.., K] and dw f32 [N, K] do not fit");
  const GemmSegment segment{dy.AlongRows(), x.AlongRows(), dy.rows};
  Gemm(inv, {.dtype = inv[0].dtype,
             .m = dy.cols,
             .n = x.cols,
             .segments = {&segment, 1},
             .out = {.data = dw.data,
                     .stride = x.cols,
                     .dtype = DType::kF32,
                     .addend = inv.flag(0) ? dw.as<float>() : nullptr,
                     .addend_stride = x.cols}});
  if (!dbias.data) return;
  Require(dbias.dtype == DType::kF32 && dbias.contiguous() && dbias.numel() == dy.cols,
          ErrorCode::kShape, "linear.dw: dbias must be f32 [N]");
  DispatchFloat(inv[0].dtype,
                [&]<class T>() { ColumnSums<T>(inv, dy, dbias.as<float>(), inv.flag(0)); });
}

FUSELM_KERNEL("linear(x, weight, bias?) -> (y)", kFloat, Linear);
FUSELM_KERNEL("linear.dx(dy, weight) -> (dx)", kFloat, LinearDx);
FUSELM_KERNEL("linear.dw(dy, x, dw!, dbias!?) [accumulate]", kFloat, LinearDw);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
