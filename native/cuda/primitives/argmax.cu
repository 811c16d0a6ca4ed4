// Index of the largest of the last axis; the first among equals; a NaN is largest. A warp a row, or
// a block of 256 threads for rows of more than 1024 elements. No shared memory but a pair a warp.
// Reads x once.
#include "native/cuda/pointwise.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kShort = 1024;

template <class C>
struct Best {
  C value;
  int32_t index;  // -1: nothing yet
};

// Whether b comes before a.
template <class C>
__device__ __forceinline__ bool Precedes(const Best<C>& b, const Best<C>& a) {
  if (b.index < 0 || a.index < 0) return b.index >= 0;
  const bool b_nan = b.value != b.value, a_nan = a.value != a.value;
  if (b_nan != a_nan) return b_nan;
  if (!b_nan && b.value != a.value) return b.value > a.value;
  return b.index < a.index;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    ArgmaxRows(const T* x, int32_t* y, const __grid_constant__ Axes<1> rows, int64_t count,
               int64_t n, int64_t step, int lanes) {
  using C = decltype(Widen(T{}));
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / lanes) + threadIdx.x / lanes;
  if (row >= count) return;  // whole warps; with 256 lanes never
  int64_t at[1];
  rows.Locate(row, at);
  Best<C> best{C(0), -1};
#pragma unroll 4
  for (int64_t i = lane; i < n; i += lanes) {
    const Best<C> next{Widen(x[at[0] + i * step]), static_cast<int32_t>(i)};
    if (Precedes(next, best)) best = next;
  }
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) {
    const Best<C> other{__shfl_xor_sync(kFullMask, best.value, d),
                        __shfl_xor_sync(kFullMask, best.index, d)};
    if (Precedes(other, best)) best = other;
  }
  if (lanes > kWarp) {
    __shared__ C values[kThreads / kWarp];
    __shared__ int32_t indices[kThreads / kWarp];
    if (threadIdx.x % kWarp == 0) {
      values[threadIdx.x / kWarp] = best.value;
      indices[threadIdx.x / kWarp] = best.index;
    }
    __syncthreads();
    for (int w = 0; w < kThreads / kWarp; ++w) {
      const Best<C> other{values[w], indices[w]};
      if (Precedes(other, best)) best = other;
    }
  }
  if (lane == 0) y[row] = best.index;
}

void Argmax(const Arguments& in) {
  const View &x = in[0], &y = in[1];
  bool fits = x.rank >= 1 && y.rank == x.rank - 1;
  for (int i = 0; fits && i < y.rank; ++i) fits = x.shape[i] == y.shape[i];
  if (!fits) {
    throw Error(ErrorCode::kShape,
                "argmax: " + y.ToString() + " is not " + x.ToString() + " without its last axis");
  }
  RequireDType("argmax", y, DType::kI32);
  Require(y.contiguous(), ErrorCode::kShape, "argmax: the output must be contiguous");
  const int64_t n = x.dim(-1), count = y.numel();
  Require(n > 0 && n < int64_t{1} << 31, ErrorCode::kShape,
          "argmax: the last axis must have 1 to 2^31 - 1 elements");
  if (count == 0) return;
  Axes<1> rows;
  for (int i = 0; i < y.rank; ++i) rows.Add(x.shape[i], {x.stride[i]});
  rows.Finish();
  const int lanes = n <= kShort ? kWarp : kThreads;
  const Grid grid{dim3(static_cast<unsigned>(CeilDiv(count, kThreads / lanes))), kThreads};
  const auto run = [&]<class T>() {
    Launch(in, "argmax", grid, ArgmaxRows<T>, x.as<T>(), y.as<int32_t>(), rows, count, n,
           x.step(-1), lanes);
  };
  if (x.dtype == DType::kI32) return run.template operator()<int32_t>();
  DispatchFloat(x.dtype, run);
}
FUSELM_CUDA_KERNEL("argmax(x) -> (y)", kFloat | Mask(DType::kI32), Argmax);

}  // namespace
}  // namespace fuselm::cuda
