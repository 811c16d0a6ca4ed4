// Attention backward: P is made again from the saved log-sum-exp, then
//   dV = P^T dO    dS = P (dO V^T - delta)    dK = dS^T Q    dQ = dS K    delta = sum(dO * O)
//
// Work is cut into pairs of a chunk of queries and a chunk of keys. Rounds run one after another;
// in round r, key chunk i meets query chunk (i + r) mod n, so within a round every chunk of dQ, dK
// and dV has one writer, and over the rounds its sums have one order: bitwise equal on any number
// of threads, without atomics and without a second recomputation. With grouped heads the query
// chunks of all heads of a group count as one list. Sums are float32, in workspaces.
//
// On AMX both operands of a product have one layout each, so dV and dK are summed transposed, as
// dV^T = dO^T P and dK^T = Q^T dS per block of keys: P and dS, paired along the queries, are B
// operands as they come, and nothing is transposed per block but the result, once, at the end.
#pragma once

#include "native/cpu/attention/problem.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// Two rows of a vector as one row of pairs along the queries: words (a[i], b[i]).
#if FUSELM_IS_AVX512BF16 || FUSELM_IS_AMX
inline __m512i InterleaveRows(Vec a, Vec b) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b.v, a.v));
}
#endif

#if FUSELM_IS_AMX
inline constexpr bool kTransposedSums = true;
#else
inline constexpr bool kTransposedSums = false;
#endif

// kRows / 2 paired rows [kRows / 2][width] to [width][kRows / 2].
template <class Word>
inline void TurnPairs(const Word* pairs, int64_t width, Word* to) {
  for (int64_t c = 0; c < width; c += kLanes)
    TransposeBlock(pairs + c, width, to + c * (kRows / 2), kRows / 2);
}

struct RowStats {
  float lse2, delta;
};

// P and dS of two rows from their scores and dP, in the layouts the three products read.
template <class Words, int kDegree>
inline void GradientRows(const float* s, const float* dp, const RowStats* stats, float scale2,
                         int64_t vectors, typename Words::Word* p_turned,
                         typename Words::Word* ds_turned, typename Words::Word* ds_rows) {
  const Vec c = Set(scale2), l0 = Set(stats[0].lse2), l1 = Set(stats[1].lse2);
  const Vec d0 = Set(stats[0].delta), d1 = Set(stats[1].delta);
  for (int64_t v = 0; v < vectors; ++v) {
    const int64_t i = v * kLanes;
    const Vec p0 = Exp2<kDegree>(Load(s + i) * c - l0);
    const Vec p1 = Exp2<kDegree>(Load(s + kKeys + i) * c - l1);
    const Vec g0 = p0 * (Load(dp + i) - d0), g1 = p1 * (Load(dp + kKeys + i) - d1);
    if constexpr (Words::kPack == 1) {
      Store(p_turned + i, p0);
      Store(p_turned + kKeys + i, p1);
      Store(ds_rows + i, g0);
      Store(ds_rows + kKeys + i, g1);
    } else {
#if FUSELM_IS_AVX512BF16 || FUSELM_IS_AMX
      _mm512_storeu_si512(p_turned + i, InterleaveRows(p0, p1));
      _mm512_storeu_si512(ds_turned + i, InterleaveRows(g0, g1));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(ds_rows + i / 2), NarrowBf16(g0.v));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(ds_rows + kKeys / 2 + i / 2),
                          NarrowBf16(g1.v));
#endif
    }
  }
  (void)ds_turned;
}

template <class Words>
struct BackwardScratch {
  using Word = typename Words::Word;
  Word *q_turned, *dout_turned;                           // AMX: per sub-block [2 ld][kRows / 2]
  Word *q, *q_pairs, *dout, *dout_pairs;                  // of the chunk of queries
  Word *k_rows, *k_turned, *k_pairs, *v_rows, *v_turned;  // of one block of keys
  Word *p_turned, *ds_turned, *ds_rows;                   // of one sub-block
  float *s, *dp;
  RowStats* stats;
  Interval* interval;
  int64_t bytes;

