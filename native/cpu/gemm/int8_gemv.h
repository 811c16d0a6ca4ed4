// Few rows of x by int8 weights: the weights are read once, in the order they lie in memory, and
// everything else stays in L1 and L2. Bandwidth-bound: one byte per weight.
#pragma once

#include <algorithm>

#include "native/cpu/gemm/int8_gemm.h"
#include "native/cpu/gemm/operand.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// Rows of x that one pass over the weights serves.
inline constexpr int kGemvRows = 4;
inline constexpr int64_t kGemvBytes = 64 << 10;  // of weights per tile

// Rows of weights that go together, so that a load of x serves all of them.
inline constexpr int kGemvWeights = FUSELM_HAS_AVX512 ? 4 : 2;

// kN rows of weights from row n on by kM rows of x, float32 [kM, k]: a sum per lane, scaled group
// by group.
template <int kM, int kN, class T>
inline void GemvDots(const float* x, const Int8Weights& w, int64_t n, const Int8Store<T>& store,
                     int64_t m0) {
  const int8_t* q = w.values + n * w.k;
  const int64_t size = w.group_size(), groups = w.groups();
  Vec total[kN][kM];
#pragma GCC unroll 4
  for (int i = 0; i < kN; ++i)
#pragma GCC unroll 4
    for (int m = 0; m < kM; ++m) total[i][m] = Zero();
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * size, end = std::min(w.k, begin + size);
    Vec sum[kN][kM];
#pragma GCC unroll 4
    for (int i = 0; i < kN; ++i)
#pragma GCC unroll 4
      for (int m = 0; m < kM; ++m) sum[i][m] = Zero();
    const auto add = [&](const auto& load_q, const auto& load_x) {
      Vec rows[kM];
#pragma GCC unroll 4
      for (int m = 0; m < kM; ++m) rows[m] = load_x(m * w.k);
#pragma GCC unroll 4
      for (int i = 0; i < kN; ++i) {
        const Vec a = load_q(i * w.k);
#pragma GCC unroll 4
        for (int m = 0; m < kM; ++m) sum[i][m] = Fma(a, rows[m], sum[i][m]);
      }
    };
    int64_t k = begin;
    for (; k + kLanes <= end; k += kLanes) {
      // the rows that come next lie behind these
      __builtin_prefetch(q + kN * (w.k + k));
      add([&](int64_t at) { return LoadInt8(q + at + k); },
          [&](int64_t at) { return Load(x + at + k); });
    }
    if (k < end)
      add([&](int64_t at) { return LoadInt8N(q + at + k, end - k); },
          [&](int64_t at) { return LoadN(x + at + k, end - k); });
#pragma GCC unroll 4
    for (int i = 0; i < kN; ++i) {
      const Vec scale = Set(w.scales[(n + i) * groups + g]);
#pragma GCC unroll 4
      for (int m = 0; m < kM; ++m) total[i][m] = Fma(scale, sum[i][m], total[i][m]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kN; ++i)
#pragma GCC unroll 4
    for (int m = 0; m < kM; ++m) store(m0 + m, n + i, Set(Sum(total[i][m])), 1);
}

// f(first, end) for every tile of rows of weights.
template <class F>
void ForWeightRows(Invocation& inv, const Int8Weights& w, const F& f) {
  const int64_t per_tile =
      RoundUp(std::max<int64_t>(1, kGemvBytes / std::max<int64_t>(1, w.k)), kGemvWeights);
  inv.ParallelFor((w.n + per_tile - 1) / per_tile, [&](int64_t tile, int) noexcept {
    f(tile * per_tile, std::min(w.n, (tile + 1) * per_tile));
  });
}

// f<count>(m) for every kGemvRows rows of x, the last time with as many as are left.
template <class F>
void ForGemvRows(int64_t rows, const F& f) {
  for (int64_t m = 0; m < rows; m += kGemvRows) {
    switch (std::min<int64_t>(kGemvRows, rows - m)) {
      case 1: f.template operator()<1>(m); break;
      case 2: f.template operator()<2>(m); break;
      case 3: f.template operator()<3>(m); break;
      default: f.template operator()<kGemvRows>(m);
    }
  }
}

template <class T>
void Int8Gemv(Invocation& inv, const RowMatrix& x, const Int8Weights& w,
              const Int8Store<T>& store) {
  float* const wide = inv.Workspace<float>(static_cast<size_t>(x.rows * w.k));
  for (int64_t m = 0; m < x.rows; ++m) {
    const T* row = static_cast<const T*>(x.data) + m * x.stride;
    for (int64_t k = 0; k < w.k; k += kLanes)
      StoreN(wide + m * w.k + k, LoadN(row + k, w.k - k), w.k - k);
  }
  ForGemvRows(x.rows, [&]<int kM>(int64_t m) {
    ForWeightRows(inv, w, [&](int64_t n, int64_t end) {
      for (; n + kGemvWeights <= end; n += kGemvWeights)
        GemvDots<kM, kGemvWeights>(wide + m * w.k, w, n, store, m);
      for (; n < end; ++n) GemvDots<kM, 1>(wide + m * w.k, w, n, store, m);
    });
  });
}

// Sums of n products of int8, exact (n at most 2^16): a by kM rows of b, `stride` apart. `sums` are
// those of the rows of b, `next` apart.
template <int kM>
inline void DotsInt8(const int8_t* a, const int8_t* b, int64_t stride, int64_t n,
                     [[maybe_unused]] const int32_t* sums, [[maybe_unused]] int64_t next,
                     int32_t* out) {
#if FUSELM_HAS_AVX512
  // VPDPBUSD is unsigned by signed: a + 128 times b, less 128 times the sum of b
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
  __m512i acc[kM];
#pragma GCC unroll 4
  for (int m = 0; m < kM; ++m) acc[m] = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const __m512i va = _mm512_xor_si512(_mm512_loadu_si512(a + i), flip);
#pragma GCC unroll 4
    for (int m = 0; m < kM; ++m) DotBytes(acc[m], va, _mm512_loadu_si512(b + m * stride + i));
  }
  if (i < n) {
    const __mmask64 mask = (uint64_t{1} << (n - i)) - 1;
    const __m512i va = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, a + i), flip);
