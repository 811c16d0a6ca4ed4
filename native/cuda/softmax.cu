// softmax and log_softmax over the last axis, and their gradients, in float32:
//   y = e^(x - max) / sum of it          dx = y (dy - sum(y dy))
//   y = x - max - log(sum e^(x - max))   dx = dy - e^y sum(dy)
// A row that holds NaN or +inf, or nothing but -inf, becomes NaN.
//
// row.cuh spreads the work. Two passes over a row, the second from cache (L1 up to some 16 KiB of
// row, L2 above); the sum's terms follow the running maximum. 32 bytes of shared memory. Target:
// the copy bandwidth.
#include "native/cuda/row.cuh"

namespace fuselm::cuda {
namespace {

// x and y for a forward pass, y, dy and dx for a backward one.
struct Problem {
  Rows a, b, out;
  int64_t rows, n;
  int lanes;
};

template <class T, bool kLog>
__global__ void __launch_bounds__(kRowThreads) ForwardRows(const __grid_constant__ Problem p) {
  const RowPlace at = RowPlace::Of(p.lanes);
  if (at.row >= p.rows) return;
  const T* const x = p.a.At<T>(at.row);
  T* const y = p.out.At<T>(at.row);
  const ExpSum<T> all = ExpSumOf<T>(at, p.n, x);
  if constexpr (kLog) {
    const float rest = logf(all.sum);
    MapRow(
        at, p.n, y, [&](int64_t, float v) { return (v - all.max) - rest; }, x);
  } else {
    const float scale = 1.0f / all.sum;
    MapRow(
        at, p.n, y, [&](int64_t, float v) { return ExpOf<T>(v - all.max) * scale; }, x);
  }
}

template <class T, bool kLog>
__global__ void __launch_bounds__(kRowThreads) BackwardRows(const __grid_constant__ Problem p) {
  const RowPlace at = RowPlace::Of(p.lanes);
  if (at.row >= p.rows) return;
  const T *const dy = p.a.At<T>(at.row), *const y = p.b.At<T>(at.row);
  T* const dx = p.out.At<T>(at.row);
  float sum = 0;
  if constexpr (kLog) {
    ReadRow(
        at, p.n, [&](int64_t, float d) { sum += d; }, dy);
    sum = RowSum(at, sum);
    MapRow(
        at, p.n, dx, [&](int64_t, float d, float v) { return fmaf(-ExpOf<T>(v), sum, d); }, dy, y);
  } else {
    ReadRow(
        at, p.n, [&](int64_t, float d, float v) { sum = fmaf(d, v, sum); }, dy, y);
    sum = RowSum(at, sum);
    MapRow(
        at, p.n, dx, [&](int64_t, float d, float v) { return v * (d - sum); }, dy, y);
  }
}

// The last axis of the tensors of both ops: inputs and outputs of one shape.
int64_t RequireLogits(const char* op, const Arguments& in) {
  const auto last = [](const View& v) { return v.rank < 1 ? 0 : v.shape[v.rank - 1]; };
  const int64_t n = last(in[0]);
  bool fits = n > 0;
  for (size_t i = 0; fits && i < in.size(); ++i) {
    const View& v = in[i];
    fits = v.dtype == in[0].dtype && last(v) == n && v.rows() == in[0].rows() &&
           (n <= 1 || v.stride[std::max(v.rank, 1) - 1] == 1);
  }
  if (!fits) {
    throw Error(
        ErrorCode::kShape,
        std::string(op) + ": all tensors must be alike, with unit stride in a last axis not empty");
  }
  return n;
}

template <bool kLog>
void Forward(const Arguments& in) {
  const char* const op = kLog ? "log_softmax" : "softmax";
  const int64_t n = RequireLogits(op, in), rows = in[0].rows();
  if (rows == 0) return;
  const Problem p{ToRows(in[0]), {}, ToRows(in[1]), rows, n, RowLanes(n)};
  DispatchFloat(in[0].dtype, [&]<class T>() {
    Launch(in, op, RowGrid(rows, p.lanes), ForwardRows<T, kLog>, p);
  });
}

template <bool kLog>
void Backward(const Arguments& in) {
  const char* const op = kLog ? "log_softmax.backward" : "softmax.backward";
  const int64_t n = RequireLogits(op, in), rows = in[0].rows();
  if (rows == 0) return;
  const Problem p{ToRows(in[0]), ToRows(in[1]), ToRows(in[2]), rows, n, RowLanes(n)};
  DispatchFloat(in[0].dtype, [&]<class T>() {
    Launch(in, op, RowGrid(rows, p.lanes), BackwardRows<T, kLog>, p);
  });
}

FUSELM_CUDA_KERNEL("softmax(x) -> (y)", kFloat, Forward<false>);
FUSELM_CUDA_KERNEL("softmax.backward(dy, y) -> (dx)", kFloat, Backward<false>);
FUSELM_CUDA_KERNEL("log_softmax(x) -> (y)", kFloat, Forward<true>);
FUSELM_CUDA_KERNEL("log_softmax.backward(dy, y) -> (dx)", kFloat, Backward<true>);

}  // namespace
}  // namespace fuselm::cuda
