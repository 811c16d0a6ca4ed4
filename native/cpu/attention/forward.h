// Attention forward. A tile is one head and a chunk of queries: it walks the keys in blocks of 64,
// packs each block once and uses it for every sub-block of 32 queries, with an online softmax.
// A row's reference maximum moves only when a score passes it by 2^8: until then exponentials stay
// below 256 and nothing is rescaled.
#pragma once

#include "native/cpu/attention/problem.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

template <class Words>
struct ForwardScratch {
  using Word = typename Words::Word;
  Word *q, *rows, *k, *v, *p;
  float *s, *out, *sum, *top;
  Interval* interval;
  int64_t bytes;

  ForwardScratch(std::byte* base, int64_t chunk, int64_t D) {
    const int64_t ld = RowWords<Words>(D);
    Carver c(base);
    q = c.template Take<Word>(chunk * ld);
    rows = c.template Take<Word>(kKeys * ld);
    k = c.template Take<Word>(ld * kKeys);
    v = Words::kPack == 1 ? rows : c.template Take<Word>(kKeys * ld);
    s = c.template Take<float>(kRows * kKeys);
    p = Words::kPack == 1 ? reinterpret_cast<Word*>(s) : c.template Take<Word>(kRows * kKeys / 2);
    out = c.template Take<float>(chunk * ld * Words::kPack);
    sum = c.template Take<float>(chunk * kLanes);
    top = c.template Take<float>(chunk);
    interval = c.template Take<Interval>(chunk);
    bytes = c.used(base);
  }
};

inline bool AnyAbove(Vec a, float limit) {
#if FUSELM_HAS_AVX512
  return _mm512_cmp_ps_mask(a.v, _mm512_set1_ps(limit), _CMP_GT_OQ) != 0;
#else
  return MaxOf(a) > limit;
#endif
}

// Stores one row of probabilities as an A operand.
inline void StoreRow(float* p, const Vec* e, int64_t vectors) {
  for (int64_t i = 0; i < vectors; ++i) Store(p + i * kLanes, e[i]);
}
#if FUSELM_IS_AVX512BF16 || FUSELM_IS_AMX
inline void StoreRow(uint32_t* p, const Vec* e, int64_t vectors) {
  for (int64_t i = 0; i < vectors; ++i)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + i * 8), NarrowBf16(e[i].v));
}
#endif

// Scores of one row to probabilities; keeps the running maximum, sum and output in step.
template <int kDegree, class Word>
inline void SoftmaxRow(const float* s, Word* p, int64_t vectors, float scale2, float* top,
                       float* sum, float* out, int64_t out_width) {
  Vec e[kKeys / kLanes];
  Vec best = e[0] = Load(s);
  for (int64_t i = 1; i < vectors; ++i) best = Max(best, e[i] = Load(s + i * kLanes));
  best = best * Set(scale2);
  if (AnyAbove(best, *top + 8.0f)) {
    const float before = *top;
    *top = MaxOf(best);
    if (before != -std::numeric_limits<float>::infinity()) {
      const Vec shrink = Exp2<kDegree>(Set(before - *top));
      Store(sum, Load(sum) * shrink);
      for (int64_t i = 0; i < out_width; i += kLanes) Store(out + i, Load(out + i) * shrink);
    }
  }
  const Vec c = Set(scale2), m = Set(*top);
  Vec total = Load(sum);
  for (int64_t i = 0; i < vectors; ++i) {
    e[i] = Exp2<kDegree>(Fma(e[i], c, Zero() - m));
    total = total + e[i];
  }
  Store(sum, total);
  StoreRow(p, e, vectors);
}

