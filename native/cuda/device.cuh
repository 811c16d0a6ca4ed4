// Tools of device code: loads and stores by dtype, vectors, sums over a warp and a block, indices.
// Float arithmetic is float32 whatever the storage dtype is. No float atomics anywhere: results are
// bitwise the same in every run, so reductions go in a fixed order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "native/core/dtype.h"
#include "native/core/view.h"

namespace fuselm::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kFullMask = 0xffffffffu;

#ifdef __CUDACC__
#define FUSELM_DYNAMIC_SHARED(T, name)                                    \
  extern __shared__ __align__(128) unsigned char fuselm_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(fuselm_dynamic_shared)
#else
#define FUSELM_DYNAMIC_SHARED(T, name) \
  T* const name = reinterpret_cast<T*>(::fuselm::emulate::DynamicShared())
#endif

__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(bf16 x) {
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}
// The two halves of a 32-bit word of bf16, the one at the lower address first.
__device__ __forceinline__ float LowToFloat(uint32_t word) { return __uint_as_float(word << 16); }
__device__ __forceinline__ float HighToFloat(uint32_t word) {
  return __uint_as_float(word & 0xffff0000u);
}

// Rounds to nearest even; NaN stays NaN.
__device__ __forceinline__ bf16 ToBf16(float x) {
  uint16_t bits = 0;
#ifdef __CUDA_ARCH__
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#elif !defined(__CUDACC__)
  bits = bf16(x).bits;
#endif
  bf16 y;
  y.bits = bits;
  return y;
}
// Two rounded values in a word, `low` at the lower address.
__device__ __forceinline__ uint32_t ToBf16x2(float low, float high) {
  uint32_t word = 0;
#ifdef __CUDA_ARCH__
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
#elif !defined(__CUDACC__)
  word = bf16(low).bits | static_cast<uint32_t>(bf16(high).bits) << 16;
#endif
  return word;
}

template <class T>
__device__ __forceinline__ T FromFloat(float x);
template <>
__device__ __forceinline__ float FromFloat<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 FromFloat<bf16>(float x) {
  return ToBf16(x);
}

// N elements that move as one access; N * sizeof(T) is 2, 4, 8 or 16.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
  T v[N];
};

// Butterflies: every lane gets the same bits.
__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) x += __shfl_xor_sync(kFullMask, x, d);
  return x;
}
__device__ __forceinline__ float WarpMax(float x) {
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(kFullMask, x, d));
  return x;
}

// Sum over a one-dimensional block of kThreads, in every thread. Contains barriers: every thread of
// the block calls it. May be called again at once.
template <int kThreads>
__device__ __forceinline__ float BlockSum(float x) {
  static_assert(kThreads % kWarp == 0 && kThreads <= 1024);
  constexpr int kWarps = kThreads / kWarp;
  __shared__ float parts[kWarps];
  x = WarpSum(x);
  __syncthreads();  // a caller before may still be reading
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += parts[w];
  return sum;
}
template <int kThreads>
__device__ __forceinline__ float BlockMax(float x) {
  static_assert(kThreads % kWarp == 0 && kThreads <= 1024);
  constexpr int kWarps = kThreads / kWarp;
  __shared__ float parts[kWarps];
  x = WarpMax(x);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  float most = parts[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) most = fmaxf(most, parts[w]);
  return most;
}

// A view's shape and strides as a kernel parameter.
struct Strided {
  int32_t rank;
  int64_t shape[kMaxRank];
  int64_t stride[kMaxRank];

  // Offset in elements of the i-th element in row-major order.
  __device__ __forceinline__ int64_t At(int64_t i) const {
    int64_t offset = 0;
#pragma unroll
    for (int axis = kMaxRank - 1; axis >= 0; --axis) {
      if (axis >= rank) continue;  // unrolled: a run-time index would go to local memory
      offset += i % shape[axis] * stride[axis];
      i /= shape[axis];
    }
    return offset;
  }
};
inline Strided ToStrided(const View& view) {
  Strided s{};
  s.rank = view.rank;
  for (int i = 0; i < view.rank; ++i) {
    s.shape[i] = view.shape[i];
    s.stride[i] = view.stride[i];
  }
  return s;
}

}  // namespace fuselm::cuda
