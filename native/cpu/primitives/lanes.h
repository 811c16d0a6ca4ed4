// What the primitives need of a vector beyond simd.h: comparisons and their masks, maxima that keep
// a NaN, stores past the cache, and a loop over a row.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// Types a Vec is loaded from; the others go through plain loops, which the compiler vectorises.
template <class T>
inline constexpr bool kInLanes = std::is_same_v<T, float> || std::is_same_v<T, bf16>;

#if FUSELM_HAS_AVX512
struct LaneMask {
  __mmask16 m;
};
inline LaneMask Equal(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline LaneMask NotEqual(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ)}; }
inline LaneMask Less(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline LaneMask LessEqual(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
inline LaneMask IsNan(Vec a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
inline Vec Select(LaneMask m, Vec a, Vec b) { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }
inline bool Any(LaneMask m) { return m.m != 0; }
// kLanes bytes, 1 where set
inline void StoreMask(uint8_t* p, LaneMask m) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_maskz_set1_epi8(m.m, 1));
}
inline void Stream(float* p, Vec a) { _mm512_stream_ps(p, a.v); }
inline void Stream(bf16* p, Vec a) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), NarrowBf16(a.v));
}
inline void StreamFence() { _mm_sfence(); }

#elif FUSELM_IS_AVX2
struct LaneMask {
  __m256 m;
};
inline LaneMask Equal(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
inline LaneMask NotEqual(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)}; }
inline LaneMask Less(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline LaneMask LessEqual(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
inline LaneMask IsNan(Vec a) { return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)}; }
inline Vec Select(LaneMask m, Vec a, Vec b) { return {_mm256_blendv_ps(b.v, a.v, m.m)}; }
inline bool Any(LaneMask m) { return _mm256_movemask_ps(m.m) != 0; }
inline void StoreMask(uint8_t* p, LaneMask m) {
  const __m256i w = _mm256_castps_si256(m.m);
  const __m128i h = _mm_packs_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p),
                   _mm_and_si128(_mm_packs_epi16(h, h), _mm_set1_epi8(1)));
}
inline void Stream(float* p, Vec a) { _mm256_stream_ps(p, a.v); }
inline void Stream(bf16* p, Vec a) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), NarrowBf16(a.v));
}
inline void StreamFence() { _mm_sfence(); }

#else
struct LaneMask {
  bool m[kLanes];
};
template <class F>
inline LaneMask MapMask(F f) {
  LaneMask r;
  for (int i = 0; i < kLanes; ++i) r.m[i] = f(i);
  return r;
}
inline LaneMask Equal(Vec a, Vec b) {
  return MapMask([&](int i) { return a.v[i] == b.v[i]; });
}
inline LaneMask NotEqual(Vec a, Vec b) {
  return MapMask([&](int i) { return a.v[i] != b.v[i]; });
}
inline LaneMask Less(Vec a, Vec b) {
  return MapMask([&](int i) { return a.v[i] < b.v[i]; });
}
inline LaneMask LessEqual(Vec a, Vec b) {
  return MapMask([&](int i) { return a.v[i] <= b.v[i]; });
}
inline LaneMask IsNan(Vec a) { return NotEqual(a, a); }
inline Vec Select(LaneMask m, Vec a, Vec b) {
  return MapLanes([&](int i) { return m.m[i] ? a.v[i] : b.v[i]; });
}
inline bool Any(LaneMask m) {
  bool any = false;
  for (int i = 0; i < kLanes; ++i) any |= m.m[i];
  return any;
}
inline void StoreMask(uint8_t* p, LaneMask m) {
  for (int i = 0; i < kLanes; ++i) p[i] = m.m[i] ? 1 : 0;
}
template <class T>
inline void Stream(T* p, Vec a) {
  Store(p, a);
}
inline void StreamFence() {}
#endif

// A NaN on either side wins, as in PyTorch: hardware maxima return their second operand then.
inline Vec MaxNan(Vec a, Vec b) { return Select(IsNan(a), a, Max(a, b)); }
inline Vec MinNan(Vec a, Vec b) { return Select(IsNan(a), a, Min(a, b)); }

// y[i] = f(i, left) over a row, vector by vector; left < kLanes in the last. With `stream`, past
// the cache: for results that no cache would keep; StreamFence before another thread may read them.
template <class T, class F>
inline void EachVector(T* y, int64_t n, bool stream, F f) {
  int64_t i = 0;
  if (stream) {
    constexpr int64_t kBytes = kLanes * sizeof(T);
    const int64_t off = static_cast<int64_t>(reinterpret_cast<uintptr_t>(y) % kBytes);
    if (off % sizeof(T) == 0 && n >= 2 * kLanes) {
      if (off != 0) {
        i = (kBytes - off) / static_cast<int64_t>(sizeof(T));
        StoreN(y, f(int64_t{0}, i), i);
      }
      for (; i + kLanes <= n; i += kLanes) Stream(y + i, f(i, int64_t{kLanes}));
    }
  }
#pragma GCC unroll 4
  for (; i + kLanes <= n; i += kLanes) Store(y + i, f(i, int64_t{kLanes}));
  if (i < n) StoreN(y + i, f(i, n - i), n - i);
}

// As EachVector, for results that are masks.
template <class F>
inline void EachMask(uint8_t* y, int64_t n, F f) {
  int64_t i = 0;
#pragma GCC unroll 4
  for (; i + kLanes <= n; i += kLanes) StoreMask(y + i, f(i, int64_t{kLanes}));
  if (i < n) {
    uint8_t last[kLanes];
    StoreMask(last, f(i, n - i));
    for (int64_t j = 0; j < n - i; ++j) y[i + j] = last[j];
  }
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
