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
  float* s;
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
    interval = c.template Take<Interval>(chunk);
    bytes = c.used(base);
  }
};

// What a chunk of queries carries from key to key: its output so far, the sums and maxima.
struct ForwardState {
  float *out, *sum, *top;
  int64_t bytes;

  ForwardState(std::byte* base, int64_t chunk, int64_t width) {
    Carver c(base);
    out = c.Take<float>(chunk * width);
    sum = c.Take<float>(chunk * kLanes);
    top = c.Take<float>(chunk);
    bytes = c.used(base);
  }
};

// Positions of keys [begin, end) that a tile walks. `first` begins the state of its queries and
// `last` writes their output: both, unless a chunk sees too many keys for one tile.
struct KeyRange {
  int64_t begin, end;
  bool first, last;
};

inline constexpr int64_t kMaxChunk = 256;         // queries of a tile
inline constexpr int64_t kStateBytes = 32 << 20;  // of unfinished queries

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
                 float* lse, const ForwardScratch<Words>& w, const ForwardState& state,
                 const KeyRange& range, int64_t b, int64_t h, int64_t t0, int64_t count) {
  constexpr int kDegree = sizeof(T) == 2 ? 3 : 5;
  const int64_t ld = RowWords<Words>(p.D), width = ld * Words::kPack;
  const int64_t depth = (p.D + Words::kPack - 1) / Words::kPack;
  const int64_t used = RoundUp(p.D, kLanes), padded = RoundUp(count, kRows);
  const int64_t kv = h / p.group;
  const T* const q0 = q.as<T>() + b * q.step(0) + t0 * q.step(1) + h * q.step(2);

  for (int64_t r = 0; r < padded; ++r)
    w.interval[r] = r < count ? IntervalOf(p, b, t0 + r) : Interval{0, -1};
  if (range.first) {
    std::memset(state.out, 0, padded * width * sizeof(float));
    std::memset(state.sum, 0, padded * kLanes * sizeof(float));
    std::fill_n(state.top, padded, -std::numeric_limits<float>::infinity());
  }
  const Span all = Span::Of(w.interval, padded);
  const int64_t key_begin = std::max<int64_t>(range.begin, std::max(all.low, 0) / kKeys * kKeys);
  const int64_t key_end = std::min<int64_t>(range.end, all.high + 1);
  if (key_begin < key_end) PackRows<Words>(q0, q.step(1), count, padded, p.D, w.q, ld);
  for (int64_t key = key_begin; key < key_end; key += kKeys) {
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
        SoftmaxRow<kDegree>(s, probabilities, vectors, p.scale2, state.top + i + r,
                            state.sum + (i + r) * kLanes, state.out + (i + r) * width, used);
      }
      Product<Words>(w.p, kKeys / Words::kPack, 1, w.v, width, state.out + i * width, width, kRows,
                     p.D, columns / Words::kPack, true);
    }
  }

  if (!range.last) return;
  T* const o = out.as<T>() + b * out.step(0) + t0 * out.step(1) + h * out.step(2);
  for (int64_t r = 0; r < count; ++r) {
    const float total = Sum(Load(state.sum + r * kLanes));
    const bool empty = w.interval[r].empty();
    const Vec inverse = Set(empty ? 0.0f : 1.0f / total);
    T* const row = o + r * out.step(1);
    for (int64_t i = 0; i < p.D; i += kLanes)
      StoreN(row + i, Load(state.out + r * width + i) * inverse, p.D - i);
    if (lse)
      lse[(b * p.H + h) * p.T + t0 + r] =
          empty ? -std::numeric_limits<float>::infinity() : state.top[r] * kLn2 + std::log(total);
  }
}

template <class Words, class T>
void RunForward(Invocation& call, const Problem& p, const View& q, const View& k, const View& v,
                const View& out, float* lse) {
  if (p.B == 0 || p.T == 0 || p.H == 0) return;
  const int64_t width = RowWords<Words>(p.D) * Words::kPack;
  // Of the keys, a window shows a chunk of queries a band.
  const int64_t seen = p.window ? std::min(p.S, p.window + kMaxChunk) : p.S;
  const int64_t per_key = 2 * p.D;  // multiply-adds of a query
  const int64_t work = kTileWork / std::max<int64_t>(1, seen * per_key);
  const int64_t chunk = std::clamp<int64_t>(work / kRows * kRows, kRows, kMaxChunk);
  const int64_t chunks = (p.T + chunk - 1) / chunk, units = p.B * p.H * chunks;
  // When even the smallest chunk is too much for a tile, the keys are cut as well: segments run one
  // after another, for as many chunks at a time as a bounded workspace has state for.
  const bool whole = seen * per_key * kRows <= kTileWork;
  const int64_t segment = whole ? RoundUp(p.S + kKeys, kKeys)
                                : std::max(kKeys, kTileWork / (per_key * kRows) / kKeys * kKeys);
  const int64_t segments = whole ? 1 : (p.S + kKeys + segment - 1) / segment;
  const int64_t scratch_bytes = ForwardScratch<Words>(nullptr, chunk, p.D).bytes;
  const int64_t state_bytes = ForwardState(nullptr, chunk, width).bytes;
  const int64_t wave = whole ? units : std::clamp<int64_t>(kStateBytes / state_bytes, 1, units);
  std::byte* const states = whole ? nullptr : call.Workspace<std::byte>(wave * state_bytes);
  call.ReserveScratch(scratch_bytes + (whole ? state_bytes : 0));
  for (int64_t base = 0; base < units; base += wave)
    for (int64_t i = 0; i < segments; ++i)
      call.ParallelFor(std::min(wave, units - base), [&](int64_t tile, int worker) {
        const TileRegisters registers;
        std::byte* const memory =
            call.Scratch<std::byte>(worker, scratch_bytes + (whole ? state_bytes : 0));
        const ForwardScratch<Words> scratch(memory, chunk, p.D);
        const ForwardState state(whole ? memory + scratch_bytes : states + tile * state_bytes,
                                 chunk, width);
        // late queries see the most keys when causal: start with them
        const int64_t unit = base + tile, head = unit / chunks, b = head / p.H;
        const int64_t t0 = (chunks - 1 - unit % chunks) * chunk;
        const int64_t from = p.Oldest(b) / kKeys * kKeys + i * segment;
        const KeyRange range{from, from + segment, i == 0, i == segments - 1};
        ForwardTile<Words, T>(p, q, k, v, out, lse, scratch, state, range, b, head % p.H, t0,
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