  BackwardScratch(std::byte* base, int64_t chunk, int64_t D) {
    constexpr bool kFloat = Words::kPack == 1;
    const int64_t ld = RowWords<Words>(D);
    Carver c(base);
    q_turned = kTransposedSums ? c.template Take<Word>(chunk * ld) : nullptr;
    dout_turned = kTransposedSums ? c.template Take<Word>(chunk * ld) : nullptr;
    q = c.template Take<Word>(chunk * ld);
    q_pairs = kFloat ? q : c.template Take<Word>(chunk * ld);
    dout = c.template Take<Word>(chunk * ld);
    dout_pairs = kFloat ? dout : c.template Take<Word>(chunk * ld);
    k_rows = c.template Take<Word>(kKeys * ld);
    k_turned = c.template Take<Word>(kKeys * ld);
    k_pairs = kFloat ? k_rows : c.template Take<Word>(kKeys * ld);
    v_rows = c.template Take<Word>(kKeys * ld);
    v_turned = c.template Take<Word>(kKeys * ld);
    s = c.template Take<float>(kRows * kKeys);
    dp = c.template Take<float>(kRows * kKeys);
    p_turned = kFloat ? reinterpret_cast<Word*>(s) : c.template Take<Word>(kRows / 2 * kKeys);
    ds_rows = kFloat ? reinterpret_cast<Word*>(dp) : c.template Take<Word>(kRows * kKeys / 2);
    ds_turned = kFloat ? ds_rows : c.template Take<Word>(kRows / 2 * kKeys);
    stats = c.template Take<RowStats>(chunk);
    interval = c.template Take<Interval>(chunk);
    bytes = c.used(base);
  }
};

struct BackwardArgs {
  Problem p;
  const View *dout, *q, *k, *v, *out;
  const float* lse;        // [B, H, T]
  float *dq, *dk, *dv;     // workspaces [heads][rows][width], float32
  int64_t width;           // floats of one row in them
  int64_t rows_q, rows_k;  // rows of one head in them
};

template <class Words, class T>
void BackwardTile(const BackwardArgs& a, const BackwardScratch<Words>& w, int64_t b, int64_t h,
                  int64_t t0, int64_t queries, int64_t s0, int64_t keys) {
  constexpr int kDegree = sizeof(T) == 2 ? 3 : 5;
  const Problem& p = a.p;
  const int64_t ld = RowWords<Words>(p.D), width = a.width, padded = RoundUp(queries, kRows);
  const int64_t depth = (p.D + Words::kPack - 1) / Words::kPack;
  const int64_t kv = h / p.group;
  const auto row = [](const View& x, int64_t b, int64_t t, int64_t h) {
    return x.as<T>() + b * x.step(0) + t * x.step(1) + h * x.step(2);
  };

  for (int64_t r = 0; r < padded; ++r)
    w.interval[r] = r < queries ? IntervalOf(p, b, t0 + r) : Interval{0, -1};
  const Span all = Span::Of(w.interval, padded);
  const int64_t key_begin = std::max<int64_t>(s0, std::max(all.low, 0) / kKeys * kKeys);
  const int64_t key_end = std::min<int64_t>(s0 + keys, all.high + 1);
  if (key_begin >= key_end) return;

  PackRows<Words>(row(*a.q, b, t0, h), a.q->step(1), queries, padded, p.D, w.q, ld);
  PackRows<Words>(row(*a.dout, b, t0, h), a.dout->step(1), queries, padded, p.D, w.dout, ld);
  Pair<Words>(w.q, ld, padded, w.q_pairs);
  Pair<Words>(w.dout, ld, padded, w.dout_pairs);
  if constexpr (kTransposedSums) {
    for (int64_t i = 0; i < padded; i += kRows) {
      TurnPairs(w.q_pairs + i * ld, width, w.q_turned + i * ld);
      TurnPairs(w.dout_pairs + i * ld, width, w.dout_turned + i * ld);
    }
  }
  for (int64_t r = 0; r < padded; ++r) {
    w.stats[r] = {0, 0};
    if (w.interval[r].empty()) continue;
    const T *o = row(*a.out, b, t0 + r, h), *g = row(*a.dout, b, t0 + r, h);
    Vec sum = Zero();
    for (int64_t i = 0; i < p.D; i += kLanes)
      sum = Fma(LoadN(o + i, p.D - i), LoadN(g + i, p.D - i), sum);
    w.stats[r] = {a.lse[(b * p.H + h) * p.T + t0 + r] * kLog2E, Sum(sum)};
  }

  float* const dq = a.dq + ((b * p.H + h) * a.rows_q + t0) * width;
  for (int64_t key = key_begin; key < key_end; key += kKeys) {
    const int64_t count = std::min(kKeys, p.S - key);
    PackRows<Words>(row(*a.k, b, key, kv), a.k->step(1), count, kKeys, p.D, w.k_rows, ld);
    Turn(w.k_rows, ld, w.k_turned);
    Pair<Words>(w.k_rows, ld, kKeys, w.k_pairs);
    PackRows<Words>(row(*a.v, b, key, kv), a.v->step(1), count, kKeys, p.D, w.v_rows, ld);
    Turn(w.v_rows, ld, w.v_turned);
    float* const dk = a.dk + ((b * p.Hkv + kv) * a.rows_k + key) * width;
    float* const dv = a.dv + ((b * p.Hkv + kv) * a.rows_k + key) * width;
    for (int64_t i = 0; i < padded; i += kRows) {
      const Span span = Span::Of(w.interval + i, kRows);
      if (span.Misses(key)) continue;
      const int64_t columns = span.Columns(key), vectors = columns / kLanes;
      Product<Words>(w.q + i * ld, ld, 1, w.k_turned, kKeys, w.s, kKeys, kRows, columns, depth,
                     false);
      Product<Words>(w.dout + i * ld, ld, 1, w.v_turned, kKeys, w.dp, kKeys, kRows, columns, depth,
                     false);
      if (!span.Covers(key, columns))
        for (int64_t r = 0; r < kRows; ++r)
          MaskRow(w.s + r * kKeys, w.interval[i + r], key, columns);
      for (int64_t r = 0; r < kRows; r += 2)
        GradientRows<Words, kDegree>(w.s + r * kKeys, w.dp + r * kKeys, w.stats + i + r, p.scale2,
                                     vectors, w.p_turned + r * kKeys / Words::kPack,
                                     w.ds_turned + r * kKeys / Words::kPack,
                                     w.ds_rows + r * kKeys / Words::kPack);
      const int64_t steps = kRows / Words::kPack;
      if constexpr (kTransposedSums) {
        Product<Words>(w.dout_turned + i * ld, steps, 1, w.p_turned, kKeys, dv, kKeys, width,
                       columns, steps, true);
        Product<Words>(w.q_turned + i * ld, steps, 1, w.ds_turned, kKeys, dk, kKeys, width, columns,
                       steps, true);
      } else {
        Product<Words>(w.p_turned, 1, kKeys, w.dout_pairs + i * ld, width, dv, width, columns, p.D,
                       steps, true);
        Product<Words>(w.ds_turned, 1, kKeys, w.q_pairs + i * ld, width, dk, width, columns, p.D,
                       steps, true);
      }
      Product<Words>(w.ds_rows, kKeys / Words::kPack, 1, w.k_pairs, width, dq + i * width, width,
                     kRows, p.D, columns / Words::kPack, true);
    }
  }
}

