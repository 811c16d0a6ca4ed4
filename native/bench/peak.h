// The machine's multiply-add ceiling at a level, all workers at once, operands in registers.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <chrono>

#include "native/bench/runner.h"

namespace fuselm::bench {

inline constexpr int64_t kPeakSteps = 1'000'000;

[[gnu::target("avx512f")]] inline void Burn512() {
  __m512 acc[16], x = _mm512_set1_ps(1.0f), y = _mm512_set1_ps(1e-9f);
  for (auto& a : acc) a = x;
  for (int64_t i = 0; i < kPeakSteps; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) acc[j] = _mm512_fmadd_ps(x, y, acc[j]);
    asm volatile("" : "+v"(x), "+v"(y));
  }
  for (auto& a : acc) asm volatile("" ::"v"(a));
}
[[gnu::target("avx512f,avx512bf16")]] inline void BurnBf16() {
  __m512 acc[16];
  __m512i x = _mm512_set1_epi32(0x3f803f80), y = _mm512_set1_epi32(0x30003000);
  for (auto& a : acc) a = _mm512_setzero_ps();
  for (int64_t i = 0; i < kPeakSteps; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) acc[j] = _mm512_dpbf16_ps(acc[j], (__m512bh)x, (__m512bh)y);
    asm volatile("" : "+v"(x), "+v"(y));
  }
  for (auto& a : acc) asm volatile("" ::"v"(a));
}
[[gnu::target("avx2,fma")]] inline void Burn256() {
  __m256 acc[12], x = _mm256_set1_ps(1.0f), y = _mm256_set1_ps(1e-9f);
  for (auto& a : acc) a = x;
  for (int64_t i = 0; i < kPeakSteps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) acc[j] = _mm256_fmadd_ps(x, y, acc[j]);
    asm volatile("" : "+x"(x), "+x"(y));
  }
  for (auto& a : acc) asm volatile("" ::"x"(a));
}
[[gnu::target("sse2")]] inline void Burn128() {
  __m128 acc[12], x = _mm_set1_ps(1.0f), y = _mm_set1_ps(1e-9f);
  for (auto& a : acc) a = x;
  for (int64_t i = 0; i < kPeakSteps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) acc[j] = _mm_add_ps(_mm_mul_ps(x, y), acc[j]);
    asm volatile("" : "+x"(x), "+x"(y));
  }
  for (auto& a : acc) asm volatile("" ::"x"(a));
}

// 4 x 8-bit products summed into 32 bits; without VNNI that is three instructions.
[[gnu::target("avx512f,avx512vnni")]] inline void BurnVnni() {
  __m512i acc[16], x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(1);
  for (auto& a : acc) a = _mm512_setzero_si512();
  for (int64_t i = 0; i < kPeakSteps; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) acc[j] = _mm512_dpbusd_epi32(acc[j], x, y);
    asm volatile("" : "+v"(x), "+v"(y));
  }
  for (auto& a : acc) asm volatile("" ::"v"(a));
}
[[gnu::target("avx2")]] inline void BurnInt8() {
  __m256i acc[8], x = _mm256_set1_epi8(1), y = _mm256_set1_epi8(1);
  const __m256i ones = _mm256_set1_epi16(1);
  for (auto& a : acc) a = _mm256_setzero_si256();
  for (int64_t i = 0; i < kPeakSteps; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      asm volatile("" : "+x"(x), "+x"(y));  // else one product would serve all
      acc[j] = _mm256_add_epi32(acc[j], _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), ones));
    }
  }
  for (auto& a : acc) asm volatile("" ::"x"(a));
}

// Four accumulators, two tiles of each operand: every tile instruction independent of the last.
struct alignas(64) PeakTiles {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
// The tile intrinsics of GCC are statements, with literal numbers.
#define FUSELM_ZERO_TILES() \
  do {                      \
    _tile_zero(0);          \
    _tile_zero(1);          \
    _tile_zero(2);          \
    _tile_zero(3);          \
    _tile_zero(4);          \
    _tile_zero(5);          \
    _tile_zero(6);          \
    _tile_zero(7);          \
  } while (0)
[[gnu::target("amx-tile,amx-bf16,amx-int8")]] inline void BurnTilesBf16() {
  const PeakTiles config;
  _tile_loadconfig(&config);
  FUSELM_ZERO_TILES();
  for (int64_t i = 0; i < kPeakSteps; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}
[[gnu::target("amx-tile,amx-bf16,amx-int8")]] inline void BurnTilesInt8() {
  const PeakTiles config;
  _tile_loadconfig(&config);
  FUSELM_ZERO_TILES();
  for (int64_t i = 0; i < kPeakSteps; ++i) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
}
#undef FUSELM_ZERO_TILES

enum class Arithmetic { kF32, kBf16, kInt8 };

// GFLOP/s (GOP/s for int8). A level without instructions for the type is limited by those it has:
// bf16 by float32's, int8 at generic by float32's too.
inline double PeakGflops(ThreadRunner& runner, Level level, Arithmetic arithmetic) {
  void (*burn)() = Burn128;
  double flop = 12 * 4 * 2;
  if (level == Level::kAvx2) burn = Burn256, flop = 12 * 8 * 2;
  if (level >= Level::kAvx512) burn = Burn512, flop = 16 * 16 * 2;
  if (arithmetic == Arithmetic::kBf16) {
    if (level == Level::kAvx512Bf16) burn = BurnBf16, flop = 16 * 32 * 2;
    if (level == Level::kAmx) burn = BurnTilesBf16, flop = 4 * 16 * 16 * 32 * 2;
  } else if (arithmetic == Arithmetic::kInt8) {
    if (level == Level::kAvx2) burn = BurnInt8, flop = 8 * 32 * 2;
    if (level >= Level::kAvx512) burn = BurnVnni, flop = 16 * 64 * 2;
    if (level == Level::kAmx) burn = BurnTilesInt8, flop = 4 * 16 * 16 * 64 * 2;
  }
  double best = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const int64_t tiles = runner.workers() * 8;
    const auto start = std::chrono::steady_clock::now();
    runner.Run(
        tiles, [](void* f, int64_t, int) { reinterpret_cast<void (*)()>(f)(); },
        reinterpret_cast<void*>(burn));
    const double s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, flop * kPeakSteps * tiles / s * 1e-9);
  }
  return best;
}

}  // namespace fuselm::bench
