// Element functions over tensors of one shape and any strides: y = f(x...). A new one is a functor
// and a call:
//
//   struct Twice { __device__ float operator()(float x) const { return x + x; } };
//   Pointwise<T, T>(in, "twice", Twice{}, {&y, &x});          // the type of y, those of the inputs
//
// bf16 reaches the functor as float and is rounded once; other types as they are. A functor with
// kOutputs = 2 returns Pack<float, 2>, and both outputs come first among the views. One that says
// kVectors = false goes element by element: smaller code for what is rare.
//
// Work: a thread an item, grid-stride. Axes are sorted by the strides of the first view and merged,
// so dense tensors have one. An item is a vector (16 bytes of the widest type) where the last axis
// has unit stride, or repeats, in all views, and rows are cut evenly and aligned: dense tensors
// with a tail, padded rows, a broadcast row or column. Otherwise an element. No shared memory. The
// target is the device's copy bandwidth.
#pragma once

#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>

#include "native/cuda/device.cuh"
#include "native/cuda/kernel.cuh"

namespace fuselm::cuda {

inline void RequireSameShape(const char* op, const View& a, const View& b) {
  bool same = a.rank == b.rank;
  for (int i = 0; same && i < a.rank; ++i) same = a.shape[i] == b.shape[i];
  if (!same) {
    throw Error(ErrorCode::kShape, std::string(op) + ": expected one shape, received " +
                                       a.ToString() + " and " + b.ToString());
  }
}
inline void RequireDType(const char* op, const View& v, DType d) {
  if (v.dtype != d) {
    throw Error(ErrorCode::kShape,
                std::string(op) + ": expected " + DTypeName(d) + ", received " + v.ToString());
  }
}

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

template <int N>
struct Walk {
  Axes<N> axes;          // of items
  int64_t tail = 0;      // elements after the last vector of a dense run
  bool repeats[N] = {};  // along the last axis
  void* data[N];
};

// Cuts the last axis into vectors of `pack` elements, if all views allow it.
template <int N>
bool Vectorize(Walk<N>& w, const View* const (&views)[N], int outputs, int pack) {
  Axes<N>& axes = w.axes;
  const int last = axes.rank - 1;
  if (last < 0 || axes.size[last] < pack || (last > 0 && axes.size[last] % pack != 0)) return false;
  for (int t = 0; t < N; ++t) {
    const int64_t step = axes.stride[t][last];
    w.repeats[t] = step == 0 && t >= outputs;
    if (w.repeats[t]) continue;
    const uintptr_t bytes = static_cast<uintptr_t>(pack) * ItemSize(views[t]->dtype);
    if (step != 1 || reinterpret_cast<uintptr_t>(w.data[t]) % bytes != 0) return false;
    for (int i = 0; i < last; ++i) {
      if (axes.stride[t][i] % pack != 0) return false;
    }
  }
  w.tail = axes.size[last] % pack;  // of a single axis
  axes.count /= pack;
  axes.size[last] /= pack;
  for (int t = 0; t < N; ++t) axes.stride[t][last] *= pack;
  return true;
}

// What an element is computed in.
template <class T>
__device__ __forceinline__ auto Widen(T x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return ToFloat(x);
  } else {
    return x;
  }
}
template <class Y, class C>
__device__ __forceinline__ Y Narrow(C x) {
  if constexpr (std::is_same_v<Y, bf16>) {
    return ToBf16(static_cast<float>(x));
  } else {
    return static_cast<Y>(x);
  }
}