// x [B, rows, H, D] = factor * sums [B, H, padded rows][width]
template <class T>
void StoreSums(Invocation& call, const float* sums, int64_t padded_rows, int64_t width,
               float factor, const View& x) {
  const int64_t B = x.dim(0), rows = x.dim(1), H = x.dim(2), D = x.dim(3);
  const int64_t step = std::clamp<int64_t>(32768 / D, 1, std::max<int64_t>(rows, 1));
  const int64_t chunks = (rows + step - 1) / step;
  call.ParallelFor(B * H * chunks, [&](int64_t tile, int) {
    const int64_t head = tile / chunks, r0 = tile % chunks * step;
    for (int64_t r = r0; r < std::min(rows, r0 + step); ++r) {
      const float* from = sums + (head * padded_rows + r) * width;
      T* to = x.as<T>() + head / H * x.step(0) + r * x.step(1) + head % H * x.step(2);
      for (int64_t i = 0; i < D; i += kLanes) StoreN(to + i, Load(from + i) * Set(factor), D - i);
    }
  });
}

// As StoreSums, from sums transposed per block of keys: [width][kKeys].
template <class T>
void StoreTransposedSums(Invocation& call, const float* sums, int64_t padded_rows, int64_t width,
                         float factor, const View& x) {
  const int64_t B = x.dim(0), rows = x.dim(1), H = x.dim(2), D = x.dim(3);
  const int64_t blocks = padded_rows / kKeys;
  call.ParallelFor(B * H * blocks, [&](int64_t tile, int) {
    const int64_t head = tile / blocks, r0 = tile % blocks * kKeys;
    const float* const block = sums + (head * padded_rows + r0) * width;
    T* const to = x.as<T>() + head / H * x.step(0) + r0 * x.step(1) + head % H * x.step(2);
    alignas(64) float turned[kLanes * kLanes];
    for (int64_t d = 0; d < D; d += kLanes)
      for (int64_t r = 0; r < std::min(kKeys, rows - r0); r += kLanes) {
        TransposeBlock(block + d * kKeys + r, kKeys, turned, kLanes);
        for (int64_t i = 0; i < std::min<int64_t>(kLanes, rows - r0 - r); ++i)
          StoreN(to + (r + i) * x.step(1) + d, Load(turned + i * kLanes) * Set(factor), D - d);
      }
  });
}

