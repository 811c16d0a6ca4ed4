// Attention of a few queries over a cache: bound by reading it once. A tile is one key head and a
// chunk of positions; it serves all queries of the head's group, so grouped heads share every load.
// Chunks stand at fixed positions and their partial results are joined in order, so a row's result
// depends on its own keys alone: the same in any batch, with any number of threads.
#pragma once

#include <limits>

#include "native/cpu/attention/problem.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

inline constexpr int64_t kDecodeChunk = 256;  // positions of a tile
inline constexpr int64_t kDecodeQueries = 8;  // more than these take the blocked kernel
inline constexpr int64_t kDecodeRows = 64;    // queries x group

inline constexpr int kDecodeVectors = 4;  // of a row of values, held at a time

inline bool FewQueries(const Problem& p) {
  return p.T == 1 || (p.T <= kDecodeQueries && p.T * p.group <= kDecodeRows);
}

// Queries a micro-kernel serves at once: as many as the level has registers for.
#if FUSELM_HAS_AVX512
inline constexpr int kDecodeAtOnce = 4;
#else
inline constexpr int kDecodeAtOnce = 2;
#endif

// out[j] = the sum of the lanes of a[j]
inline void SumFour(const Vec (&a)[4], float* out) {
#if FUSELM_HAS_AVX512
  const auto fold = [](__m512 x, __m512 y) {
    return _mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
  };
  const __m512 ab = fold(a[0].v, a[1].v), cd = fold(a[2].v, a[3].v);
  const __m512 all =
      _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#elif FUSELM_IS_AVX2
  const __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(a[0].v, a[1].v), _mm256_hadd_ps(a[2].v, a[3].v));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
#else
  for (int j = 0; j < 4; ++j) out[j] = Sum(a[j]);
#endif
}

// Scores of kRowsAtOnce queries with up to four keys: k points to a row, q to rows of `padded`
// floats, s to rows of kDecodeChunk scores. With fewer keys the last is read again.
template <int kRowsAtOnce, class T>
inline void DecodeScores(const T* k, int64_t stride, int64_t keys, const float* q, int64_t padded,
                         int64_t D, float* s) {
  const T* row[4];
  for (int64_t j = 0; j < 4; ++j) row[j] = k + std::min(j, keys - 1) * stride;
  Vec acc[kRowsAtOnce][4];
  for (auto& a : acc)
    for (Vec& x : a) x = Zero();
  const int64_t whole = D / kLanes * kLanes;
  const auto step = [&](int64_t d, auto&& load) {
    Vec x[4];
    for (int j = 0; j < 4; ++j) x[j] = load(row[j] + d);
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const Vec y = Load(q + r * padded + d);
      for (int j = 0; j < 4; ++j) acc[r][j] = Fma(x[j], y, acc[r][j]);
    }
  };
  for (int64_t d = 0; d < whole; d += kLanes) step(d, [](const T* p) { return Load(p); });
  if (whole < D) step(whole, [&](const T* p) { return LoadN(p, D - whole); });
  for (int r = 0; r < kRowsAtOnce; ++r) {
    alignas(16) float sums[4];
    SumFour(acc[r], sums);
    for (int64_t j = 0; j < keys; ++j) s[r * kDecodeChunk + j] = sums[j];
  }
}

// out[r][0 .. kVectors) += sum over n keys of s[r][key] v[key]
template <int kRowsAtOnce, int kVectors, class T>
inline void DecodeValues(const T* v, int64_t stride, int64_t n, const float* s, float* out,
                         int64_t padded, int64_t left) {
  Vec acc[kRowsAtOnce][kVectors];
  for (int r = 0; r < kRowsAtOnce; ++r)
    for (int j = 0; j < kVectors; ++j) acc[r][j] = Load(out + r * padded + j * kLanes);
  const bool whole = left >= kVectors * kLanes;
  for (int64_t i = 0; i < n; ++i, v += stride) {
    Vec x[kVectors];
    if (whole)
      for (int j = 0; j < kVectors; ++j) x[j] = Load(v + j * kLanes);
    else
      for (int j = 0; j < kVectors; ++j)
        x[j] = j * kLanes < left ? LoadN(v + j * kLanes, left - j * kLanes) : Zero();
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const Vec weight = Set(s[r * kDecodeChunk + i]);
      for (int j = 0; j < kVectors; ++j) acc[r][j] = Fma(weight, x[j], acc[r][j]);
    }
  }
  for (int r = 0; r < kRowsAtOnce; ++r)
    for (int j = 0; j < kVectors; ++j) Store(out + r * padded + j * kLanes, acc[r][j]);
}

