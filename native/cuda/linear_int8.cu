// y = x W^T + b with W in int8 (values [N, K], float32 scales per row or per group of K), x as it
// is or quantised as the weights are (linear_int8_dynamic), and the gradient of x. The kernels,
// their work, alignment and targets: gemm/int8.cu, int8_dynamic.cu and int8_hopper.cu, and gemv.cu
// for up to 8 rows of a float x.

#include "native/cuda/gemm/int8.cuh"
#include "native/cuda/gemm/operand.cuh"

namespace fuselm::cuda {
namespace {

// Throws unless values [N, K] and scales fit each other and the group.
Int8Weights WeightsOf(const char* what, const View& values, const View& scales, int64_t group) {
  Require(values.rank == 2 && values.dtype == DType::kI8 && values.contiguous() &&
              (group == 0 || group == 32 || group == 64 || group == 128),
          ErrorCode::kShape, what);
  const Int8Weights w{values.as<int8_t>(), scales.as<float>(), values.dim(0), values.dim(1), group};
  const int64_t groups = group == 0 ? 1 : CeilDiv(w.k, group);
  Require(scales.dtype == DType::kF32 && scales.contiguous() && scales.rank == (group ? 2 : 1) &&
              scales.dim(0) == w.n && (group == 0 || scales.dim(1) == groups),
          ErrorCode::kShape, what);
  return w;
}

// 0 x, 1 values, 2 scales, 3 bias?, 4 y; [group]
Int8Problem ProblemOf(const Arguments& in, const char* what) {
  const View& y = in[4];
  const Int8Weights w = WeightsOf(what, in[1], in[2], in.i64(0));
  const RowMatrix x = AsRows(in, in[0]);
  Require(x.cols == w.k && y.contiguous() && y.dtype == in[0].dtype && y.dim(-1) == w.n &&
              x.rows * w.n == y.numel() && (!in.has(3) || in[3].numel() == w.n),
          ErrorCode::kShape, what);
  CheckBias(in[3], what);
  return {y.dtype, x.data, x.stride, x.rows, w, &in[3], y.data};
}

void Linear(const Arguments& in) {
  Int8Gemm(in, "linear_int8",
           ProblemOf(in,
                     "linear_int8: x [.., K], values i8 [N, K], scales, bias [N] and y [.., N] "
                     "do not fit"));
}

void LinearDynamic(const Arguments& in) {
  Int8GemmDynamic(in, "linear_int8_dynamic",
                  ProblemOf(in,
                            "linear_int8_dynamic: x [.., K], values i8 [N, K], scales, bias "
                            "[N] and y [.., N] do not fit"));
}

// 0 dy, 1 values, 2 scales, 3 dx; [group]: dx = dy W, with W in dy's dtype
void LinearDx(const Arguments& in) {
  constexpr const char* kFit =
      "linear_int8.dx: dy [.., N], values i8 [N, K], scales and dx [.., K] do not fit";
  const View& dx = in[3];
  const Int8Weights w = WeightsOf(kFit, in[1], in[2], in.i64(0));
  const RowMatrix dy = AsRows(in, in[0]);
  Require(dy.cols == w.n && dx.contiguous() && dx.dtype == in[0].dtype && dx.dim(-1) == w.k &&
              dy.rows * w.k == dx.numel(),
          ErrorCode::kShape, kFit);
  Int8GemmDx(in, "linear_int8.dx", dx.dtype, dy.data, dy.stride, dy.rows, w, dx.data);
}

FUSELM_CUDA_KERNEL("linear_int8(x, values, scales, bias?) -> (y) [group]", kFloat, Linear);
FUSELM_CUDA_KERNEL("linear_int8_dynamic(x, values, scales, bias?) -> (y) [group]", kFloat,
                   LinearDynamic);
FUSELM_CUDA_KERNEL("linear_int8.dx(dy, values, scales) -> (dx) [group]", kFloat, LinearDx);

}  // namespace
}  // namespace fuselm::cuda