namespace pointwise {

// Elements of a vector: 16 bytes of the widest type.
template <class... T>
inline constexpr int kPackOf = static_cast<int>(16 / std::max({sizeof(T)...}));

inline constexpr int kThreads = 256;
inline constexpr int64_t kMaxBlocks = 1 << 18;

template <class F>
inline constexpr int kOutputs = 1;
template <class F>
  requires requires { F::kOutputs; }
inline constexpr int kOutputs<F> = F::kOutputs;

template <class F>
inline constexpr bool kVectors = true;
template <class F>
  requires requires { F::kVectors; }
inline constexpr bool kVectors<F> = F::kVectors;

template <class T, int kPack>
__device__ __forceinline__ Pack<T, kPack> LoadItem(const void* data, int64_t at, bool repeats) {
  const T* const p = static_cast<const T*>(data) + at;
  if (kPack > 1 && repeats) {
    Pack<T, kPack> item;
    const T value = *p;
#pragma unroll
    for (int k = 0; k < kPack; ++k) item.v[k] = value;
    return item;
  }
  return *reinterpret_cast<const Pack<T, kPack>*>(p);
}

template <int kPack, class Y, class F, int N, class... X>
__device__ __forceinline__ void Store(const Walk<N>& w, const F& f, const int64_t (&at)[N],
                                      const Pack<X, kPack>&... x) {
  constexpr int kOut = kOutputs<F>;
  Pack<Y, kPack> y[kOut];
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    const auto value = f(Widen(x.v[k])...);
    if constexpr (kOut == 1) {
      y[0].v[k] = Narrow<Y>(value);
    } else {
#pragma unroll
      for (int o = 0; o < kOut; ++o) y[o].v[k] = Narrow<Y>(value.v[o]);
    }
  }
#pragma unroll
  for (int o = 0; o < kOut; ++o) {
    *reinterpret_cast<Pack<Y, kPack>*>(static_cast<Y*>(w.data[o]) + at[o]) = y[o];
  }
}

template <int kPack, class Y, class... X, class F, int N, size_t... I>
__device__ __forceinline__ void Item(const Walk<N>& w, const F& f, const int64_t (&at)[N],
                                     std::index_sequence<I...>) {
  constexpr int kOut = kOutputs<F>;
  Store<kPack, Y>(w, f, at,
                  LoadItem<X, kPack>(w.data[kOut + I], at[kOut + I], w.repeats[kOut + I])...);
}

template <bool kVector, class F, class Y, class... X>
__global__ void __launch_bounds__(kThreads)
    Kernel(const __grid_constant__ Walk<kOutputs<F> + static_cast<int>(sizeof...(X))> w,
           const F f) {
  constexpr int N = kOutputs<F> + static_cast<int>(sizeof...(X));
  constexpr int kPack = kVector ? kPackOf<Y, X...> : 1;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  int64_t at[N];
  for (int64_t i = first; i < w.axes.count; i += step) {
    w.axes.Locate(i, at);
    Item<kPack, Y, X...>(w, f, at, std::index_sequence_for<X...>{});
  }
  if (kVector && first < w.tail) {
#pragma unroll
    for (int t = 0; t < N; ++t) at[t] = w.repeats[t] ? 0 : w.axes.count * kPack + first;
    Item<1, Y, X...>(w, f, at, std::index_sequence_for<X...>{});
  }
}

}  // namespace pointwise

// y = x
struct Same {
  template <class T>
  __device__ T operator()(T x) const {
    return x;
  }
};

// All views have one shape (checked by the caller): outputs, then inputs, of the types named. An
// input may be an output's own view.
template <class Y, class... X, class F, int N>
void Pointwise(const Arguments& in, const char* op, const F& f, const View* const (&views)[N]) {
  static_assert(N == pointwise::kOutputs<F> + static_cast<int>(sizeof...(X)));
  if (views[0]->numel() == 0) return;
  Walk<N> w;
  for (int t = 0; t < N; ++t) w.data[t] = views[t]->data;
  w.axes = MergeAxes(views);
  constexpr bool kMayVectorize = pointwise::kVectors<F>;
  const bool vector =
      kMayVectorize && Vectorize(w, views, pointwise::kOutputs<F>, pointwise::kPackOf<Y, X...>);
  w.axes.Finish();
  const int64_t items = std::max<int64_t>(w.axes.count, 1);
  const Grid grid{dim3(static_cast<unsigned>(
                      std::min(CeilDiv(items, pointwise::kThreads), pointwise::kMaxBlocks))),
                  pointwise::kThreads};
  if constexpr (kMayVectorize) {
    if (vector) return Launch(in, op, grid, pointwise::Kernel<true, F, Y, X...>, w, f);
  }
  Launch(in, op, grid, pointwise::Kernel<false, F, Y, X...>, w, f);
}

}  // namespace fuselm::cuda