// Runs f<n>(row) for as many rows at once as there are registers for, then for the rest.
template <class F>
inline void ByRows(int64_t rows, F&& f) {
  int64_t r = 0;
  if constexpr (kDecodeAtOnce == 4)
    for (; r + 4 <= rows; r += 4) f.template operator()<4>(r);
  for (; r + 2 <= rows; r += 2) f.template operator()<2>(r);
  for (; r < rows; ++r) f.template operator()<1>(r);
}

// Floats of one query's row in scratch and workspace.
inline int64_t DecodeWidth(int64_t D) { return RoundUp(D, kDecodeVectors * kLanes); }

// What a chunk leaves of one query: exp2(scores - top) summed, and that times the values.
struct Partial {
  float top, sum;
};

struct DecodeScratch {
  float *q, *s;
  int64_t bytes;
  DecodeScratch(std::byte* base, int64_t rows, int64_t padded) {
    Carver c(base);
    q = c.Take<float>(rows * padded);
    s = c.Take<float>(rows * kDecodeChunk);
    bytes = c.used(base);
  }
};

// One chunk of positions [from, to] for `rows` queries; interval[row / group] is what each may see.
template <class T>
void DecodeTile(const Problem& p, const View& q, const View& k, const View& v, int64_t b,
                int64_t kv, int64_t from, int64_t to, const Interval* interval,
                const DecodeScratch& w, Partial* partial, float* out) {
  constexpr int kDegree = sizeof(T) == 2 ? 3 : 5;
  const int64_t rows = p.T * p.group, padded = DecodeWidth(p.D);
  for (int64_t r = 0; r < rows; ++r) {
    const T* x = q.as<T>() + b * q.step(0) + r / p.group * q.step(1) +
                 (kv * p.group + r % p.group) * q.step(2);
    for (int64_t d = 0; d < p.D; d += kLanes)
      Store(w.q + r * padded + d, LoadN(x + d, p.D - d) * Set(p.scale2));
  }
  std::memset(out, 0, rows * padded * sizeof(float));
  const T* const k0 = k.as<T>() + b * k.step(0) + kv * k.step(2);
  const T* const v0 = v.as<T>() + b * v.step(0) + kv * v.step(2);
  // A ring gives at most a few runs of neighbouring slots.
  const auto for_runs = [&](auto&& f) {
    for (int64_t at = from; at <= to;) {
      const int64_t slot = at % p.S, n = std::min(to + 1 - at, p.S - slot);
      f(slot, at - from, n);
      at += n;
    }
  };
  for_runs([&](int64_t slot, int64_t column, int64_t n) {
    const T* const keys = k0 + slot * k.step(1);
    ByRows(rows, [&]<int kRowsAtOnce>(int64_t r) {
      const float* const query = w.q + r * padded;
      float* const s = w.s + r * kDecodeChunk + column;
      for (int64_t i = 0; i < n; i += 4)
        DecodeScores<kRowsAtOnce>(keys + i * k.step(1), k.step(1), std::min<int64_t>(4, n - i),
                                  query, padded, p.D, s + i);
    });
  });
  const int64_t count = to + 1 - from, filled = RoundUp(count, kLanes);
  for (int64_t r = 0; r < rows; ++r) {
    float* const s = w.s + r * kDecodeChunk;
    const Interval see = interval[r / p.group];
    for (int64_t i = 0; i < filled; ++i)
      if (i >= count || from + i < see.low || from + i > see.high) s[i] = kMasked;
    Vec best = Load(s);
    for (int64_t i = kLanes; i < filled; i += kLanes) best = Max(best, Load(s + i));
    const float top = MaxOf(best);
    if (see.empty() || top <= kMasked) {
      partial[r] = {-std::numeric_limits<float>::infinity(), 0};
      std::memset(s, 0, filled * sizeof(float));
      continue;
    }
    Vec sum = Zero();
    for (int64_t i = 0; i < filled; i += kLanes) {
      const Vec e = Exp2<kDegree>(Load(s + i) - Set(top));
      sum = sum + e;
      Store(s + i, e);
    }
    partial[r] = {top, Sum(sum)};
  }
  for_runs([&](int64_t slot, int64_t column, int64_t n) {
    const T* const values = v0 + slot * v.step(1);
    ByRows(rows, [&]<int kRowsAtOnce>(int64_t r) {
      for (int64_t d = 0; d < padded; d += kDecodeVectors * kLanes)
        DecodeValues<kRowsAtOnce, kDecodeVectors>(values + d, v.step(1), n,
                                                  w.s + r * kDecodeChunk + column,
                                                  out + r * padded + d, padded, p.D - d);
    });
  });
}