template <class Words, class T>
void ForwardTile(const Problem& p, const View& q, const View& k, const View& v, const View& out,
                 float* lse, const ForwardScratch<Words>& w, int64_t b, int64_t h, int64_t t0,
                 int64_t count) {
  constexpr int kDegree = sizeof(T) == 2 ? 3 : 5;
  const int64_t ld = RowWords<Words>(p.D), width = ld * Words::kPack;
  const int64_t depth = (p.D + Words::kPack - 1) / Words::kPack;
  const int64_t used = RoundUp(p.D, kLanes), padded = RoundUp(count, kRows);
  const int64_t kv = h / p.group;
  const T* const q0 = q.as<T>() + b * q.step(0) + t0 * q.step(1) + h * q.step(2);

  PackRows<Words>(q0, q.step(1), count, padded, p.D, w.q, ld);
  std::memset(w.out, 0, padded * width * sizeof(float));
  std::memset(w.sum, 0, padded * kLanes * sizeof(float));
  for (int64_t r = 0; r < padded; ++r) {
    w.top[r] = -std::numeric_limits<float>::infinity();
    w.interval[r] = r < count ? IntervalOf(p, b, t0 + r) : Interval{0, -1};
  }
  const Span all = Span::Of(w.interval, padded);
  for (int64_t key = std::max(all.low, 0) / kKeys * kKeys; key <= all.high; key += kKeys) {
    const int64_t keys = std::min<int64_t>(kKeys, all.high + 1 - key);
    PackKeys<Words, T>(p, k, b, kv, key, keys, w.rows, ld);
    Turn(w.rows, ld, w.k);
    PackKeys<Words, T>(p, v, b, kv, key, keys, w.rows, ld);
    Pair<Words>(w.rows, ld, kKeys, w.v);
    for (int64_t i = 0; i < padded; i += kRows) {
      const Span span = Span::Of(w.interval + i, kRows);
      if (span.Misses(key)) continue;
      const int64_t columns = span.Columns(key), vectors = columns / kLanes;
      const bool covered = span.Covers(key, columns);
      Product<Words>(w.q + i * ld, ld, 1, w.k, kKeys, w.s, kKeys, kRows, columns, depth, false);
      for (int64_t r = 0; r < kRows; ++r) {
        float* const s = w.s + r * kKeys;
        auto* const probabilities = w.p + r * (kKeys / Words::kPack);
        if (!covered) {
          const Interval row = w.interval[i + r];
          if (row.empty() || row.low >= key + columns || row.high < key) {
            std::memset(probabilities, 0, columns / Words::kPack * sizeof(*probabilities));
            continue;
          }
          MaskRow(s, row, key, columns);
        }
        SoftmaxRow<kDegree>(s, probabilities, vectors, p.scale2, w.top + i + r,
                            w.sum + (i + r) * kLanes, w.out + (i + r) * width, used);
      }
      Product<Words>(w.p, kKeys / Words::kPack, 1, w.v, width, w.out + i * width, width, kRows, p.D,
                     columns / Words::kPack, true);
    }
  }

  T* const o = out.as<T>() + b * out.step(0) + t0 * out.step(1) + h * out.step(2);
  for (int64_t r = 0; r < count; ++r) {
    const float total = Sum(Load(w.sum + r * kLanes));
    const bool empty = w.interval[r].empty();
    const Vec inverse = Set(empty ? 0.0f : 1.0f / total);
    T* const row = o + r * out.step(1);
    for (int64_t i = 0; i < p.D; i += kLanes)
      StoreN(row + i, Load(w.out + r * width + i) * inverse, p.D - i);
    if (lse)
      lse[(b * p.H + h) * p.T + t0 + r] =
          empty ? -std::numeric_limits<float>::infinity() : w.top[r] * kLn2 + std::log(total);
  }
}

template <class Words, class T>
void RunForward(Invocation& call, const Problem& p, const View& q, const View& k, const View& v,
                const View& out, float* lse) {
  if (p.B == 0 || p.T == 0 || p.H == 0) return;
  const int64_t work = kTileWork / std::max<int64_t>(1, 2 * p.S * p.D);
  const int64_t chunk = std::clamp<int64_t>(work / kRows * kRows, kRows, 256);
  const int64_t chunks = (p.T + chunk - 1) / chunk;
  const int64_t bytes = ForwardScratch<Words>(nullptr, chunk, p.D).bytes;
  call.ReserveScratch(bytes);
  call.ParallelFor(p.B * p.H * chunks, [&](int64_t tile, int worker) {
    const TileRegisters registers;
    const ForwardScratch<Words> scratch(call.Scratch<std::byte>(worker, bytes), chunk, p.D);
    // late queries see the most keys when causal: start with them
    const int64_t t0 = (chunks - 1 - tile % chunks) * chunk, head = tile / chunks;
    ForwardTile<Words, T>(p, q, k, v, out, lse, scratch, head / p.H, head % p.H, t0,
                          std::min(chunk, p.T - t0));
  });
}

// attention(q, k, v, first?, last?) -> (out, lse?) [scale, causal, window]
template <class Words, class T>
void ForwardAttention(Invocation& call) {
  const View &q = call[0], &k = call[1], &v = call[2], &out = call[5], &lse = call[6];
  const Problem p = Problem::Check(call, q, k, v, 3, 4);
  Require(Problem::LikeQuery(out, q), ErrorCode::kShape, "attention: out must be like q");
  Require(!call.has(6) || (lse.dtype == DType::kF32 && lse.rank == 3 && lse.dim(0) == p.B &&
                           lse.dim(1) == p.H && lse.dim(2) == p.T && lse.contiguous()),
          ErrorCode::kShape, "attention: lse must be f32 [B, H, T]");
  RunForward<Words, T>(call, p, q, k, v, out, call.has(6) ? lse.as<float>() : nullptr);
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
