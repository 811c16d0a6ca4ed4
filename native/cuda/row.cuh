// Rows shared by lanes of a warp or a block: reading and mapping them by vectors wherever they
// start, and the sum of exponentials of one.
//
// Lanes are 32 (a warp a row, 8 rows a block) or 256 (a block a row), by the row's length alone.
#pragma once

#include <cmath>

#include "native/cuda/rows.cuh"

namespace fuselm::cuda {

inline constexpr int kRowThreads = 256;

// The row a thread works at, and its place among those that do.
struct RowPlace {
  int64_t row;
  int lane, lanes;

  static __device__ __forceinline__ RowPlace Of(int lanes) {
    return {static_cast<int64_t>(blockIdx.x) * (kRowThreads / lanes) + threadIdx.x / lanes,
            static_cast<int>(threadIdx.x) % lanes, lanes};
  }
};
inline int RowLanes(int64_t n) { return n <= 1024 ? kWarp : kRowThreads; }
// A kernel that gets `lanes` returns whole warps past the last row.
inline Grid RowGrid(int64_t rows, int lanes) {
  const int64_t blocks = CeilDiv(rows, kRowThreads / lanes);
  Require(rows < int64_t{1} << 31, ErrorCode::kShape, "at most 2^31 - 1 rows");
  return {dim3(static_cast<unsigned>(blocks)), kRowThreads};
}

// Elements before the first that starts a vector of kPack in all rows; n where there is none.
template <int kPack, class T>
__device__ __forceinline__ int64_t VectorStart(const T* p) {
  constexpr uintptr_t kBytes = kPack * sizeof(T);
  return static_cast<int64_t>((kBytes - reinterpret_cast<uintptr_t>(p) % kBytes) % kBytes /
                              sizeof(T));
}
template <int kPack, class T, class... Rest>
__device__ __forceinline__ int64_t VectorStart(int64_t n, const T* p, const Rest*... rest) {
  const int64_t start = VectorStart<kPack>(p);
  const bool together = ((VectorStart<kPack>(rest) == start) && ...);
  return together && start < n ? start : n;
}
template <class... T>
inline constexpr int kRowPack = sizeof...(T) > 0 && ((sizeof(T) == 2) && ...) ? 8 : 4;

// f(i, x[i]...) for the lane's elements of rows of n, as floats.
template <class F, class... X>
__device__ __forceinline__ void ReadRow(const RowPlace& at, int64_t n, F&& f, const X*... x) {
  constexpr int kPack = kRowPack<X...>;
  const int64_t start = VectorStart<kPack>(n, x...), vectors = (n - start) / kPack;
  for (int64_t i = at.lane; i < start; i += at.lanes) f(i, ToFloat(x[i])...);
#pragma unroll 2
  for (int64_t v = at.lane; v < vectors; v += at.lanes) {
    const int64_t i = start + v * kPack;
    const auto each = [&](const Pack<X, kPack>&... packs) {
#pragma unroll
      for (int k = 0; k < kPack; ++k) f(i + k, ToFloat(packs.v[k])...);
    };
    each(*reinterpret_cast<const Pack<X, kPack>*>(x + i)...);
  }
  for (int64_t i = start + vectors * kPack + at.lane; i < n; i += at.lanes) f(i, ToFloat(x[i])...);
}

// y[i] = f(i, x[i]...); y may be one of x.
template <class Y, class F, class... X>
__device__ __forceinline__ void MapRow(const RowPlace& at, int64_t n, Y* y, F&& f, const X*... x) {
  constexpr int kPack = kRowPack<Y, X...>;
  const int64_t start = VectorStart<kPack>(n, y, x...), vectors = (n - start) / kPack;
  for (int64_t i = at.lane; i < start; i += at.lanes) y[i] = FromFloat<Y>(f(i, ToFloat(x[i])...));
#pragma unroll 2
  for (int64_t v = at.lane; v < vectors; v += at.lanes) {
    const int64_t i = start + v * kPack;
    const auto each = [&](const Pack<X, kPack>&... packs) {
      Pack<Y, kPack> out;
#pragma unroll
      for (int k = 0; k < kPack; ++k) out.v[k] = FromFloat<Y>(f(i + k, ToFloat(packs.v[k])...));
      *reinterpret_cast<Pack<Y, kPack>*>(y + i) = out;
    };
    each(*reinterpret_cast<const Pack<X, kPack>*>(x + i)...);
  }
  for (int64_t i = start + vectors * kPack + at.lane; i < n; i += at.lanes)
    y[i] = FromFloat<Y>(f(i, ToFloat(x[i])...));
}

// Over the lanes of a row, in every one of them. With 256 lanes it contains barriers.
__device__ __forceinline__ float RowSum(const RowPlace& at, float x) {
  return at.lanes == kWarp ? WarpSum(x) : BlockSum<kRowThreads>(x);
}
__device__ __forceinline__ float RowMax(const RowPlace& at, float x) {
  return at.lanes == kWarp ? WarpMax(x) : BlockMax<kRowThreads>(x);
}

// e^x for x <= 0, to the precision of T: within 2^-14 of it for bf16.
template <class T>
__device__ __forceinline__ float ExpOf(float x) {
  if constexpr (sizeof(T) == 4) {
    return expf(x);
  } else {
    return __expf(x);
  }
}

// A sum of exponentials of what was added: of e^(x - max). One pass over a row. NaN once a NaN or
// +inf was added; max is the largest that is no NaN.
template <class T>
struct ExpSum {
  float max = -INFINITY, sum = 0;

  // Of what is subtracted, so that -inf from -inf is no NaN.
  static __device__ __forceinline__ float Shift(float max) { return max == -INFINITY ? 0.0f : max; }
  __device__ __forceinline__ void Add(float x) {
    if (x > max) {
      sum = sum * ExpOf<T>(max - x);
      max = x;
    }
    sum += ExpOf<T>(x - Shift(max));
  }
  __device__ __forceinline__ void Join(float other_max, float other_sum) {
    const float top = fmaxf(max, other_max), shift = Shift(top);
    sum = sum * ExpOf<T>(max - shift) + other_sum * ExpOf<T>(other_max - shift);
    max = top;
  }
  // Over the lanes of a row: the same bits in each.
  __device__ __forceinline__ void JoinLanes(const RowPlace& at) {
    const float mine = max;
    max = RowMax(at, max);
    sum = RowSum(at, sum * ExpOf<T>(mine - Shift(max)));
  }
  __device__ __forceinline__ float Log() const { return max + logf(sum); }
};

// Two running sums in turn, so that one exponential need not wait for the other.
template <class T, class X>
__device__ __forceinline__ ExpSum<T> ExpSumOf(const RowPlace& at, int64_t n, const X* x) {
  ExpSum<T> even, odd;
  ReadRow(
      at, n,
      [&](int64_t i, float v) {
        if (i % 2 == 0) {
          even.Add(v);
        } else {
          odd.Add(v);
        }
      },
      x);
  even.Join(odd.max, odd.sum);
  even.JoinLanes(at);
  return even;
}

}  // namespace fuselm::cuda