// Joins a query's partial results in the order of their chunks.
template <class T>
void JoinPartials(const Partial* partial, int64_t partial_step, const float* sums,
                  int64_t sums_step, int64_t n, int64_t D, T* out) {
  // a chunk without keys has sum 0; a NaN is not 0 and reaches the output
  float top = -std::numeric_limits<float>::infinity(), total = 0;
  for (int64_t c = 0; c < n; ++c) top = std::max(top, partial[c * partial_step].top);
  for (int64_t c = 0; c < n; ++c) {
    const Partial& x = partial[c * partial_step];
    if (x.sum != 0) total += x.sum * std::exp2(x.top - top);
  }
  for (int64_t d = 0; d < D; d += kLanes) {
    Vec sum = Zero();
    for (int64_t c = 0; c < n; ++c) {
      const Partial& x = partial[c * partial_step];
      if (x.sum != 0)
        sum = Fma(Set(std::exp2(x.top - top) / total), Load(sums + c * sums_step + d), sum);
    }
    StoreN(out + d, sum, D - d);
  }
}

template <class T>
void Decode(Invocation& call, const Problem& p, const View& q, const View& k, const View& v,
            const View& out) {
  const int64_t rows = p.T * p.group, width = DecodeWidth(p.D);
  Interval* const interval = call.Workspace<Interval>(p.B * p.T);
  Span* const span = call.Workspace<Span>(p.B);
  int64_t chunks = 1;
  for (int64_t b = 0; b < p.B; ++b) {
    for (int64_t t = 0; t < p.T; ++t) interval[b * p.T + t] = IntervalOf(p, b, t);
    span[b] = Span::Of(interval + b * p.T, p.T);
    if (span[b].high >= span[b].low)
      chunks =
          std::max<int64_t>(chunks, span[b].high / kDecodeChunk - span[b].low / kDecodeChunk + 1);
  }
  const int64_t heads = p.B * p.Hkv;
  Partial* const partial = call.Workspace<Partial>(heads * chunks * rows);
  float* const sums = call.Workspace<float>(heads * chunks * rows * width);
  const int64_t bytes = DecodeScratch(nullptr, rows, width).bytes;
  call.ReserveScratch(bytes);
  call.ParallelFor(heads * chunks, [&](int64_t tile, int worker) {
    const int64_t b = tile / chunks / p.Hkv, kv = tile / chunks % p.Hkv;
    const Span& all = span[b];
    const int64_t begin = (std::max(all.low, 0) / kDecodeChunk + tile % chunks) * kDecodeChunk;
    const int64_t from = std::max<int64_t>(begin, all.low);
    const int64_t to = std::min<int64_t>(begin + kDecodeChunk - 1, all.high);
    Partial* const mine = partial + tile * rows;
    if (all.high < all.low || from > to) {
      for (int64_t r = 0; r < rows; ++r) mine[r] = {-std::numeric_limits<float>::infinity(), 0};
      return;
    }
    const DecodeScratch scratch(call.Scratch<std::byte>(worker, bytes), rows, width);
    DecodeTile<T>(p, q, k, v, b, kv, from, to, interval + b * p.T, scratch, mine,
                  sums + tile * rows * width);
  });
  call.ParallelFor(heads, [&](int64_t head, int) {
    const int64_t b = head / p.Hkv, kv = head % p.Hkv;
    for (int64_t r = 0; r < rows; ++r)
      JoinPartials(partial + head * chunks * rows + r, rows,
                   sums + (head * chunks * rows + r) * width, rows * width, chunks, p.D,
                   out.as<T>() + b * out.step(0) + r / p.group * out.step(1) +
                       (kv * p.group + r % p.group) * out.step(2));
  });
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
