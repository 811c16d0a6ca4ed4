// Small matrices transposed in registers: dst[j * dst_pitch + i] = src[i * src_pitch + j].
#pragma once

#include <algorithm>
#include <cstdint>

#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// Side of the square that one call of TransposeSquare turns; 1 means there is none for the type.
template <class T>
inline constexpr int64_t kSquare = 1;

template <class T>
inline void TransposeSquare(const T* src, int64_t, T* dst, int64_t) {
  *dst = *src;
}

#if FUSELM_HAS_AVX512
template <>
inline constexpr int64_t kSquare<uint32_t> = 16;

// Whole cache lines on both sides: none is visited twice, so power-of-two pitches cost no conflict.
template <>
inline void TransposeSquare(const uint32_t* src, int64_t src_pitch, uint32_t* dst,
                            int64_t dst_pitch) {
  __m512i r[16], s[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(src + i * src_pitch);
  // s[4g + c]: rows 4g .. 4g+3 of columns c, c+4, c+8, c+12, one column a 128-bit lane
  for (int g = 0; g < 4; ++g) {
    const __m512i a = _mm512_unpacklo_epi32(r[4 * g], r[4 * g + 1]);
    const __m512i b = _mm512_unpackhi_epi32(r[4 * g], r[4 * g + 1]);
    const __m512i c = _mm512_unpacklo_epi32(r[4 * g + 2], r[4 * g + 3]);
    const __m512i d = _mm512_unpackhi_epi32(r[4 * g + 2], r[4 * g + 3]);
    s[4 * g] = _mm512_unpacklo_epi64(a, c);
    s[4 * g + 1] = _mm512_unpackhi_epi64(a, c);
    s[4 * g + 2] = _mm512_unpacklo_epi64(b, d);
    s[4 * g + 3] = _mm512_unpackhi_epi64(b, d);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512i a = _mm512_shuffle_i32x4(s[c], s[4 + c], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(s[8 + c], s[12 + c], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(s[c], s[4 + c], 0xdd);
    const __m512i e = _mm512_shuffle_i32x4(s[8 + c], s[12 + c], 0xdd);
    _mm512_storeu_si512(dst + c * dst_pitch, _mm512_shuffle_i32x4(a, b, 0x88));
    _mm512_storeu_si512(dst + (c + 4) * dst_pitch, _mm512_shuffle_i32x4(d, e, 0x88));
    _mm512_storeu_si512(dst + (c + 8) * dst_pitch, _mm512_shuffle_i32x4(a, b, 0xdd));
    _mm512_storeu_si512(dst + (c + 12) * dst_pitch, _mm512_shuffle_i32x4(d, e, 0xdd));
  }
}
#elif FUSELM_IS_AVX2
template <>
inline constexpr int64_t kSquare<uint32_t> = 8;

template <>
inline void TransposeSquare(const uint32_t* src, int64_t src_pitch, uint32_t* dst,
                            int64_t dst_pitch) {
  __m256i r[8], s[8];
  for (int i = 0; i < 8; ++i)
    r[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(src + i * src_pitch));
  for (int g = 0; g < 2; ++g) {
    const __m256i a = _mm256_unpacklo_epi32(r[4 * g], r[4 * g + 1]);
    const __m256i b = _mm256_unpackhi_epi32(r[4 * g], r[4 * g + 1]);
    const __m256i c = _mm256_unpacklo_epi32(r[4 * g + 2], r[4 * g + 3]);
    const __m256i d = _mm256_unpackhi_epi32(r[4 * g + 2], r[4 * g + 3]);
    s[4 * g] = _mm256_unpacklo_epi64(a, c);
    s[4 * g + 1] = _mm256_unpackhi_epi64(a, c);
    s[4 * g + 2] = _mm256_unpacklo_epi64(b, d);
    s[4 * g + 3] = _mm256_unpackhi_epi64(b, d);
  }
  for (int c = 0; c < 4; ++c) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + c * dst_pitch),
                        _mm256_permute2x128_si256(s[c], s[4 + c], 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + (c + 4) * dst_pitch),
                        _mm256_permute2x128_si256(s[c], s[4 + c], 0x31));
  }
}
#endif

#if FUSELM_HAS_AVX512 || FUSELM_IS_AVX2
template <>
inline constexpr int64_t kSquare<uint16_t> = 8;

template <>
inline void TransposeSquare(const uint16_t* src, int64_t src_pitch, uint16_t* dst,
                            int64_t dst_pitch) {
  __m128i r[8], s[8], t[8];
  for (int i = 0; i < 8; ++i)
    r[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(src + i * src_pitch));
  for (int i = 0; i < 4; ++i) {
    s[2 * i] = _mm_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
    s[2 * i + 1] = _mm_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
  }
  for (int g = 0; g < 2; ++g) {
    t[4 * g] = _mm_unpacklo_epi32(s[4 * g], s[4 * g + 2]);
    t[4 * g + 1] = _mm_unpackhi_epi32(s[4 * g], s[4 * g + 2]);
    t[4 * g + 2] = _mm_unpacklo_epi32(s[4 * g + 1], s[4 * g + 3]);
    t[4 * g + 3] = _mm_unpackhi_epi32(s[4 * g + 1], s[4 * g + 3]);
  }
  for (int c = 0; c < 4; ++c) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + 2 * c * dst_pitch),
                     _mm_unpacklo_epi64(t[c], t[4 + c]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + (2 * c + 1) * dst_pitch),
                     _mm_unpackhi_epi64(t[c], t[4 + c]));
  }
}
#endif

// rows x columns of src, turned; square by square so that both sides stay in the first cache.
template <class T>
inline void Transpose(const T* src, int64_t src_pitch, T* dst, int64_t dst_pitch, int64_t rows,
                      int64_t columns) {
  constexpr int64_t kStep = kSquare < T >> 1 ? kSquare<T> : 16;
  for (int64_t i = 0; i < rows; i += kStep) {
    const int64_t height = std::min(kStep, rows - i);
    for (int64_t j = 0; j < columns; j += kStep) {
      const int64_t width = std::min(kStep, columns - j);
      const T* from = src + i * src_pitch + j;
      T* to = dst + j * dst_pitch + i;
      if (kSquare < T >> 1 && height == kStep && width == kStep) {
        TransposeSquare(from, src_pitch, to, dst_pitch);
        continue;
      }
      for (int64_t c = 0; c < width; ++c)
        for (int64_t r = 0; r < height; ++r) to[c * dst_pitch + r] = from[r * src_pitch + c];
    }
  }
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
