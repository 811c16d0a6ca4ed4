// The machine's multiply-add ceiling at a level, all workers at once, operands in registers.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <chrono>

#include "native/bench/runner.h"

namespace fuselm::bench {

inline constexpr int64_t kPeakSteps = 2'000'000;

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

// GFLOP/s. Levels without bf16 arithmetic are limited by their f32; AMX tiles are not measured
// here.
inline double PeakGflops(ThreadRunner& runner, Level level, bool bf16) {
  void (*burn)() = Burn128;
  double flop = 12 * 4 * 2;
  if (level == Level::kAvx2) burn = Burn256, flop = 12 * 8 * 2;
  if (level >= Level::kAvx512) burn = Burn512, flop = 16 * 16 * 2;
  if (level >= Level::kAvx512Bf16 && bf16) burn = BurnBf16, flop = 16 * 32 * 2;
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