#pragma GCC unroll 4
    for (int m = 0; m < kM; ++m)
      DotBytes(acc[m], va, _mm512_maskz_loadu_epi8(mask, b + m * stride + i));
  }
#pragma GCC unroll 4
  for (int m = 0; m < kM; ++m) out[m] = _mm512_reduce_add_epi32(acc[m]) - 128 * sums[m * next];
#elif FUSELM_IS_AVX2
  const auto wide = [](const int8_t* p, int64_t left) {
    int8_t part[16] = {};
    if (left < 16) std::memcpy(part, p, static_cast<size_t>(left));
    return _mm256_cvtepi8_epi16(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(left < 16 ? part : p)));
  };
  __m256i acc[kM];
#pragma GCC unroll 4
  for (int m = 0; m < kM; ++m) acc[m] = _mm256_setzero_si256();
  for (int64_t i = 0; i < n; i += 16) {
    const __m256i va = wide(a + i, n - i);
#pragma GCC unroll 4
    for (int m = 0; m < kM; ++m)
      acc[m] = _mm256_add_epi32(acc[m], _mm256_madd_epi16(va, wide(b + m * stride + i, n - i)));
  }
#pragma GCC unroll 4
  for (int m = 0; m < kM; ++m) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(acc[m]), _mm256_extracti128_si256(acc[m], 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    out[m] = _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
  }
#else
  for (int m = 0; m < kM; ++m) {
    out[m] = 0;
    for (int64_t i = 0; i < n; ++i) out[m] += int32_t{a[i]} * b[m * stride + i];
  }
#endif
}

// x in int8: the same steps in the same order as Int8Gemm, so that a row's result does not depend
// on how many rows there are.
template <class T>
void Int8GemvDynamic(Invocation& inv, const Int8Rows<Int8Words>& x, const Int8Weights& w,
                     const Int8Store<T>& store) {
  const Int8Steps<Int8Words> steps(w);
  const int64_t groups = w.groups(), step = steps.step * Int8Words::kPer;
  ForGemvRows(x.m, [&]<int kM>(int64_t m0) {
    const int8_t* const rows = x.x + m0 * x.stride;
    ForWeightRows(inv, w, [&](int64_t first, int64_t end) {
      for (int64_t n = first; n < end; ++n) {
        Vec sum[kM];
#pragma GCC unroll 4
        for (int m = 0; m < kM; ++m) sum[m] = Zero();
        for (int64_t s = 0; s < steps.count; ++s) {
          const int64_t k = s * step, g = w.group ? s : 0;
          int32_t dots[kM];
          DotsInt8<kM>(w.values + n * w.k + k, rows + k, x.stride, std::min(step, w.k - k),
                       x.sums + m0 * steps.count + s, steps.count, dots);
#pragma GCC unroll 4
          for (int m = 0; m < kM; ++m) {
            const Vec part = Set(static_cast<float>(dots[m]));
            const Vec scale = Set(x.scales[(m0 + m) * groups + g] * w.scales[n * groups + g]);
            sum[m] = s == 0 ? part * scale : Fma(part, scale, sum[m]);
          }
        }
        for (int m = 0; m < kM; ++m) store(m0 + m, n, sum[m], 1);
      }
    });
  });
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
