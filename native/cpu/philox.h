// Philox by vectors of 16 blocks; native/core/philox.h says what it is.
#pragma once

#include <array>
#include <cstdint>

#include "native/core/philox.h"
#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

using PhiloxKey = std::array<uint32_t, 4>;

// Lanes: one counter word of 16 blocks.
#if FUSELM_HAS_AVX512
struct PhiloxLanes {
  __m512i v;
};
inline PhiloxLanes LoadLanes(const uint32_t* p) { return {_mm512_load_si512(p)}; }
inline void StoreLanes(uint32_t* p, PhiloxLanes a) { _mm512_store_si512(p, a.v); }
inline PhiloxLanes Xor(PhiloxLanes a, PhiloxLanes b, uint32_t k) {
  return {_mm512_xor_si512(_mm512_xor_si512(a.v, b.v), _mm512_set1_epi32(static_cast<int>(k)))};
}
// The halves of the 64-bit products with m.
inline void Multiply(PhiloxLanes a, uint32_t m, PhiloxLanes& high, PhiloxLanes& low) {
  const __m512i factor = _mm512_set1_epi32(static_cast<int>(m));
  const __m512i even = _mm512_mul_epu32(a.v, factor);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), factor);
  high.v = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
  low.v = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
}
#elif FUSELM_IS_AVX2
struct PhiloxLanes {
  __m256i v[2];
};
inline PhiloxLanes LoadLanes(const uint32_t* p) {
  const auto* q = reinterpret_cast<const __m256i*>(p);
  return {{_mm256_load_si256(q), _mm256_load_si256(q + 1)}};
}
inline void StoreLanes(uint32_t* p, PhiloxLanes a) {
  auto* q = reinterpret_cast<__m256i*>(p);
  _mm256_store_si256(q, a.v[0]);
  _mm256_store_si256(q + 1, a.v[1]);
}
inline PhiloxLanes Xor(PhiloxLanes a, PhiloxLanes b, uint32_t k) {
  const __m256i key = _mm256_set1_epi32(static_cast<int>(k));
  for (int i = 0; i < 2; ++i) {
    a.v[i] = _mm256_xor_si256(_mm256_xor_si256(a.v[i], b.v[i]), key);
  }
  return a;
}
inline void Multiply(PhiloxLanes a, uint32_t m, PhiloxLanes& high, PhiloxLanes& low) {
  const __m256i factor = _mm256_set1_epi32(static_cast<int>(m));
  for (int i = 0; i < 2; ++i) {
    const __m256i even = _mm256_mul_epu32(a.v[i], factor);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a.v[i], 32), factor);
    high.v[i] = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    low.v[i] = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
  }
}
#else
struct PhiloxLanes {
  uint32_t v[16];
};
inline PhiloxLanes LoadLanes(const uint32_t* p) {
  PhiloxLanes a;
  for (int i = 0; i < 16; ++i) a.v[i] = p[i];
  return a;
}
inline void StoreLanes(uint32_t* p, const PhiloxLanes& a) {
  for (int i = 0; i < 16; ++i) p[i] = a.v[i];
}
inline PhiloxLanes Xor(PhiloxLanes a, const PhiloxLanes& b, uint32_t k) {
  for (int i = 0; i < 16; ++i) a.v[i] ^= b.v[i] ^ k;
  return a;
}
inline void Multiply(const PhiloxLanes& a, uint32_t m, PhiloxLanes& high, PhiloxLanes& low) {
  for (int i = 0; i < 16; ++i) {
    const uint64_t product = uint64_t{m} * a.v[i];
    high.v[i] = static_cast<uint32_t>(product >> 32);
    low.v[i] = static_cast<uint32_t>(product);
  }
}
#endif

// The words of elements [group * 64, group * 64 + 64), into memory aligned to 64 bytes.
inline void PhiloxWords(const PhiloxKey& key, int64_t group, uint32_t out[kPhiloxGroup]) {
  for (int i = 0; i < 16; ++i) {
    const uint64_t block = static_cast<uint64_t>(group) * 16 + static_cast<uint64_t>(i);
    out[i] = static_cast<uint32_t>(block);
    out[16 + i] = static_cast<uint32_t>(block >> 32);
    out[32 + i] = key[2];
    out[48 + i] = key[3];
  }
  PhiloxLanes c0 = LoadLanes(out), c1 = LoadLanes(out + 16);
  PhiloxLanes c2 = LoadLanes(out + 32), c3 = LoadLanes(out + 48);
  uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < kPhiloxRounds; ++round) {
    PhiloxLanes high0, low0, high2, low2;
    Multiply(c0, kPhiloxMultiplier0, high0, low0);
    Multiply(c2, kPhiloxMultiplier2, high2, low2);
    c0 = Xor(high2, c1, k0);
    c1 = low2;
    c2 = Xor(high0, c3, k1);
    c3 = low0;
    k0 += kPhiloxKeyStep0;
    k1 += kPhiloxKeyStep1;
  }
  StoreLanes(out, c0);
  StoreLanes(out + 16, c1);
  StoreLanes(out + 32, c2);
  StoreLanes(out + 48, c3);
}

// A word as a float in [0, 1): 24 bits, exact.
inline float PhiloxUniform(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
