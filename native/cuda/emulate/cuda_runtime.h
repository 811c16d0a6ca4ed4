// Stands in for the CUDA toolkit's header when kernels are compiled by a C++ compiler: what this
// project uses of CUDA C++ and of the runtime API, over host memory. emulate.cc runs the blocks.
//
// For tests, not for speed. Blocks run one after another, the threads of a block as fibers that
// change at barriers and warp intrinsics; half the blocks run their warps backwards, and copies of
// cp.async arrive only when waited for, so that a missing barrier shows. Reaching a barrier or a
// full-mask intrinsic with part of a warp, which hardware leaves undefined, is an error here.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__ static const
#define __shared__ static thread_local
#define __align__(n) alignas(n)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace fuselm::emulate {

// The running thread's place. Blocks are one-dimensional in threads.
struct Place {
  dim3 grid, block;
  uint3 block_index, thread_index;
};
extern thread_local Place place;

// Runs body once per thread of every block. Throws Error(kDevice) naming `what` for a launch that
// hardware would refuse, a barrier that not all threads reach, and a warp intrinsic likewise.
// Blocks, warps and lanes run in an order drawn from the seed; 0: in order, every other block
// backwards.
void Run(dim3 grid, int threads, int64_t shared_bytes, int64_t shared_limit, const char* what,
         void (*body)(void*), void* closure, uint64_t seed);
// Throws for the launch that hardware would refuse.
void CheckLaunch(dim3 grid, int threads, int64_t shared_bytes, int64_t shared_limit,
                 const char* what);

void* DynamicShared();  // at a multiple of 1,024
// Addresses of the shared window, 0 where dynamic shared memory begins.
unsigned SharedAddress(const void* p);
void* SharedAt(unsigned address);
// bar.sync (waits) or bar.arrive.
void NamedBarrier(int id, int threads, bool waits);
void Poll();  // lets the other threads run, in a loop that waits for them
inline int Lane() { return static_cast<int>(place.thread_index.x % 32); }
void SyncBlock();
void SyncWarp(unsigned mask);
// Every lane gives `bytes` (at most 64) and gets all lanes' one after another, until its next call.
const void* ExchangeBytes(const void* mine, size_t bytes);
template <class T>
const T* Exchange(const T* mine, size_t count) {
  return static_cast<const T*>(ExchangeBytes(mine, count * sizeof(T)));
}
template <class T, size_t N>
const T* Exchange(const T (&mine)[N]) {
  return Exchange(mine, N);
}
void CheckMask(unsigned mask);

void CopyLater(void* to, const void* from, int bytes);
void CommitCopies();
void WaitCopies(int under_way);

}  // namespace fuselm::emulate

#define threadIdx (::fuselm::emulate::place.thread_index)
#define blockIdx (::fuselm::emulate::place.block_index)
#define blockDim (::fuselm::emulate::place.block)
#define gridDim (::fuselm::emulate::place.grid)

inline void __syncthreads() { fuselm::emulate::SyncBlock(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { fuselm::emulate::SyncWarp(mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  fuselm::emulate::CheckMask(mask);
  const int me = fuselm::emulate::Lane();
  return fuselm::emulate::Exchange(&value, 1)[me / width * width + lane % width];
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32) {
  fuselm::emulate::CheckMask(mask);
  const int me = fuselm::emulate::Lane(), from = me ^ flip;
  return fuselm::emulate::Exchange(&value, 1)[from / width == me / width ? from : me];
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  fuselm::emulate::CheckMask(mask);
  const int me = fuselm::emulate::Lane(), from = me - static_cast<int>(by);
  return fuselm::emulate::Exchange(&value, 1)[from >= me / width * width ? from : me];
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  fuselm::emulate::CheckMask(mask);
  const int me = fuselm::emulate::Lane(), from = me + static_cast<int>(by);
  return fuselm::emulate::Exchange(&value, 1)[from < (me / width + 1) * width ? from : me];
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  fuselm::emulate::CheckMask(mask);
  const int* all = fuselm::emulate::Exchange(&predicate, 1);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= (all[lane] != 0 ? 1u : 0u) << lane;
  return bits;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  fuselm::emulate::CheckMask(mask);
  const T* all = fuselm::emulate::Exchange(&value, 1);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= (all[lane] == value ? 1u : 0u) << lane;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == 0xffffffffu;
}

// Blocks and threads take turns, so plain arithmetic is atomic.
#ifdef FUSELM_CHECKED
namespace fuselm::emulate {
void CheckAtomic(const void* p, size_t bytes, const void* at);
}
#define FUSELM_ATOMIC __attribute__((noinline, no_sanitize("thread")))
#define FUSELM_SEE_ATOMIC(p) \
  ::fuselm::emulate::CheckAtomic(p, sizeof(T), __builtin_return_address(0))
#else
#define FUSELM_ATOMIC inline
#define FUSELM_SEE_ATOMIC(p) static_cast<void>(0)
#endif
template <class T>
FUSELM_ATOMIC T atomicExch(T* at, T value) {
  FUSELM_SEE_ATOMIC(at);
  const T old = *at;
  *at = value;
  return old;
}
template <class T>
FUSELM_ATOMIC T atomicCAS(T* at, T compare, T value) {
  FUSELM_SEE_ATOMIC(at);
  const T old = *at;
  if (old == compare) *at = value;
  return old;
}
template <class T>
FUSELM_ATOMIC T atomicAdd(T* at, T value) {
  static_assert(std::is_integral_v<T>, "float atomics would make results differ from run to run");
  FUSELM_SEE_ATOMIC(at);
  const T old = *at;
  *at = static_cast<T>(old + value);
  return old;
}
template <class T>
FUSELM_ATOMIC T atomicMax(T* at, T value) {
  FUSELM_SEE_ATOMIC(at);
  const T old = *at;
  if (value > old) *at = value;
  return old;
}
template <class T>
FUSELM_ATOMIC T atomicMin(T* at, T value) {
  FUSELM_SEE_ATOMIC(at);
  const T old = *at;
  if (value < old) *at = value;
  return old;
}
template <class T>
FUSELM_ATOMIC T atomicOr(T* at, T value) {
  FUSELM_SEE_ATOMIC(at);
  const T old = *at;
  *at = old | value;
  return old;
}
#undef FUSELM_ATOMIC
#undef FUSELM_SEE_ATOMIC

inline float __uint_as_float(unsigned u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline unsigned __float_as_uint(float f) {
  unsigned u;
  std::memcpy(&u, &f, 4);
  return u;
}
inline float __int_as_float(int i) { return __uint_as_float(static_cast<unsigned>(i)); }
inline int __float_as_int(float f) { return static_cast<int>(__float_as_uint(f)); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1u) << (31 - i);
  return y;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
  unsigned y = 0;
  for (int i = 0; i < 4; ++i) {
    y |= static_cast<unsigned>(both >> ((selector >> (4 * i) & 7) * 8) & 0xff) << (8 * i);
  }
  return y;
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) {
    c += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
  }
  return c;
}
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline float cospif(float x) { return static_cast<float>(std::cos(3.14159265358979323846 * x)); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float fdividef(float a, float b) { return a / b; }
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T value) {
  *p = value;
}
inline void __trap() { __builtin_trap(); }
using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;

#include "native/cuda/emulate/runtime.h"
