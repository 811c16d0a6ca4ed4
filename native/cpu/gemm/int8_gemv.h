// Few rows of x by int8 weights: the weights are read once, in the order they lie in memory, and
// everything else stays in L1 and L2. Bandwidth-bound: one byte per weight.
#pragma once

#include <algorithm>

#include "native/cpu/gemm/int8_gemm.h"
#include "native/cpu/gemm/operand.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// Rows of x that one pass over the weights serves.
inline constexpr int64_t kGemvRows = 4;
inline constexpr int64_t kGemvBytes = 64 << 10;  // of weights per tile

// One row of weights by kM rows of x, float32 [kM, k]: a sum per lane, scaled group by group.
template <int kM>
inline void GemvDots(const float* x, const int8_t* q, const float* scales, const Int8Weights& w,
                     float* out) {
  Vec total[kM];
  for (int m = 0; m < kM; ++m) total[m] = Zero();
  const int64_t size = w.group_size(), groups = w.groups();
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * size, end = std::min(w.k, begin + size);
    Vec s0[kM], s1[kM];
    for (int m = 0; m < kM; ++m) s0[m] = s1[m] = Zero();
    int64_t k = begin;
    for (; k + 2 * kLanes <= end; k += 2 * kLanes) {
      const Vec a = LoadInt8(q + k), b = LoadInt8(q + k + kLanes);
#pragma GCC unroll 4
      for (int m = 0; m < kM; ++m) {
        s0[m] = Fma(a, Load(x + m * w.k + k), s0[m]);
        s1[m] = Fma(b, Load(x + m * w.k + k + kLanes), s1[m]);
      }
    }
    for (; k < end; k += kLanes) {
      const Vec a = LoadInt8N(q + k, end - k);
      for (int m = 0; m < kM; ++m) s0[m] = Fma(a, LoadN(x + m * w.k + k, end - k), s0[m]);
    }
    const Vec scale = Set(scales[g]);
    for (int m = 0; m < kM; ++m) total[m] = Fma(scale, s0[m] + s1[m], total[m]);
  }
  for (int m = 0; m < kM; ++m) out[m] = Sum(total[m]);
}

// f(n, sums of the rows of x by row n of the weights) for every n, in tiles of rows of weights.
template <class F>
void ForWeightRows(Invocation& inv, const Int8Weights& w, const F& f) {
  const int64_t per_tile = std::max<int64_t>(1, kGemvBytes / std::max<int64_t>(1, w.k));
  inv.ParallelFor((w.n + per_tile - 1) / per_tile, [&](int64_t tile, int) noexcept {
    for (int64_t n = tile * per_tile; n < std::min(w.n, (tile + 1) * per_tile); ++n) f(n);
  });
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
  const int64_t groups = w.groups();
  const auto run = [&]<int kM>(int64_t m0) {
    ForWeightRows(inv, w, [&](int64_t n) {
      float sums[kM];
      GemvDots<kM>(wide + m0 * w.k, w.values + n * w.k, w.scales + n * groups, w, sums);
      for (int m = 0; m < kM; ++m) store(m0 + m, n, Set(sums[m]), 1);
    });
  };
  for (int64_t m = 0; m < x.rows; m += kGemvRows) {
    switch (std::min(kGemvRows, x.rows - m)) {
      case 1: run.template operator()<1>(m); break;
      case 2: run.template operator()<2>(m); break;
      case 3: run.template operator()<3>(m); break;
      default: run.template operator()<4>(m);
    }
  }
}

// Sum of n products of int8, exact (n at most 2^16).
inline int32_t DotInt8(const int8_t* a, const int8_t* b, int64_t n) {
#if FUSELM_HAS_AVX512
  // VPDPBUSD is unsigned by signed: a + 128 times b, less 128 times the sum of b
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
  __m512i sum = _mm512_setzero_si512(), of_b = sum;
  for (int64_t i = 0; i < n; i += 64) {
    const __mmask64 mask = n - i >= 64 ? ~uint64_t{0} : (uint64_t{1} << (n - i)) - 1;
    const __m512i va = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, a + i), flip);
    const __m512i vb = _mm512_maskz_loadu_epi8(mask, b + i);
    sum = _mm512_dpbusd_epi32(sum, va, vb);
    of_b = _mm512_dpbusd_epi32(of_b, flip, vb);
  }
  return _mm512_reduce_add_epi32(_mm512_sub_epi32(sum, of_b));
#elif FUSELM_IS_AVX2
  __m256i sum = _mm256_setzero_si256();
  int64_t i = 0;
  const auto wide = [](const int8_t* p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  };
  for (; i + 16 <= n; i += 16)
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(wide(a + i), wide(b + i)));
  if (i < n) {
    int8_t pa[16] = {}, pb[16] = {};
    std::memcpy(pa, a + i, static_cast<size_t>(n - i));
    std::memcpy(pb, b + i, static_cast<size_t>(n - i));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(wide(pa), wide(pb)));
  }
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
#else
  int32_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += int32_t{a[i]} * b[i];
  return sum;
#endif
}

inline int32_t SumInt8(const int8_t* x, int64_t n) {
#if FUSELM_HAS_AVX512
  const __m512i one = _mm512_set1_epi8(1);
  __m512i sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += 64) {
    const __mmask64 mask = n - i >= 64 ? ~uint64_t{0} : (uint64_t{1} << (n - i)) - 1;
    sum = _mm512_dpbusd_epi32(sum, one, _mm512_maskz_loadu_epi8(mask, x + i));
  }
  return _mm512_reduce_add_epi32(sum);
#else
  int32_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
#endif
}

// x in int8: the same steps in the same order as Int8Gemm, so that a row's result does not depend
// on how many rows there are.
template <class T>
void Int8GemvDynamic(Invocation& inv, const Int8Rows<Int8Words>& x, const Int8Weights& w,
                     const Int8Store<T>& store) {
  const Int8Steps<Int8Words> steps(w);
  const int64_t groups = w.groups(), step = steps.step * Int8Words::kPer;
  ForWeightRows(inv, w, [&](int64_t n) {
    for (int64_t m = 0; m < x.m; ++m) {
      Vec sum = Zero();
      for (int64_t s = 0; s < steps.count; ++s) {
        const int64_t k = s * step, g = w.group ? s : 0;
        const int32_t dot =
            DotInt8(w.values + n * w.k + k, x.x + m * x.stride + k, std::min(step, w.k - k));
        const Vec part = Set(static_cast<float>(dot));
        const Vec scale = Set(x.scales[m * groups + g] * w.scales[n * groups + g]);
        sum = s == 0 ? part * scale : Fma(part, scale, sum);
      }
      store(m, n, sum, 1);
    }
  });
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
