// What forward and backward share: the checked shapes, and the key interval of every query.
#pragma once

#include <algorithm>
#include <limits>

#include "native/core/kernel.h"
#include "native/cpu/attention/block.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

inline constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;
// A masked score: far below any real one, yet finite after scaling.
inline constexpr float kMasked = -1e30f;

// Work per tile in multiply-adds, for tiles of at most about 1 ms at each level.
#if FUSELM_IS_AMX
inline constexpr int64_t kTileWork = 150'000'000;
#elif FUSELM_IS_AVX512BF16
inline constexpr int64_t kTileWork = 48'000'000;
#elif FUSELM_IS_AVX512 || FUSELM_IS_AVX2
inline constexpr int64_t kTileWork = 24'000'000;
#else
inline constexpr int64_t kTileWork = 2'500'000;
#endif

struct Problem {
  int64_t B, T, S, H, Hkv, D, group;
  float scale, scale2;  // scale2: for base-2 exponentials
  bool causal;
  const View *first, *last;  // null when absent

  static Problem Check(const Invocation& call, const View& q, const View& k, const View& v,
                       size_t first, size_t last) {
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
    p.group = p.H / p.Hkv;
    p.scale = static_cast<float>(call.f64(0));
    Require(p.scale > 0, ErrorCode::kShape, "attention: scale must be positive");
    p.scale2 = p.scale * kLog2E;
    p.causal = call.flag(1);
    for (const size_t i : {first, last}) {
      const View& x = call[i];
      Require(!call.has(i) ||
                  (x.dtype == DType::kI32 && x.rank == 2 && x.dim(0) == p.B && x.dim(1) == p.T),
              ErrorCode::kShape, "attention: first and last must be i32 [B, T]");
    }
    p.first = call.has(first) ? &call[first] : nullptr;
    p.last = call.has(last) ? &call[last] : nullptr;
    return p;
  }

  static bool LikeQuery(const View& x, const View& q) {
    return x.rank == 4 && x.dtype == q.dtype && x.dim(0) == q.dim(0) && x.dim(1) == q.dim(1) &&
           x.dim(2) == q.dim(2) && x.dim(3) == q.dim(3) && x.step(3) == 1;
  }
};

// Allowed keys of one query: low <= key <= high; empty when low > high.
struct Interval {
  int32_t low, high;
  bool empty() const { return low > high; }
};

inline Interval IntervalOf(const Problem& p, int64_t b, int64_t t) {
  const auto at = [&](const View& x) {
    return static_cast<int64_t>(x.as<int32_t>()[b * x.step(0) + t * x.step(1)]);
  };
  int64_t low = 0, high = p.S - 1;
  if (p.causal) high = std::min(high, t + p.S - p.T);
  if (p.last) high = std::min(high, at(*p.last));
  if (p.first) low = std::max(low, at(*p.first));
  if (low > high) return {0, -1};
  return {static_cast<int32_t>(low), static_cast<int32_t>(high)};
}

// The intervals of one sub-block of queries, summed up to choose blocks of keys.
struct Span {
  int32_t low, high;            // all keys any query may see: low <= key <= high
  int32_t full_low, full_high;  // keys that every query sees

  static Span Of(const Interval* rows, int64_t count) {
    constexpr int32_t kMax = std::numeric_limits<int32_t>::max();
    Span s{kMax, -1, 0, kMax};
    for (int64_t r = 0; r < count; ++r) {
      s.full_low = std::max(s.full_low, rows[r].low);
      s.full_high = std::min(s.full_high, rows[r].high);
      if (rows[r].empty()) continue;
      s.low = std::min(s.low, rows[r].low);
      s.high = std::max(s.high, rows[r].high);
    }
    return s;
  }
  bool Misses(int64_t key) const { return key > high || key + kKeys <= low; }
  // How many keys of the block at `key` matter, in whole blocks.
  int64_t Columns(int64_t key) const { return std::min(kKeys, RoundUp(high - key + 1, kBlock)); }
  bool Covers(int64_t key, int64_t columns) const {
    return full_low <= key && full_high >= key + columns - 1;
  }
};

// Masks the scores of one query outside its interval.
inline void MaskRow(float* s, Interval row, int64_t key, int64_t columns) {
  const int64_t from = std::clamp<int64_t>(row.low - key, 0, columns);
  const int64_t to = row.empty() ? 0 : std::clamp<int64_t>(row.high - key + 1, 0, columns);
  for (int64_t i = 0; i < from; ++i) s[i] = kMasked;
  for (int64_t i = to; i < columns; ++i) s[i] = kMasked;
}

// Hands out parts of one scratch block, each 64-byte aligned.
class Carver {
 public:
  explicit Carver(std::byte* base) : at_(base) {}
  template <class T>
  T* Take(int64_t count) {
    T* p = reinterpret_cast<T*>(at_);
    at_ += RoundUp(count * static_cast<int64_t>(sizeof(T)), 64);
    return p;
  }
  int64_t used(const std::byte* base) const { return at_ - base; }

 private:
  std::byte* at_;
};

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
