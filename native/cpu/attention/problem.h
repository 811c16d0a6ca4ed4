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
  int64_t window;            // keys a query sees up to its own; 0: all
  const View *first, *last;  // null when absent
  // With a cache, k and v are rings of S slots: position x stands at x mod S. Query t of row b is
  // at position start[b] + t, and positions before start[b] + T - S are overwritten.
  const View* start = nullptr;

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
    p.group = p.H / p.Hkv;
    p.scale = static_cast<float>(scale);
    Require(p.scale > 0, ErrorCode::kShape, "attention: scale must be positive");
    p.scale2 = p.scale * kLog2E;
    p.causal = true;
    p.window = window;
    Require(window >= 0, ErrorCode::kShape, "attention: window must not be negative");
    return p;
  }

  static Problem Check(const Invocation& call, const View& q, const View& k, const View& v,
                       size_t first, size_t last) {
    Problem p = Shapes(q, k, v, call.f64(0), call.i64(2));
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

  // The oldest position that a row of a cache still holds.
  int64_t Oldest(int64_t b) const {
    return start ? std::max<int64_t>(0, start->as<int32_t>()[b * start->step(0)] + T - S) : 0;
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
  int64_t low = 0, high;
  if (p.start) {
    const int64_t start = p.start->as<int32_t>()[b * p.start->step(0)];
    high = start + t;
    low = p.Oldest(b);
    if (p.window) low = std::max(low, high + 1 - p.window);
    if (p.first) low = std::max<int64_t>(low, p.first->as<int32_t>()[b * p.first->step(0)]);
  } else {
    const int64_t own = t + p.S - p.T;
    high = p.causal ? std::min(p.S - 1, own) : p.S - 1;
    if (p.window) low = std::max(low, own + 1 - p.window);
    if (p.last) high = std::min(high, at(*p.last));
    if (p.first) low = std::max(low, at(*p.first));
  }
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

// `count` rows of k or v from position `key` on, then zero rows up to kKeys. A ring may wrap.
template <class Words, class T>
inline void PackKeys(const Problem& p, const View& x, int64_t b, int64_t head, int64_t key,
                     int64_t count, typename Words::Word* to, int64_t ld) {
  const T* const from = x.as<T>() + b * x.step(0) + head * x.step(2);
  if (!p.start)
    return PackRows<Words>(from + key * x.step(1), x.step(1), count, kKeys, p.D, to, ld);
  const int64_t slot = key % p.S, part = std::min(count, p.S - slot);
  PackRows<Words>(from + slot * x.step(1), x.step(1), part, part, p.D, to, ld);
  for (int64_t r = part; r < count; r += p.S)  // a ring may be smaller than a block
    PackRows<Words>(from, x.step(1), std::min(p.S, count - r), std::min(p.S, count - r), p.D,
                    to + r * ld, ld);
  std::memset(to + count * ld, 0, (kKeys - count) * ld * sizeof(*to));
}

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
