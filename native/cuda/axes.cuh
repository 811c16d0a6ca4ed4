// Offsets in strided tensors: axes merged where memory allows, and an item's place found by
// multiplications alone.
#pragma once

#include "native/cuda/device.cuh"

namespace fuselm::cuda {

// n / d for n < 2^31 by a multiplication. Source: Granlund & Montgomery 1994, "Division by
// invariant integers using multiplication".
struct Divisor {
  uint32_t multiplier, shift;

  static Divisor Of(int64_t d) {
    uint32_t shift = 0;
    while ((int64_t{1} << shift) < d) ++shift;
    if (d == 0 || shift > 31) return {};  // never asked
    const uint64_t gap = (uint64_t{1} << shift) - static_cast<uint64_t>(d);
    return {static_cast<uint32_t>((gap << 32) / static_cast<uint64_t>(d) + 1), shift};
  }
  __device__ __forceinline__ uint32_t Quotient(uint32_t n) const {
    return (__umulhi(n, multiplier) + n) >> shift;
  }
};

// Axes that N tensors are stepped along together.
template <int N>
struct Axes {
  int32_t rank = 0;
  int64_t count = 1;
  int64_t size[kMaxRank] = {};
  Divisor by[kMaxRank] = {};
  int64_t stride[N][kMaxRank] = {};

  // Adds an axis inside those before it, or makes it one with the last.
  void Add(int64_t n, const int64_t (&strides)[N]) {
    count *= n;
    if (n == 1) return;
    bool joins = rank > 0;
    for (int t = 0; joins && t < N; ++t) joins = stride[t][rank - 1] == strides[t] * n;
    const int at = joins ? rank - 1 : rank++;
    size[at] = joins ? size[at] * n : n;
    for (int t = 0; t < N; ++t) stride[t][at] = strides[t];
  }
  void Finish() {
    for (int i = 0; i < rank; ++i) by[i] = Divisor::Of(size[i]);
  }

  // Offsets in elements of item i, row-major.
  __device__ __forceinline__ void Locate(int64_t i, int64_t (&at)[N]) const {
    if (count < int64_t{1} << 31) return LocateBelow31(static_cast<uint32_t>(i), at);
#pragma unroll
    for (int t = 0; t < N; ++t) at[t] = 0;
    for (int axis = rank - 1; axis > 0; --axis) {
      const int64_t next = i / size[axis], here = i - next * size[axis];
#pragma unroll
      for (int t = 0; t < N; ++t) at[t] += here * stride[t][axis];
      i = next;
    }
#pragma unroll
    for (int t = 0; t < N; ++t) at[t] += i * stride[t][0];
  }
  // The same for less than 2^31 items: a 64-bit division is a call, which costs registers.
  __device__ __forceinline__ void LocateBelow31(uint32_t i, int64_t (&at)[N]) const {
#pragma unroll
    for (int t = 0; t < N; ++t) at[t] = 0;
    for (int axis = rank - 1; axis > 0; --axis) {
      const uint32_t next = by[axis].Quotient(i);
      const int64_t here = i - next * static_cast<uint32_t>(size[axis]);
#pragma unroll
      for (int t = 0; t < N; ++t) at[t] += here * stride[t][axis];
      i = next;
    }
#pragma unroll
    for (int t = 0; t < N; ++t) at[t] += static_cast<int64_t>(i) * stride[t][0];
  }
};

// Axis numbers of a view by falling stride, axes of one element left out; returns how many.
inline int OrderAxes(const View& v, int (&order)[kMaxRank]) {
  int n = 0;
  for (int i = 0; i < v.rank; ++i) {
    if (v.shape[i] == 1) continue;
    int at = n++;
    for (; at > 0 && v.stride[order[at - 1]] < v.stride[i]; --at) order[at] = order[at - 1];
    order[at] = i;
  }
  return n;
}

template <int N>
Axes<N> MergeAxes(const View* const (&views)[N]) {
  Axes<N> axes;
  int order[kMaxRank] = {};
  const int n = OrderAxes(*views[0], order);
  for (int i = 0; i < n; ++i) {
    int64_t strides[N];
    for (int t = 0; t < N; ++t) strides[t] = views[t]->stride[order[i]];
    axes.Add(views[0]->shape[order[i]], strides);
  }
  return axes;
}

}  // namespace fuselm::cuda
