// How elements travel through the GEMM's inner kernel: as 32-bit words along K. A word is one
// float, or, where the level multiplies bf16 natively, a pair of neighbouring bf16 in K (the VNNI
// layout (K/2, N, 2)). Levels without bf16 arithmetic widen to float while packing, so one kernel
// body serves every dtype. Words sit in Vec lanes as bits; only MulAdd interprets them.
#pragma once

#include <cstdint>

#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

#define FUSELM_GEMM_PAIRS (FUSELM_IS_AVX512BF16 || FUSELM_IS_AMX)

// Elements of T per word.
template <class T>
inline constexpr int kPerWord = 1;
#if FUSELM_GEMM_PAIRS
template <>
inline constexpr int kPerWord<bf16> = 2;
#endif

template <class T>
constexpr int64_t WordsOf(int64_t k) {
  return (k + kPerWord<T> - 1) / kPerWord<T>;
}

// acc + sum over the word of a * b, lane by lane.
template <class T>
inline Vec MulAdd(Vec acc, Vec a, Vec b) {
#if FUSELM_GEMM_PAIRS
  if constexpr (kPerWord<T> == 2)
    return {_mm512_dpbf16_ps(acc.v, (__m512bh)a.v, (__m512bh)b.v)};
  else
#endif
    return Fma(a, b, acc);
}

// kLanes words along K, read from a row that is contiguous in K with `left` elements remaining.
template <class T>
inline Vec RowWords(const T* p, int64_t left) {
  if (left <= 0) return Zero();
#if FUSELM_GEMM_PAIRS
  if constexpr (kPerWord<T> == 2) {
    if (left >= 32) return {_mm512_loadu_ps(p)};
    const __mmask32 mask = (1u << left) - 1u;
    return {_mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, p))};
  } else
#endif
    return LoadN(p, left);
}

// The words of one K position for kLanes neighbours in the other axis, `left` of them valid:
// p is row k, `stride` elements before row k + 1; `left_k` rows remain (a pair may be half).
template <class T>
inline Vec ColWords(const T* p, [[maybe_unused]] int64_t stride, int64_t left, int64_t left_k) {
  if (left <= 0 || left_k <= 0) return Zero();
#if FUSELM_GEMM_PAIRS
  if constexpr (kPerWord<T> == 2) {
    const __mmask16 mask = HeadMask(left);
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p));
    if (left_k < 2) return {_mm512_castsi512_ps(low)};
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p + stride));
    return {_mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)))};
  } else
#endif
    return LoadN(p, left);
}

// What a packer that computes its elements in float32 stores, word by word. Along K: 2 kLanes
// elements in order (`high` is not read where a word is one element). Down K: elements k and k + 1
// of kLanes columns.
template <class T>
inline Vec JoinAlongK(Vec low, [[maybe_unused]] Vec high) {
#if FUSELM_GEMM_PAIRS
  if constexpr (kPerWord<T> == 2)
    return {(__m512)_mm512_cvtne2ps_pbh(high.v, low.v)};
  else
#endif
    return low;
}
template <class T>
inline Vec JoinDownK(Vec first, [[maybe_unused]] Vec second) {
#if FUSELM_GEMM_PAIRS
  if constexpr (kPerWord<T> == 2)
    return {_mm512_castsi512_ps(
        _mm512_or_si512(_mm512_cvtepu16_epi32(NarrowBf16(first.v)),
                        _mm512_slli_epi32(_mm512_cvtepu16_epi32(NarrowBf16(second.v)), 16)))};
  else
#endif
    return first;
}

// Transposes a kLanes x kLanes block of words in registers.
inline void Transpose(Vec (&r)[kLanes]) {
#if FUSELM_HAS_AVX512
  __m512 t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i].v, r[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
  }
  for (int i = 0; i < 16; i += 4) {
    const auto d = [&](int j) { return _mm512_castps_pd(t[i + j]); };
    r[i].v = _mm512_castpd_ps(_mm512_unpacklo_pd(d(0), d(2)));
    r[i + 1].v = _mm512_castpd_ps(_mm512_unpackhi_pd(d(0), d(2)));
    r[i + 2].v = _mm512_castpd_ps(_mm512_unpacklo_pd(d(1), d(3)));
    r[i + 3].v = _mm512_castpd_ps(_mm512_unpackhi_pd(d(1), d(3)));
  }
  // r[4q + c] now holds, in 128-bit block b, column 4b + c of rows 4q .. 4q+3
  for (int c = 0; c < 4; ++c) {
    const __m512 ab = _mm512_shuffle_f32x4(r[c].v, r[4 + c].v, 0x44);
    const __m512 AB = _mm512_shuffle_f32x4(r[c].v, r[4 + c].v, 0xee);
    const __m512 cd = _mm512_shuffle_f32x4(r[8 + c].v, r[12 + c].v, 0x44);
    const __m512 CD = _mm512_shuffle_f32x4(r[8 + c].v, r[12 + c].v, 0xee);
    t[c] = _mm512_shuffle_f32x4(ab, cd, 0x88);
    t[4 + c] = _mm512_shuffle_f32x4(ab, cd, 0xdd);
    t[8 + c] = _mm512_shuffle_f32x4(AB, CD, 0x88);
    t[12 + c] = _mm512_shuffle_f32x4(AB, CD, 0xdd);
  }
  for (int i = 0; i < 16; ++i) r[i].v = t[i];
#elif FUSELM_IS_AVX2
  __m256 t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i].v, r[i + 1].v);
    t[i + 1] = _mm256_unpackhi_ps(r[i].v, r[i + 1].v);
  }
  __m256 u[8];
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int c = 0; c < 4; ++c) {
    r[c].v = _mm256_permute2f128_ps(u[c], u[4 + c], 0x20);
    r[4 + c].v = _mm256_permute2f128_ps(u[c], u[4 + c], 0x31);
  }
#else
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < i; ++j) std::swap(r[i].v[j], r[j].v[i]);
#endif
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
