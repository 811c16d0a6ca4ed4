// Batched matrix product of f32 or bf16 over any strides (0 repeats): y[.., m, n] = sum over k of
// a[.., m, k] b[.., k, n], by the product's kernels (gemm/gemm.cuh). Operands of which neither of
// the last two axes has stride 1 are copied first.

#include "native/cuda/gemm/operand.cuh"

namespace fuselm::cuda {
namespace {

// A view whose last two axes the product takes as they are, else a dense copy.
View Drivable(const Arguments& in, const View& v) {
  const bool unit = v.step(-1) == 1 || v.step(-2) == 1 || v.dim(-1) == 1 || v.dim(-2) == 1;
  if (unit) return v;
  View dense = v;
  dense.data = CopyRows(in, v, v.dim(-1));
  int64_t step = 1;
  for (int i = v.rank - 1; i >= 0; --i) {
    dense.stride[i] = step;
    step *= v.shape[i];
  }
  return dense;
}

// `k` and `i` are the axes that run along K and along the operand's own rows.
GemmOperand OperandOf(const View& v, int k, int i) {
  const bool along = v.step(k) == 1 || v.dim(k) == 1;
  const bool down = v.step(i) == 1 || v.dim(i) == 1;
  // an axis of one element says nothing; the other then decides
  if (along && !(v.dim(k) == 1 && down)) return {v.data, v.step(i), true};
  return {v.data, v.step(k), false};
}

void Matmul(const Arguments& in) {
  const View& y = in[2];
  bool fits = in[0].rank >= 2 && in[0].rank == in[1].rank && in[0].rank == y.rank &&
              in[1].dtype == in[0].dtype && y.dtype == in[0].dtype && y.contiguous();
  for (int i = 0; fits && i < y.rank - 2; ++i)
    fits = in[0].shape[i] == y.shape[i] && in[1].shape[i] == y.shape[i];
  fits = fits && in[0].dim(-1) == in[1].dim(-2) && in[0].dim(-2) == y.dim(-2) &&
         in[1].dim(-1) == y.dim(-1);
  if (!fits)
    throw Error(ErrorCode::kShape, "matmul: " + in[0].ToString() + " times " + in[1].ToString() +
                                       " does not give " + y.ToString());
  if (y.numel() == 0) return;
  GemmProblem problem{.dtype = y.dtype,
                      .m = y.dim(-2),
                      .n = y.dim(-1),
                      .segments = {},
                      .out = {.data = y.data, .stride = y.dim(-1), .dtype = y.dtype}};
  const bool empty = in[0].dim(-1) == 0;  // nothing to read, and strides that say nothing
  const View a = empty ? in[0] : Drivable(in, in[0]), b = empty ? in[1] : Drivable(in, in[1]);
  const GemmSegment segment{OperandOf(a, -1, -2), OperandOf(b, -2, -1), a.dim(-1)};
  problem.segments = {&segment, 1};
  GemmBatch& batch = problem.batch;
  for (int i = 0; i < y.rank - 2; ++i) {
    if (y.shape[i] == 1) continue;
    batch.count *= y.shape[i];
    batch.shape[batch.rank] = y.shape[i];
    batch.a[batch.rank] = a.stride[i];
    batch.b[batch.rank] = b.stride[i];
    batch.c[batch.rank++] = y.stride[i];
  }
  Gemm(in, "matmul", problem);
}
FUSELM_CUDA_KERNEL("matmul(a, b) -> (y)", kFloat, Matmul);

}  // namespace
}  // namespace fuselm::cuda
