// y = x W^T + b and its gradients through the matrix product (gemm/gemm.cuh). W is [out, in]; dW
// and db are float32. x and dy may be any views of rows. Work, shared memory, alignment and targets
// are those of the product's kernels; the gradient of the bias is one more pass over dy.

#include "native/cuda/gemm/operand.cuh"

namespace fuselm::cuda {
namespace {

// 0 x, 1 weight, 2 bias?, 3 y
void Linear(const Arguments& in) {
  constexpr const char* kFit =
      "linear: x [.., K], weight [N, K], bias [N] and y [.., N] do not fit";
  const View &w = in[1], &y = in[3];
  const RowMatrix x = AsRows(in, in[0]), weight = AsRows(in, w);
  Require(w.rank == 2 && y.contiguous() && in[0].dtype == w.dtype && y.dtype == w.dtype &&
              x.cols == weight.cols && x.rows * weight.rows == y.numel() &&
              y.dim(-1) == weight.rows && (!in.has(2) || in[2].numel() == weight.rows),
          ErrorCode::kShape, kFit);
  CheckBias(in[2], kFit);
  const GemmSegment segment{x.AlongColumns(), weight.AlongColumns(), x.cols};
  Gemm(in, "linear",
       {.dtype = w.dtype,
        .m = x.rows,
        .n = weight.rows,
        .segments = {&segment, 1},
        .out = {.data = y.data, .stride = weight.rows, .dtype = y.dtype, .bias = &in[2]}});
}

// 0 dy, 1 weight, 2 dx: dx = dy W
void LinearDx(const Arguments& in) {
  const View &w = in[1], &dx = in[2];
  const RowMatrix dy = AsRows(in, in[0]), weight = AsRows(in, w);
  Require(w.rank == 2 && dx.contiguous() && in[0].dtype == w.dtype && dx.dtype == w.dtype &&
              dy.cols == weight.rows && dy.rows * weight.cols == dx.numel() &&
              dx.dim(-1) == weight.cols,
          ErrorCode::kShape, "linear.dx: dy [.., N], weight [N, K] and dx [.., K] do not fit");
  const GemmSegment segment{dy.AlongColumns(), weight.AlongRows(), dy.cols};
  Gemm(in, "linear.dx",
       {.dtype = w.dtype,
        .m = dy.rows,
        .n = weight.cols,
        .segments = {&segment, 1},
        .out = {.data = dx.data, .stride = weight.cols, .dtype = dx.dtype}});
}

// 0 dy, 1 x, 2 dw!, 3 dbias!?; [accumulate]: dw (+)= dy^T x, dbias (+)= sum of dy
void LinearDw(const Arguments& in) {
  const View &dw = in[2], &dbias = in[3];
  const RowMatrix dy = AsRows(in, in[0]), x = AsRows(in, in[1]);
  Require(dw.rank == 2 && dw.dtype == DType::kF32 && dw.contiguous() &&
              in[0].dtype == in[1].dtype && dy.rows == x.rows && dw.shape[0] == dy.cols &&
              dw.shape[1] == x.cols,
          ErrorCode::kShape, "linear.dw: dy [.., N], x [.., K] and dw f32 [N, K] do not fit");
  Require(
      !dbias.data || (dbias.dtype == DType::kF32 && dbias.contiguous() && dbias.numel() == dy.cols),
      ErrorCode::kShape, "linear.dw: dbias must be f32 [N]");
  const GemmSegment segment{dy.AlongRows(), x.AlongRows(), dy.rows};
  Gemm(in, "linear.dw",
       {.dtype = in[0].dtype,
        .m = dy.cols,
        .n = x.cols,
        .segments = {&segment, 1},
        .out = {.data = dw.data,
                .stride = x.cols,
                .dtype = DType::kF32,
                .addend = in.flag(0) ? dw.as<float>() : nullptr,
                .addend_stride = x.cols}});
  if (dbias.data) ColumnSums(in, dy, in[0].dtype, dbias.as<float>(), in.flag(0));
}

FUSELM_CUDA_KERNEL("linear(x, weight, bias?) -> (y)", kFloat, Linear);
FUSELM_CUDA_KERNEL("linear.dx(dy, weight) -> (dx)", kFloat, LinearDx);
FUSELM_CUDA_KERNEL("linear.dw(dy, x, dw!, dbias!?) [accumulate]", kFloat, LinearDw);

}  // namespace
}  // namespace fuselm::cuda
