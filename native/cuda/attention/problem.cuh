// What all attention kernels share: the checked shapes, and the interval of keys of every query, as
// native/cpu/attention/problem.h has them. Host and device.
#pragma once

#include <algorithm>
#include <limits>

#include "native/cuda/device.cuh"
#include "native/cuda/hopper.cuh"
#include "native/cuda/kernel.cuh"
#include "native/cuda/rows.cuh"

namespace fuselm::cuda::attention {

inline constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;
inline constexpr int64_t kLargestD = 256;

// [B, T or S, heads, D] with unit stride over D.
struct Heads {
  void* data;
  int64_t stride[3];  // in elements

  template <class T>
  __host__ __device__ T* At(int64_t b, int64_t t, int64_t h) const {
    return static_cast<T*>(data) + b * stride[0] + t * stride[1] + h * stride[2];
  }
};
inline Heads ToHeads(const View& v) { return {v.data, {v.step(0), v.step(1), v.step(2)}}; }

// i32 per query, or absent.
struct Bounds {
  const int32_t* data;
  int64_t stride[2];

  __host__ __device__ int64_t At(int64_t b, int64_t t) const {
    return data[b * stride[0] + t * stride[1]];
  }
};
inline Bounds ToBounds(const View& v) {
  if (v.data == nullptr) return {};
  return {v.as<int32_t>(), {v.step(0), v.rank > 1 ? v.step(1) : 0}};
}

// Allowed keys of one query: low <= key <= high; {0, -1} when there is none.
struct alignas(8) Interval {
  int32_t low, high;
  __host__ __device__ bool empty() const { return low > high; }
  // Of a key that is not negative; one comparison, for none is as long as 2^31.
  __host__ __device__ bool Has(int32_t key) const {
    return static_cast<uint32_t>(key - low) < static_cast<uint32_t>(high + 1 - low);
  }
};

struct Problem {
  int64_t B, T, S, H, Hkv, D, group;
  float scale, scale2;  // scale2: for base-2 exponentials
  bool causal;
  bool aligned;  // every row of q, k, v and what is like them begins at 16 bytes, D in whole packs
  int64_t window;  // keys a query sees up to its own; 0: all
  Bounds first, last;
  // With a cache k and v are rings of S slots: position x stands at x mod S. Query t of row b is at
  // position start[b] + t, and positions before start[b] + T - S are overwritten.
  Bounds start;

  // Of a row of a cache: a negative start, and a row past the cache without a window that fits, are
  // errors that only the device can see; such a row's outputs are NaN.
  __host__ __device__ bool Valid(int64_t b) const {
    if (start.data == nullptr) return true;
    const int64_t at = start.At(b, 0);
    return at >= 0 && at + T <= 0x7fffffff && (at + T <= S || (window > 0 && window + T - 1 <= S));
  }
  __host__ __device__ Interval Of(int64_t b, int64_t t) const {
    int64_t low = 0, high;
    if (start.data != nullptr) {
      const int64_t from = start.At(b, 0), oldest = from + T - S;
      high = from + t;
      low = oldest > 0 ? oldest : 0;
      if (window > 0 && high + 1 - window > low) low = high + 1 - window;
      if (first.data != nullptr && first.At(b, 0) > low) low = first.At(b, 0);
      if (!Valid(b)) return {0, -1};
    } else {
      const int64_t own = t + S - T;
      high = causal && own < S - 1 ? own : S - 1;
      if (window > 0 && own + 1 - window > low) low = own + 1 - window;
      if (last.data != nullptr && last.At(b, t) < high) high = last.At(b, t);
      if (first.data != nullptr && first.At(b, t) > low) low = first.At(b, t);
    }
    if (low > high) return {0, -1};
    return {static_cast<int32_t>(low), static_cast<int32_t>(high)};
  }

