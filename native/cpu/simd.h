// Vectors of float at the level this file is compiled for. One implementation of a kernel body
// serves generic (plain C++, no intrinsics), AVX2 and AVX-512; only width and instructions differ.
//
//   for (int64_t i = 0; i < n; i += kLanes) {
//     const int64_t left = n - i;
//     Vec a = LoadN(x + i, left);           // zeros past the end; full width when left >= kLanes
//     StoreN(y + i, Fma(a, scale, b), left);
//   }
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "native/core/dtype.h"

#if FUSELM_IS_AVX2 || FUSELM_IS_AVX512 || FUSELM_IS_AVX512BF16 || FUSELM_IS_AMX
#include <immintrin.h>
#endif

#define FUSELM_HAS_AVX512 (FUSELM_IS_AVX512 || FUSELM_IS_AVX512BF16 || FUSELM_IS_AMX)

namespace fuselm {
namespace FUSELM_LEVEL_NS {

#if FUSELM_HAS_AVX512
// --------------------------------------------------------------------------------- AVX-512
inline constexpr int kLanes = 16;
struct Vec {
  __m512 v;
};
inline __mmask16 HeadMask(int64_t n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << n) - 1u);
}
inline Vec Set(float x) { return {_mm512_set1_ps(x)}; }
inline Vec Zero() { return {_mm512_setzero_ps()}; }
inline Vec Load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Vec LoadN(const float* p, int64_t n) {
  return n >= kLanes ? Load(p) : Vec{_mm512_maskz_loadu_ps(HeadMask(n), p)};
}
inline void Store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline void StoreN(float* p, Vec a, int64_t n) { _mm512_mask_storeu_ps(p, HeadMask(n), a.v); }
inline __m512 WidenBf16(__m256i h) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
inline Vec Load(const bf16* p) {
  return {WidenBf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Vec LoadN(const bf16* p, int64_t n) {
  return n >= kLanes ? Load(p) : Vec{WidenBf16(_mm256_maskz_loadu_epi16(HeadMask(n), p))};
}
inline __m256i NarrowBf16(__m512 f) {
#if FUSELM_IS_AVX512
  const __m512i u = _mm512_castps_si512(f);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i r =
      _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q);
  r = _mm512_mask_mov_epi32(r, nan,
                            _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40)));
  return _mm512_cvtepi32_epi16(r);
#else
  return (__m256i)_mm512_cvtneps_pbh(f);  // same rounding; denormals become zero
#endif
}
inline void Store(bf16* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), NarrowBf16(a.v));
}
inline void StoreN(bf16* p, Vec a, int64_t n) {
  _mm256_mask_storeu_epi16(p, HeadMask(n), NarrowBf16(a.v));
}
inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec Fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }    // a*b + c
inline Vec Fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a*b
inline Vec Max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec Min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec Sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
inline Vec Round(Vec a) {  // to even; of |a| < 2^22 at every level
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a * 2^n for integral n in [-126, 127]
inline Vec Ldexp(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }
// a = mantissa * 2^exponent with the mantissa in [0.707, 1.414), for positive normal a
inline void SplitExponent(Vec a, Vec& mantissa, Vec& exponent) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i e = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f3504f3)), 23);
  mantissa = {_mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(e, 23)))};
  exponent = {_mm512_cvtepi32_ps(e)};
}
inline float Sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
inline float MaxOf(Vec a) { return _mm512_reduce_max_ps(a.v); }
// cond > 0 ? a : b, lane by lane
// Lanes 2i and 2i + 1 exchanged.
inline Vec SwapPairs(Vec a) { return {_mm512_permute_ps(a.v, 0xb1)}; }
inline Vec SelectPositive(Vec cond, Vec a, Vec b) {
  return {
      _mm512_mask_blend_ps(_mm512_cmp_ps_mask(cond.v, _mm512_setzero_ps(), _CMP_GT_OQ), b.v, a.v)};
}

