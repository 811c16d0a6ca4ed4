// What the norms over the last axis share: how rows are cut into tiles, sums along a row, and
// gradients of the weights, which are summed over fixed chunks of rows, then over the chunks in
// order.
#pragma once

#include <algorithm>
#include <string>
#include <utility>

#include "native/core/kernel.h"
#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// Rows of a forward tile. A row costs about as much beside its elements as 64 of them.
inline int64_t RowsPerTile(int64_t n) { return std::max<int64_t>(1, (1 << 16) / (n + 64)); }
// Rows of a backward chunk: at least 16, so that partial sums stay small beside the activations.
inline int64_t RowsPerChunk(int64_t n) { return std::max<int64_t>(16, RowsPerTile(n)); }
inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline void RequireShape(const char* op, bool holds, const char* what) {
  if (!holds) throw Error(ErrorCode::kShape, std::string(op) + ": " + what);
}
inline const View* Optional(const Invocation& call, size_t i) {
  return call.has(i) ? &call[i] : nullptr;
}
// [..., n], dense in the last axis, `rows` of them
inline bool IsRows(const View& v, DType dtype, int64_t rows, int64_t n) {
  return v.rank >= 1 && v.dtype == dtype && v.dim(-1) == n && v.rows() == rows &&
         (n <= 1 || v.step(-1) == 1);
}
inline bool IsWeight(const View& v, int64_t n) {
  return v.rank == 1 && v.dim(0) == n && v.contiguous();
}
inline bool IsStatistic(const View& v, int64_t rows) {
  return v.dtype == DType::kF32 && v.numel() == rows && v.contiguous();
}

// add(i, left, sum) for each vector of a row, in four chains; returns the sum of all lanes.
template <class F>
inline float RowReduce(int64_t n, F&& add) {
  constexpr int64_t kFull = kLanes;
  Vec s0 = Zero(), s1 = Zero(), s2 = Zero(), s3 = Zero();
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    add(i, kFull, s0);
    add(i + kLanes, kFull, s1);
    add(i + 2 * kLanes, kFull, s2);
    add(i + 3 * kLanes, kFull, s3);
  }
  for (; i + kLanes <= n; i += kLanes) add(i, kFull, s0);
  if (i < n) add(i, n - i, s1);
  return Sum((s0 + s1) + (s2 + s3));
}
// Sum of f(i, left)
template <class F>
inline float RowSum(int64_t n, F&& f) {
  return RowReduce(n, [&](int64_t i, int64_t left, Vec& sum) { sum = sum + f(i, left); });
}
// Sum of a b, f(i, left) giving the pair
template <class F>
inline float RowSumOfProducts(int64_t n, F&& f) {
  return RowReduce(n, [&](int64_t i, int64_t left, Vec& sum) {
    const auto [a, b] = f(i, left);
    sum = Fma(a, b, sum);
  });
}

// f(i, left) for each vector of a row
template <class F>
inline void ForRow(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, static_cast<int64_t>(kLanes));
  if (i < n) f(i, n - i);
}

template <class T>
inline void AddRows(const T* a, const T* b, T* sum, int64_t n) {
  ForRow(n, [&](int64_t i, int64_t left) {
    StoreN(sum + i, LoadN(a + i, left) + LoadN(b + i, left), left);
  });
}

// out = (out, when accumulate) + the sum of `chunks` rows of n, `stride` apart
inline void SumChunks(Invocation& call, const float* partial, int64_t chunks, int64_t stride,
                      int64_t n, float* out, bool accumulate) {
  constexpr int64_t kStrip = 256;
  call.ParallelFor(CeilDiv(n, kStrip), [&](int64_t tile, int) {
    const int64_t end = std::min(n, (tile + 1) * kStrip);
    for (int64_t i = tile * kStrip; i < end; i += kLanes) {
      Vec s = accumulate ? LoadN(out + i, end - i) : Zero();
      for (int64_t c = 0; c < chunks; ++c) s = s + LoadN(partial + c * stride + i, end - i);
      StoreN(out + i, s, end - i);
    }
  });
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