  static Problem Shapes(const View& q, const View& k, const View& v, double scale, int64_t window) {
    Require(q.rank == 4 && k.rank == 4 && v.rank == 4, ErrorCode::kShape,
            "attention: q must be [B, T, H, D], k and v [B, S, Hkv, D]");
    Problem p{};
    p.B = q.dim(0), p.T = q.dim(1), p.H = q.dim(2), p.D = q.dim(3);
    p.S = k.dim(1), p.Hkv = k.dim(2);
    Require(k.dim(0) == p.B && k.dim(3) == p.D && p.Hkv > 0 && p.H % p.Hkv == 0 && p.D > 0,
            ErrorCode::kShape, "attention: k must be [B, S, Hkv, D] with Hkv dividing H");
    Require(v.dim(0) == p.B && v.dim(1) == p.S && v.dim(2) == p.Hkv && v.dim(3) == p.D,
            ErrorCode::kShape, "attention: v must be like k");
    Require(k.dtype == q.dtype && v.dtype == q.dtype && q.step(3) == 1 && k.step(3) == 1 &&
                v.step(3) == 1,
            ErrorCode::kShape, "attention: q, k, v must have one dtype and unit stride over D");
    Require(p.S < std::numeric_limits<int32_t>::max() && p.T < std::numeric_limits<int32_t>::max(),
            ErrorCode::kShape, "attention: T and S must be below 2^31");
    Require(p.D <= kLargestD, ErrorCode::kShape, "attention: on CUDA, D must be at most 256");
    p.group = p.H / p.Hkv;
    p.scale = static_cast<float>(scale);
    Require(p.scale > 0, ErrorCode::kShape, "attention: scale must be positive");
    p.scale2 = p.scale * kLog2E;
    p.causal = true;
    p.window = window;
    Require(window >= 0, ErrorCode::kShape, "attention: window must not be negative");
    p.aligned = p.D % (16 / static_cast<int64_t>(ItemSize(q.dtype))) == 0 && RowsAligned16(q) &&
                RowsAligned16(k) && RowsAligned16(v);
    return p;
  }
  static Problem Check(const Arguments& in, const View& q, const View& k, const View& v,
                       size_t first, size_t last) {
    Problem p = Shapes(q, k, v, in.f64(0), in.i64(2));
    p.causal = in.flag(1);
    for (const size_t i : {first, last}) {
      Require(!in.has(i) || (in[i].dtype == DType::kI32 && in[i].rank == 2 && in[i].dim(0) == p.B &&
                             in[i].dim(1) == p.T),
              ErrorCode::kShape, "attention: first and last must be i32 [B, T]");
    }
    p.first = ToBounds(in[first]);
    p.last = ToBounds(in[last]);
    return p;
  }
};

// Whether warpgroup products are to be used.
inline bool OnHopper(const Arguments& in, Wgmma kernel, const Problem& p) {
  return WgmmaWanted(in, kernel) && p.aligned && p.D <= 128 && p.start.data == nullptr;
}
// Whether tensor copies can read x: no axis repeats.
inline bool Copyable(const Heads& x, int64_t rows, int64_t heads, int64_t B) {
  return (x.stride[0] > 0 || B == 1) && (x.stride[1] > 0 || rows == 1) &&
         (x.stride[2] > 0 || heads == 1);
}

inline bool LikeQuery(const View& x, const View& q) {
  return x.rank == 4 && x.dtype == q.dtype && x.dim(0) == q.dim(0) && x.dim(1) == q.dim(1) &&
         x.dim(2) == q.dim(2) && x.dim(3) == q.dim(3) && x.step(3) == 1;
}
inline bool IsLse(const View& v, const Problem& p) {
  return v.dtype == DType::kF32 && v.rank == 3 && v.dim(0) == p.B && v.dim(1) == p.H &&
         v.dim(2) == p.T && v.contiguous();
}

// The intervals of some queries, summed up to choose blocks of keys.
struct alignas(16) Span {
  int32_t low, high;            // all keys any query may see: low <= key <= high
  int32_t full_low, full_high;  // keys that every query sees

  // Of no query: the identity of Join.
  __host__ __device__ static Span None() { return {0x7fffffff, -1, 0, 0x7fffffff}; }
  __host__ __device__ static Span Of(Interval i) {
    if (i.empty()) return {0x7fffffff, -1, 0, -1};
    return {i.low, i.high, i.low, i.high};
  }
  __host__ __device__ Span Join(const Span& o) const {
    return {low < o.low ? low : o.low, high > o.high ? high : o.high,
            full_low > o.full_low ? full_low : o.full_low,
            full_high < o.full_high ? full_high : o.full_high};
  }
  __host__ __device__ bool Misses(int key, int count) const {
    return key > high || key <= low - count;
  }
  __host__ __device__ bool Covers(int key, int count) const {
    return full_low <= key && full_high - count + 1 >= key;
  }
};

__device__ __forceinline__ Span WarpJoin(Span s) {
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) {
    s = s.Join({__shfl_xor_sync(kFullMask, s.low, d), __shfl_xor_sync(kFullMask, s.high, d),
                __shfl_xor_sync(kFullMask, s.full_low, d),
                __shfl_xor_sync(kFullMask, s.full_high, d)});
  }
  return s;
}

// Row of position `key` in k or v: itself, or its slot in a ring.
__device__ __forceinline__ int SlotOf(const Problem& p, int key) {
  return p.start.data == nullptr ? key : key % static_cast<int>(p.S);
}

}  // namespace fuselm::cuda::attention
