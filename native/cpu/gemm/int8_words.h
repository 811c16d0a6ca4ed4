// What the int8 weights are multiplied with, as the words of words.h: kPer neighbours in K each.
//
//   FloatWords<T>  x as it is. An int8 value is exact as bf16 and float32, so the weights enter the
//                  product without another rounding, and their scale joins the float32 sum.
//   Int8Words      x in int8: sums exact in int32.
//
// Each gives the words of rows of x (A) and of weights (B), the accumulator, and its value as
// float.
#pragma once

#include <cstdint>

#include "native/cpu/gemm/words.h"
#include "native/cpu/int8_vec.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

template <class T>
struct FloatWords {
  using Element = T;
  using Acc = Vec;
  static constexpr int kPer = kPerWord<T>;
  static constexpr bool kTiles = FUSELM_IS_AMX && kPer == 2;
  static constexpr bool kSums = false;
  static Vec RowA(const T* p, int64_t left) { return RowWords(p, left); }
  static Vec RowB(const int8_t* p, int64_t left) {
    if (left <= 0) return Zero();
#if FUSELM_GEMM_PAIRS
    if constexpr (kPer == 2) {
      const Vec low = LoadInt8N(p, left), high = left > 16 ? LoadInt8N(p + 16, left - 16) : Zero();
      return {_mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(high.v, low.v))};
    }
#endif
    return LoadInt8N(p, left);
  }
  static Acc Start(int32_t) { return Zero(); }
  static Acc MulAdd(Acc acc, Vec a, Vec b) { return FUSELM_LEVEL_NS::MulAdd<T>(acc, a, b); }
  static Vec ToFloat(Acc acc) { return acc; }
};

#if FUSELM_HAS_AVX512
// acc += unsigned a by signed b, four bytes to a lane. Not the intrinsic: GCC 12 does not tie its
// accumulator to one register, and spills half of a block.
inline void DotBytes(__m512i& acc, __m512i a, __m512i b) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
}
#endif

struct Int8Words {
  using Element = int8_t;
  static constexpr bool kTiles = FUSELM_IS_AMX;
#if FUSELM_HAS_AVX512
  struct Acc {
    __m512i v;
  };
  static constexpr int kPer = 4;
  // VPDPBUSD multiplies unsigned by signed: weights travel with 128 added, and sums start at
  // -128 times the sum of x. Tiles multiply signed by signed.
  static constexpr bool kSums = !kTiles;
  static Vec RowA(const int8_t* p, int64_t left) {
    if (left <= 0) return Zero();
    if (left >= 64) return {_mm512_loadu_ps(p)};
    return {_mm512_castsi512_ps(_mm512_maskz_loadu_epi8((uint64_t{1} << left) - 1, p))};
  }
  static Vec RowB(const int8_t* p, int64_t left) {
    const Vec words = RowA(p, left);
    if constexpr (kTiles) return words;
    return {_mm512_xor_ps(words.v, _mm512_castsi512_ps(_mm512_set1_epi32(0x80808080)))};
  }
  static Acc Start(int32_t sum) { return {_mm512_set1_epi32(-128 * sum)}; }
  static Acc MulAdd(Acc acc, Vec a, Vec b) {
    DotBytes(acc.v, _mm512_castps_si512(b.v), _mm512_castps_si512(a.v));
    return acc;
  }
  static Vec ToFloat(Acc acc) { return {_mm512_cvtepi32_ps(acc.v)}; }
#elif FUSELM_IS_AVX2
  // Pairs in 16 bits: VPMADDUBSW would saturate at 255 * 127 * 2.
  struct Acc {
    __m256i v;
  };
  static constexpr int kPer = 2;
  static constexpr bool kSums = false;
  static Vec RowA(const int8_t* p, int64_t left) {
    if (left <= 0) return Zero();
    int8_t part[16] = {};
    if (left < 16) std::memcpy(part, p, static_cast<size_t>(left));
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(left < 16 ? part : p));
    return {_mm256_castsi256_ps(_mm256_cvtepi8_epi16(bytes))};
  }
  static Vec RowB(const int8_t* p, int64_t left) { return RowA(p, left); }
  static Acc Start(int32_t) { return {_mm256_setzero_si256()}; }
  static Acc MulAdd(Acc acc, Vec a, Vec b) {
    return {_mm256_add_epi32(
        acc.v, _mm256_madd_epi16(_mm256_castps_si256(a.v), _mm256_castps_si256(b.v)))};
  }
  static Vec ToFloat(Acc acc) { return {_mm256_cvtepi32_ps(acc.v)}; }
#else
  // Floats hold these integers exactly: a step of K sums at most 192 products below 2^14.
  using Acc = Vec;
  static constexpr int kPer = 1;
  static constexpr bool kSums = false;
  static Vec RowA(const int8_t* p, int64_t left) { return left <= 0 ? Zero() : LoadInt8N(p, left); }
  static Vec RowB(const int8_t* p, int64_t left) { return RowA(p, left); }
  static Acc Start(int32_t) { return Zero(); }
  static Acc MulAdd(Acc acc, Vec a, Vec b) { return Fma(a, b, acc); }
  static Vec ToFloat(Acc acc) { return acc; }
#endif
};

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
