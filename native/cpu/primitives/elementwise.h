// Walks tensors of one shape and any strides together: neighbouring axes that can be stepped as one
// are merged, and elements are cut into fixed chunks, each handed out as straight segments.
#pragma once

#include <algorithm>
#include <array>
#include <string>

#include "native/core/kernel.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

inline constexpr int64_t kChunkElements = 32768;  // well under 1 ms of the slowest element function

inline void RequireSameShape(const char* op, const View& a, const View& b) {
  bool same = a.rank == b.rank;
  for (int i = 0; same && i < a.rank; ++i) same = a.shape[i] == b.shape[i];
  if (!same)
    throw Error(ErrorCode::kShape, std::string(op) + ": expected one shape, received " +
                                       a.ToString() + " and " + b.ToString());
}

inline void RequireDType(const char* op, const View& v, DType d) {
  if (v.dtype != d)
    throw Error(ErrorCode::kShape,
                std::string(op) + ": expected " + DTypeName(d) + ", received " + v.ToString());
}

template <int N>
struct Walk {
  int rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t stride[N][kMaxRank] = {};
  int64_t numel = 1;
};

// All views have the shape of the first (checked by the caller).
template <int N>
Walk<N> Merge(const std::array<const View*, N>& views) {
  Walk<N> w;
  for (int i = 0; i < views[0]->rank; ++i) {
    const int64_t size = views[0]->shape[i];
    w.numel *= size;
    if (size == 1) continue;
    bool joins = w.rank > 0;
    for (int n = 0; joins && n < N; ++n)
      joins = w.stride[n][w.rank - 1] == views[n]->stride[i] * size;
    const int at = joins ? w.rank - 1 : w.rank++;
    w.shape[at] = joins ? w.shape[at] * size : size;
    for (int n = 0; n < N; ++n) w.stride[n][at] = views[n]->stride[i];
  }
  if (w.rank == 0) w.shape[w.rank++] = 1;
  return w;
}

// f(int64_t count, std::array<int64_t, N> offset, std::array<int64_t, N> stride) for every segment.
template <int N, class F>
void ForEachSegment(Invocation& inv, const Walk<N>& w, F&& f) {
  if (w.numel == 0) return;
  const int inner = w.rank - 1;
  inv.ParallelFor((w.numel + kChunkElements - 1) / kChunkElements, [&](int64_t chunk, int) {
    int64_t at = chunk * kChunkElements;
    const int64_t end = std::min(at + kChunkElements, w.numel);
    while (at < end) {
      int64_t rest = at / w.shape[inner];
      const int64_t first = at % w.shape[inner];
      const int64_t count = std::min(end - at, w.shape[inner] - first);
      std::array<int64_t, N> offset, stride;
      for (int n = 0; n < N; ++n) {
        offset[n] = first * w.stride[n][inner];
        stride[n] = w.stride[n][inner];
      }
      for (int i = inner - 1; i >= 0; --i) {
        const int64_t c = rest % w.shape[i];
        rest /= w.shape[i];
        for (int n = 0; n < N; ++n) offset[n] += c * w.stride[n][i];
      }
      f(count, offset, stride);
      at += count;
    }
  });
}

// What an element is computed in: bf16 in float, the others as they are.
template <class T>
struct Compute {
  using type = T;
};
template <>
struct Compute<bf16> {
  using type = float;
};
template <class T>
using ComputeT = typename Compute<T>::type;

// As DispatchFloat64, with i32 too.
template <class F>
void DispatchFloatOrI32(DType d, F&& f) {
  if (d == DType::kI32) return f.template operator()<int32_t>();
  DispatchFloat64(d, std::forward<F>(f));
}

template <class F>
void DispatchAny(DType d, F&& f) {
  switch (d) {
    case DType::kF32: return f.template operator()<float>();
    case DType::kBF16: return f.template operator()<bf16>();
    case DType::kF64: return f.template operator()<double>();
    case DType::kI32: return f.template operator()<int32_t>();
    case DType::kU32: return f.template operator()<uint32_t>();
    case DType::kI8: return f.template operator()<int8_t>();
    case DType::kU8: return f.template operator()<uint8_t>();
    case DType::kU16: return f.template operator()<uint16_t>();
  }
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
