// levels: avx2 avx512 avx512bf16 amx
// Batched matrix product of f32 or bf16 over any strides, through the GEMM driver:
// y[.., m, n] = sum over k of a[.., m, k] b[.., k, n]. f64 and the generic level have plain loops
// (native/cpu/primitives/matmul.cc).
#include "native/cpu/gemm/operand.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

// A view whose last two axes the driver takes as they are (one has stride 1), else a dense copy.
View Drivable(Invocation& inv, const View& v) {
  const bool unit = v.step(-1) == 1 || v.step(-2) == 1 || v.dim(-1) == 1 || v.dim(-2) == 1;
  if (unit) return v;
  const RowMatrix rows = AsRows(inv, v);
  View dense = v;
  dense.data = const_cast<void*>(rows.data);
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

struct Offsets {
  const View &a, &b;
  static void At(const void* context, int64_t i, int64_t& a, int64_t& b) {
    const Offsets& o = *static_cast<const Offsets*>(context);
    for (int d = o.a.rank - 3; d >= 0; --d) {
      const int64_t c = i % o.a.shape[d];
      i /= o.a.shape[d];
      a += c * o.a.stride[d];
      b += c * o.b.stride[d];
    }
  }
};

void Matmul(Invocation& inv) {
  const View& y = inv[2];
  bool fits = inv[0].rank >= 2 && inv[0].rank == inv[1].rank && inv[0].rank == y.rank &&
              inv[1].dtype == inv[0].dtype && y.dtype == inv[0].dtype && y.contiguous();
  for (int i = 0; fits && i < y.rank - 2; ++i)
    fits = inv[0].shape[i] == y.shape[i] && inv[1].shape[i] == y.shape[i];
  fits = fits && inv[0].dim(-1) == inv[1].dim(-2) && inv[0].dim(-2) == y.dim(-2) &&
         inv[1].dim(-1) == y.dim(-1);
  if (!fits)
    throw Error(ErrorCode::kShape, "matmul: " + inv[0].ToString() + " times " + inv[1].ToString() +
                                       " does not give " + y.ToString());
  if (y.numel() == 0) return;
  const View a = Drivable(inv, inv[0]), b = Drivable(inv, inv[1]);
  const GemmSegment segment{OperandOf(a, -1, -2), OperandOf(b, -2, -1), a.dim(-1)};
  const Offsets offsets{a, b};
  Gemm(inv, GemmBatch{.problem = {.dtype = y.dtype,
                                  .m = y.dim(-2),
                                  .n = y.dim(-1),
                                  .segments = {&segment, 1},
                                  .out = {.data = y.data, .stride = y.dim(-1), .dtype = y.dtype}},
                      .count = y.numel() / (y.dim(-2) * y.dim(-1)),
                      .offsets = Offsets::At,
                      .context = &offsets});
}
FUSELM_KERNEL("matmul(a, b) -> (y)", kFloat, Matmul);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
