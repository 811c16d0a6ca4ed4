// Vectors between int8 and float at the level this file is compiled for; lanes as in simd.h.
#pragma once

#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

inline constexpr uint32_t kInfinityBits = 0x7f800000u;

#if FUSELM_HAS_AVX512
inline Vec LoadInt8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
inline Vec LoadInt8N(const int8_t* p, int64_t n) {
  if (n >= kLanes) return LoadInt8(p);
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(HeadMask(n), p)))};
}
inline __m128i NarrowInt8(Vec a) {
  return _mm512_cvtsepi32_epi8(_mm512_max_epi32(_mm512_cvtps_epi32(a.v), _mm512_set1_epi32(-127)));
}
// Rounded to nearest even, saturated to [-127, 127].
inline void StoreInt8(int8_t* p, Vec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), NarrowInt8(a));
}
inline void StoreInt8N(int8_t* p, Vec a, int64_t n) {
  _mm_mask_storeu_epi8(p, HeadMask(n), NarrowInt8(a));
}
// Magnitudes as bits: they order as the numbers do, and above them infinity, then NaN.
struct Magnitude {
  __m512i v = _mm512_setzero_si512();
  void Add(Vec a) {
    v = _mm512_max_epu32(v,
                         _mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7fffffff)));
  }
  uint32_t Bits() const { return _mm512_reduce_max_epu32(v); }
};

#elif FUSELM_IS_AVX2
inline Vec LoadInt8(const int8_t* p) {
  return {_mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}
inline Vec LoadInt8N(const int8_t* p, int64_t n) {
  if (n >= kLanes) return LoadInt8(p);
  int8_t part[8] = {};
  std::memcpy(part, p, static_cast<size_t>(n));
  return LoadInt8(part);
}
inline void StoreInt8N(int8_t* p, Vec a, int64_t n) {
  const __m256i i = _mm256_max_epi32(_mm256_cvtps_epi32(a.v), _mm256_set1_epi32(-127));
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  const int64_t bytes = _mm_cvtsi128_si64(_mm_packs_epi16(words, words));
  std::memcpy(p, &bytes, static_cast<size_t>(n >= kLanes ? kLanes : n));
}
inline void StoreInt8(int8_t* p, Vec a) { StoreInt8N(p, a, kLanes); }
struct Magnitude {
  __m256i v = _mm256_setzero_si256();
  void Add(Vec a) {
    v = _mm256_max_epu32(v,
                         _mm256_and_si256(_mm256_castps_si256(a.v), _mm256_set1_epi32(0x7fffffff)));
  }
  uint32_t Bits() const {
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(m));
  }
};

#else
inline Vec LoadInt8N(const int8_t* p, int64_t n) {
  return MapLanes([&](int i) { return i < n ? static_cast<float>(p[i]) : 0.0f; });
}
inline Vec LoadInt8(const int8_t* p) { return LoadInt8N(p, kLanes); }
inline void StoreInt8N(int8_t* p, Vec a, int64_t n) {
  for (int i = 0; i < kLanes && i < n; ++i) {
    const float r = std::nearbyint(a.v[i]);
    p[i] = static_cast<int8_t>(r < -127.0f ? -127.0f : r > 127.0f ? 127.0f : r);
  }
}
inline void StoreInt8(int8_t* p, Vec a) { StoreInt8N(p, a, kLanes); }
struct Magnitude {
  uint32_t v = 0;
  void Add(Vec a) {
    for (int i = 0; i < kLanes; ++i) {
      const uint32_t bits = std::bit_cast<uint32_t>(a.v[i]) & 0x7fffffffu;
      if (bits > v) v = bits;
    }
  }
  uint32_t Bits() const { return v; }
};
#endif

// The largest magnitude of n elements, as bits (at kInfinityBits or above: not finite).
template <class T>
inline uint32_t AbsMaxBits(const T* x, int64_t n) {
  Magnitude a, b;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    a.Add(Load(x + i));
    b.Add(Load(x + i + kLanes));
  }
  for (; i < n; i += kLanes) a.Add(LoadN(x + i, n - i));
  return a.Bits() > b.Bits() ? a.Bits() : b.Bits();
}

// Symmetric scale of a group by its largest magnitude: 1 for zeros (and for what is too small for a
// float32 scale), NaN when a value is not finite.
inline float ScaleOf(uint32_t absmax_bits) {
  if (absmax_bits >= kInfinityBits) return std::bit_cast<float>(0x7fc00000u);
  const float scale = std::bit_cast<float>(absmax_bits) / 127.0f;
  return scale == 0.0f ? 1.0f : scale;
}

// round(x / scale) to nearest even; zeros when the scale is NaN.
template <class T>
inline void QuantizeRow(const T* x, int64_t n, float scale, int8_t* out) {
  if (!(scale > 0.0f)) {
    std::memset(out, 0, static_cast<size_t>(n));
    return;
  }
  const Vec s = Set(scale);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) StoreInt8(out + i, Load(x + i) / s);
  if (i < n) StoreInt8N(out + i, LoadN(x + i, n - i) / s, n - i);
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