// attention.backward(dout, q, k, v, out, lse, first?, last?) -> (dq, dk, dv) [scale, causal,
// window]
template <class Words, class T>
void BackwardAttention(Invocation& call) {
  const View &dout = call[0], &q = call[1], &k = call[2], &v = call[3], &out = call[4],
             &lse = call[5];
  const View &dq = call[8], &dk = call[9], &dv = call[10];
  const Problem p = Problem::Check(call, q, k, v, 6, 7);
  Require(Problem::LikeQuery(dout, q) && Problem::LikeQuery(out, q) && Problem::LikeQuery(dq, q),
          ErrorCode::kShape, "attention.backward: dout, out and dq must be like q");
  Require(Problem::LikeQuery(dk, k) && Problem::LikeQuery(dv, k), ErrorCode::kShape,
          "attention.backward: dk and dv must be like k");
  Require(lse.dtype == DType::kF32 && lse.rank == 3 && lse.dim(0) == p.B && lse.dim(1) == p.H &&
              lse.dim(2) == p.T && lse.contiguous(),
          ErrorCode::kShape, "attention.backward: lse must be f32 [B, H, T]");
  if (p.B == 0) return;

  BackwardArgs a{p, &dout, &q, &k, &v, &out, lse.as<float>(), nullptr, nullptr, nullptr, 0, 0, 0};
  a.width = RowWords<Words>(p.D) * Words::kPack;
  a.rows_q = RoundUp(p.T, kRows), a.rows_k = RoundUp(p.S, kKeys);
  int64_t chunk = kKeys;  // of queries and of keys: their product is the work of a tile
  while (chunk < 512 && (chunk + kKeys) * (chunk + kKeys) * p.D * 5 <= kTileWork) chunk += kKeys;
  const int64_t chunks_q = (p.T + chunk - 1) / chunk, chunks_k = (p.S + chunk - 1) / chunk;
  const int64_t list = p.group * chunks_q;  // query chunks that meet one key head
  const int64_t rounds = std::max(list, chunks_k);
  const int64_t heads = p.B * p.Hkv;

  const int64_t size_q = p.B * p.H * a.rows_q * a.width, size_k = heads * a.rows_k * a.width;
  a.dq = call.Workspace<float>(size_q);
  a.dk = call.Workspace<float>(size_k);
  a.dv = call.Workspace<float>(size_k);
  const int64_t bytes = BackwardScratch<Words>(nullptr, chunk, p.D).bytes;
  call.ReserveScratch(bytes);
  for (int64_t round = 0; round < rounds; ++round) {
    call.ParallelFor(heads * rounds, [&](int64_t tile, int worker) {
      const int64_t head = tile / rounds, i = tile % rounds, j = (i + round) % rounds;
      const int64_t s0 = i * chunk, keys = std::min(chunk, p.S - s0);
      const int64_t b = head / p.Hkv,
                    h = head % p.Hkv * p.group + j / std::max<int64_t>(1, chunks_q);
      const int64_t t0 = chunks_q ? j % chunks_q * chunk : 0, queries = std::min(chunk, p.T - t0);
      // In round 0 slot i owns key chunk i and query chunk i: it clears both.
      if (round == 0 && i < chunks_k) {
        const int64_t at = (head * a.rows_k + s0) * a.width, n = RoundUp(keys, kKeys) * a.width;
        std::memset(a.dk + at, 0, n * sizeof(float));
        std::memset(a.dv + at, 0, n * sizeof(float));
      }
      if (round == 0 && j < list)
        std::memset(a.dq + ((b * p.H + h) * a.rows_q + t0) * a.width, 0,
                    RoundUp(queries, kRows) * a.width * sizeof(float));
      if (i >= chunks_k || j >= list) return;
      const TileRegisters registers;
      const BackwardScratch<Words> scratch(call.Scratch<std::byte>(worker, bytes), chunk, p.D);
      BackwardTile<Words, T>(a, scratch, b, h, t0, queries, s0, keys);
    });
  }
  StoreSums<T>(call, a.dq, a.rows_q, a.width, p.scale, dq);
  if constexpr (kTransposedSums) {
    StoreTransposedSums<T>(call, a.dk, a.rows_k, a.width, p.scale, dk);
    StoreTransposedSums<T>(call, a.dv, a.rows_k, a.width, 1.0f, dv);
  } else {
    StoreSums<T>(call, a.dk, a.rows_k, a.width, p.scale, dk);
    StoreSums<T>(call, a.dv, a.rows_k, a.width, 1.0f, dv);
  }
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