#elif FUSELM_IS_AVX2
// ------------------------------------------------------------------------------------ AVX2
inline constexpr int kLanes = 8;
struct Vec {
  __m256 v;
};
inline __m256i HeadMask(int64_t n) {
  alignas(32) static constexpr int32_t kTable[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kTable + (n >= 8 ? 0 : 8 - n)));
}
inline Vec Set(float x) { return {_mm256_set1_ps(x)}; }
inline Vec Zero() { return {_mm256_setzero_ps()}; }
inline Vec Load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline Vec LoadN(const float* p, int64_t n) {
  return n >= kLanes ? Load(p) : Vec{_mm256_maskload_ps(p, HeadMask(n))};
}
inline void Store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
inline void StoreN(float* p, Vec a, int64_t n) {
  if (n >= kLanes)
    Store(p, a);
  else
    _mm256_maskstore_ps(p, HeadMask(n), a.v);
}
inline Vec WidenBf16(__m128i h) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16))};
}
inline Vec Load(const bf16* p) {
  return WidenBf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Vec LoadN(const bf16* p, int64_t n) {
  if (n >= kLanes) return Load(p);
  alignas(16) bf16 part[8] = {};
  std::memcpy(part, p, n * sizeof(bf16));
  return Load(part);
}
inline __m128i NarrowBf16(__m256 f) {
  const __m256i u = _mm256_castps_si256(f);
  const __m256i high = _mm256_srli_epi32(u, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(f, f, _CMP_UNORD_Q));
  const __m256i r =
      _mm256_blendv_epi8(rounded, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}
inline void Store(bf16* p, Vec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), NarrowBf16(a.v));
}
inline void StoreN(bf16* p, Vec a, int64_t n) {
  if (n >= kLanes) return Store(p, a);
  alignas(16) bf16 part[8];
  Store(part, a);
  std::memcpy(p, part, n * sizeof(bf16));
}
inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec Fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec Fnma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
inline Vec Max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec Min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec Sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
inline Vec Round(Vec a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline Vec Ldexp(Vec a, Vec n) {
  const __m256i e =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23);
  return {_mm256_mul_ps(a.v, _mm256_castsi256_ps(e))};
}
inline void SplitExponent(Vec a, Vec& mantissa, Vec& exponent) {
  const __m256i bits = _mm256_castps_si256(a.v);
  const __m256i e = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f3504f3)), 23);
  mantissa = {_mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(e, 23)))};
  exponent = {_mm256_cvtepi32_ps(e)};
}
inline float Sum(Vec a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
inline float MaxOf(Vec a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
inline Vec SwapPairs(Vec a) { return {_mm256_permute_ps(a.v, 0xb1)}; }
inline Vec SelectPositive(Vec cond, Vec a, Vec b) {
  return {_mm256_blendv_ps(b.v, a.v, _mm256_cmp_ps(cond.v, _mm256_setzero_ps(), _CMP_GT_OQ))};
}

#else
// --------------------------------------------------------------------------------- generic
inline constexpr int kLanes = 8;
struct Vec {
  float v[kLanes];
};
template <class F>
inline Vec MapLanes(F f) {
  Vec r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = f(i);
  return r;
}
inline Vec Set(float x) {
  return MapLanes([&](int) { return x; });
}
inline Vec Zero() { return Set(0.0f); }
template <class T>
inline Vec Load(const T* p) {
  return MapLanes([&](int i) { return static_cast<float>(p[i]); });
}
template <class T>
inline Vec LoadN(const T* p, int64_t n) {
  return MapLanes([&](int i) { return i < n ? static_cast<float>(p[i]) : 0.0f; });
}
template <class T>
inline void Store(T* p, Vec a) {
  for (int i = 0; i < kLanes; ++i) p[i] = T(a.v[i]);
}
template <class T>
inline void StoreN(T* p, Vec a, int64_t n) {
  for (int i = 0; i < kLanes && i < n; ++i) p[i] = T(a.v[i]);
}
inline Vec operator+(Vec a, Vec b) {
  return MapLanes([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec operator-(Vec a, Vec b) {
  return MapLanes([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec operator*(Vec a, Vec b) {
  return MapLanes([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec operator/(Vec a, Vec b) {
  return MapLanes([&](int i) { return a.v[i] / b.v[i]; });
}
inline Vec Fma(Vec a, Vec b, Vec c) {
  return MapLanes([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline Vec Fnma(Vec a, Vec b, Vec c) {
  return MapLanes([&](int i) { return c.v[i] - a.v[i] * b.v[i]; });
}
inline Vec Max(Vec a, Vec b) {
  return MapLanes([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec Min(Vec a, Vec b) {
  return MapLanes([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec Sqrt(Vec a) {
  return MapLanes([&](int i) { return std::sqrt(a.v[i]); });
}
// 1.5 * 2^23: added to |a| < 2^22, the sum's last bit is a's ones, so that it rounds to an integer,
// which then stands in the low bits. std::nearbyint would be a call per lane.
inline constexpr float kRounder = 12582912.0f;
inline Vec Round(Vec a) {
  return MapLanes([&](int i) { return (a.v[i] + kRounder) - kRounder; });
}
inline Vec Ldexp(Vec a, Vec n) {
  return MapLanes([&](int i) {
    return a.v[i] * std::bit_cast<float>((std::bit_cast<uint32_t>(n.v[i] + kRounder) + 127) << 23);
  });
}
inline void SplitExponent(Vec a, Vec& mantissa, Vec& exponent) {
  for (int i = 0; i < kLanes; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(a.v[i]);
    const int32_t e = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;
    mantissa.v[i] = std::bit_cast<float>(bits - (static_cast<uint32_t>(e) << 23));
    exponent.v[i] = static_cast<float>(e);
  }
}
inline float Sum(Vec a) {
  return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7]));
}
inline float MaxOf(Vec a) {
  float m = a.v[0];
  for (int i = 1; i < kLanes; ++i) m = a.v[i] > m ? a.v[i] : m;
  return m;
}
inline Vec SwapPairs(Vec a) {
  return MapLanes([&](int i) { return a.v[i ^ 1]; });
}
inline Vec SelectPositive(Vec cond, Vec a, Vec b) {
  return MapLanes([&](int i) { return cond.v[i] > 0 ? a.v[i] : b.v[i]; });
}
#endif

// ---------------------------------------------------------------------------- all levels
// e^x, relative error below 3e-7 on [-87, 88]; 0 below, and clamped (finite) above.
inline Vec Exp(Vec x) {
  // the second operand of Min and Max wins when one is NaN, so a NaN goes through
  const Vec clamped = Min(Set(88.0f), Max(Set(-87.33f), x));
  const Vec n = Round(clamped * Set(1.44269504f));
  // two-part ln 2 (Cody and Waite): the first product is exact
  const Vec r = Fnma(n, Set(-2.12194440e-4f), Fnma(n, Set(0.693359375f), clamped));
  Vec p = Set(1.9875691500e-4f);
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  const Vec e = Ldexp(Fma(p, r * r, r + Set(1.0f)), n);
  return SelectPositive(Set(-87.33f) - x, Zero(), e);
}
inline Vec Sigmoid(Vec x) { return Set(1.0f) / (Set(1.0f) + Exp(Zero() - x)); }
inline Vec Abs(Vec x) { return Max(x, Zero() - x); }

// c[0] + c[1] x + ... by Horner's rule
template <int N>
inline Vec Polynomial(const float (&c)[N], Vec x) {
  Vec p = Set(c[N - 1]);
  for (int i = N - 2; i >= 0; --i) p = Fma(p, x, Set(c[i]));
  return p;
}

// The functions below: coefficients are minimax in relative error; NaN goes through, and the limits
// at 0 and infinity are exact. Errors in units of the last place are held by
// native/test/kernels/simd_test.cc.

// Natural logarithm, within 1 ulp, of subnormals too; -inf at 0, NaN below.
inline Vec Log(Vec x) {
  constexpr float kSmallest = 1.17549435e-38f, kLargest = 3.40282347e38f;
  const Vec subnormal = Set(kSmallest) - x;
  Vec m, e;
  SplitExponent(SelectPositive(subnormal, x * Set(8388608.0f), x), m, e);
  e = e - SelectPositive(subnormal, Set(23.0f), Zero());
  // log m = f - f^2 / 2 + f^3 P(f)
  const Vec f = m - Set(1.0f), square = f * f;
  const Vec p = Polynomial({3.333333171e-1f, -2.500082104e-1f, 2.000122687e-1f, -1.662335730e-1f,
                            1.420175823e-1f, -1.316018306e-1f, 1.276157564e-1f, -7.634493017e-2f},
                           f);
  const Vec tail = Fma(e, Set(-2.12194440e-4f), Fma(square * f, p, square * Set(-0.5f)));
  const Vec log = Fma(e, Set(0.693359375f), f + tail);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const Vec outside =
      SelectPositive(Zero() - x, Set(std::numeric_limits<float>::quiet_NaN()), x - Set(kInfinity));
  return SelectPositive(x, SelectPositive(x - Set(kLargest), x, log), outside);
}

// Within 2 ulp.
inline Vec Tanh(Vec x) {
  const Vec a = Abs(x), square = x * x;
  const Vec p = Polynomial(
      {-3.333328194e-1f, 1.333144220e-1f, -5.373971522e-2f, 2.063908765e-2f, -5.704987420e-3f},
      square);
  const Vec far = Fma(Set(-2.0f), Set(1.0f) / (Exp(a + a) + Set(1.0f)), Set(1.0f));
  return SelectPositive(a - Set(0.625f), SelectPositive(x, far, Zero() - far),
                        Fma(x * square, p, x));
}

// 2 / sqrt(pi) times the integral of e^-t^2 from 0 to x, within 2 ulp.
inline Vec Erf(Vec x) {
  const Vec a = Min(Set(4.0f), Abs(x));
  const Vec near = Polynomial({1.283791575e-1f, -3.761255049e-1f, 1.128245549e-1f, -2.679146768e-2f,
                               5.032187312e-3f, -6.203283324e-4f},
                              a * a);
  const Vec log_rest = Polynomial({1.335742446e-4f, 1.127936130f, 6.367372233e-1f, 1.043275118e-1f,
                                   -2.242022155e-2f, 3.092293223e-3f, -2.009963479e-4f},
                                  a);
  const Vec far = Set(1.0f) - Exp(Zero() - log_rest);
  return SelectPositive(a - Set(0.875f), SelectPositive(x, far, Zero() - far), Fma(x, near, x));
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
