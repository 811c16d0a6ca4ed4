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
// Work: a thread two vectors or one element at a time, grid-stride. Axes are sorted by the strides
// of the first view and merged, so dense tensors have one. Items are vectors (16 bytes of the
// widest type) where the last axis has unit stride, or repeats, in all views, and rows are cut
// evenly and aligned: dense tensors with a tail, padded rows, a broadcast row or column. Otherwise
// elements. No shared memory. The target is the device's copy bandwidth.
#pragma once

#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>

#include "native/cuda/axes.cuh"
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
// Of a thread in one step. A vector alone would leave the memory waiting for the next block.
template <bool kVector>
inline constexpr int kItems = kVector ? 2 : 1;

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
// Two, whose loads are under way at once.
template <int kPack, class Y, class... X, class F, int N, size_t... I>
__device__ __forceinline__ void TwoItems(const Walk<N>& w, const F& f, const int64_t (&at)[N],
                                         const int64_t (&next)[N], std::index_sequence<I...>) {
  constexpr int kOut = kOutputs<F>;
  const auto second = [&](const Pack<X, kPack>&... x) {
    const auto both = [&](const Pack<X, kPack>&... x2) {
      Store<kPack, Y>(w, f, at, x...);
      Store<kPack, Y>(w, f, next, x2...);
    };
    both(LoadItem<X, kPack>(w.data[kOut + I], next[kOut + I], w.repeats[kOut + I])...);
  };
  second(LoadItem<X, kPack>(w.data[kOut + I], at[kOut + I], w.repeats[kOut + I])...);
}

template <bool kVector, class F, class Y, class... X>
__global__ void __launch_bounds__(kThreads)
    Kernel(const __grid_constant__ Walk<kOutputs<F> + static_cast<int>(sizeof...(X))> w,
           const F f) {
  constexpr int N = kOutputs<F> + static_cast<int>(sizeof...(X));
  constexpr int kPack = kVector ? kPackOf<Y, X...> : 1, kEach = kItems<kVector>;
  constexpr auto kInputs = std::index_sequence_for<X...>{};
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (kThreads * kEach) + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * (kThreads * kEach);
  int64_t at[N];
  for (int64_t i = first; i < w.axes.count; i += step) {
    w.axes.Locate(i, at);
    if (kEach == 2 && i + kThreads < w.axes.count) {
      int64_t next[N];
      w.axes.Locate(i + kThreads, next);
      TwoItems<kPack, Y, X...>(w, f, at, next, kInputs);
    } else {
      Item<kPack, Y, X...>(w, f, at, kInputs);
    }
  }
  if (kVector && blockIdx.x == 0 && threadIdx.x < w.tail) {
#pragma unroll
    for (int t = 0; t < N; ++t) at[t] = w.repeats[t] ? 0 : w.axes.count * kPack + threadIdx.x;
    Item<1, Y, X...>(w, f, at, kInputs);
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
  const auto grid = [&](int each) {
    const int64_t blocks = CeilDiv(items, pointwise::kThreads * each);
    return Grid{dim3(static_cast<unsigned>(std::min(blocks, pointwise::kMaxBlocks))),
                pointwise::kThreads};
  };
  if constexpr (kMayVectorize) {
    if (vector) {
      return Launch(in, op, grid(pointwise::kItems<true>), pointwise::Kernel<true, F, Y, X...>, w,
                    f);
    }
  }
  Launch(in, op, grid(1), pointwise::Kernel<false, F, Y, X...>, w, f);
}

}  // namespace fuselm::cuda
