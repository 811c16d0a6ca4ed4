// The inner kernels of a product with int8 weights: one block of C from a block of A rows and one
// B panel (layouts of pack.h, words of int8_words.h). K goes in steps of one scale each: a step is
// summed in registers, then joins C in float32 as sum * (scale of the row * scale of the column).
#pragma once

#include <algorithm>
#include <cstdint>

#if FUSELM_IS_AMX
#include "native/cpu/amx.h"
#endif
#include "native/cpu/gemm/int8_words.h"
#include "native/cpu/gemm/pack.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

struct Int8Block {
  const float* a;  // [rows][kStrideA]
  const float* b;  // [words][kPanel]
  float* c;        // float32 sums so far, `stride` a row
  int64_t stride;
  int64_t words, step;   // of K in this block; of those, how many share a scale
  const float* scale_b;  // [kPanel] for the first step, `next_b` floats before the next one's
  int64_t next_b;
  const float* scale_a;   // of row 0 and the first step; null: 1. `row_a` floats before row 1's,
  int64_t row_a, next_a;  // `next_a` before the next step's
  const int32_t* sums;    // of x over each step, `row_sums` a row; null without kSums
  int64_t row_sums;
  int64_t m, rows, n, cols;  // where the block lies in C, and how much of it is inside
  bool first, last;          // of K: C starts; C is finished and goes to the epilogue
};

// sum * scale joins the sums so far, and goes on or out. The fused step is written out: it must
// round as Int8GemvDynamic does.
template <class Epilogue>
inline void Fold(const Int8Block& g, int64_t i, int64_t j, Vec sum, Vec scale, bool first,
                 bool last, const Epilogue& epilogue) {
  float* const at = g.c + i * g.stride + j;
  const Vec v = first ? sum * scale : Fma(sum, scale, Load(at));
  if (!last)
    Store(at, v);
  else if (j < g.cols)
    epilogue(g.m + i, g.n + j, v, g.cols - j);
}

// Rows beyond g.rows are computed from whatever the A block holds there and dropped.
template <class W, int kR, class Epilogue>
[[gnu::noinline]] void Int8MicroRows(const Int8Block& g, const Epilogue& epilogue) {
  const float* a = g.a;
  const float* b = g.b;
  for (int64_t done = 0, s = 0; done < g.words; done += g.step, ++s) {
    typename W::Acc acc[kR][kVecs];
#pragma GCC unroll 16
    for (int i = 0; i < kR; ++i) {
      const int32_t sum = W::kSums ? g.sums[i * g.row_sums + s] : 0;
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) acc[i][j] = W::Start(sum);
    }
    const int64_t words = std::min(g.step, g.words - done);
#pragma GCC unroll 1
    for (int64_t w = 0; w < words; ++w, ++a, b += kPanel) {
      Vec bv[kVecs];
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) bv[j] = Load(b + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kR; ++i) {
        const Vec av = Set(a[i * kStrideA]);
#pragma GCC unroll 4
        for (int j = 0; j < kVecs; ++j) acc[i][j] = W::MulAdd(acc[i][j], av, bv[j]);
      }
    }
    const bool first = g.first && s == 0, last = g.last && done + g.step >= g.words;
    Vec scale[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) scale[j] = Load(g.scale_b + s * g.next_b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kR; ++i) {
      if (i >= g.rows) break;
      const Vec row = g.scale_a ? Set(g.scale_a[i * g.row_a + s * g.next_a]) : Set(1.0f);
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j)
        Fold(g, i, j * kLanes, W::ToFloat(acc[i][j]), row * scale[j], first, last, epilogue);
    }
  }
}

#if FUSELM_IS_AMX
template <class W>
inline void Int8Dot(int64_t words, int64_t tile_words, const float* a, const float* b, bool tall) {
  constexpr int64_t kBytesA = kStrideA * 4, kBytesB = kPanel * 4;
  const auto dot = []<int kC, int kA, int kB>() {
    if constexpr (W::kPer == 4)
      tmm::DotInt8<kC, kA, kB>();
    else
      tmm::DotBf16<kC, kA, kB>();
  };
  for (int64_t w = 0; w < words; w += tile_words, a += tile_words, b += tile_words * kPanel) {
    tmm::Load<6>(b, kBytesB);
    tmm::Load<4>(a, kBytesA);
    dot.template operator()<0, 4, 6>();
    tmm::Load<7>(b + 16, kBytesB);
    dot.template operator()<1, 4, 7>();
    if (!tall) continue;
    tmm::Load<5>(a + 16 * kStrideA, kBytesA);
    dot.template operator()<2, 5, 6>();
    dot.template operator()<3, 5, 7>();
  }
}

// 32 x 32 of C in four tiles. A step's words round up to those of a tile: what follows the last
// step of K is zero.
template <class W, class Epilogue>
[[gnu::noinline]] void Int8MicroTiles(const Int8Block& g, int64_t tile_words,
                                      const Epilogue& epilogue) {
  static_assert(kPanel == 32 && kLanes == 16);
  alignas(64) float sum[32 * 32];
  const bool tall = g.rows > 16;
  for (int64_t done = 0, s = 0; done < g.words; done += g.step, ++s) {
    tmm::Clear<0>();
    tmm::Clear<1>();
    tmm::Clear<2>();
    tmm::Clear<3>();
    Int8Dot<W>(std::min(g.step, g.words - done), tile_words, g.a + done, g.b + done * kPanel, tall);
    tmm::Store<0>(sum, 128);
    tmm::Store<1>(sum + 16, 128);
    if (tall) tmm::Store<2>(sum + 16 * 32, 128);
    if (tall) tmm::Store<3>(sum + 16 * 32 + 16, 128);
    const bool first = g.first && s == 0, last = g.last && done + g.step >= g.words;
    const float* scale = g.scale_b + s * g.next_b;
    for (int64_t i = 0; i < g.rows; ++i) {
      const Vec row = g.scale_a ? Set(g.scale_a[i * g.row_a + s * g.next_a]) : Set(1.0f);
      for (int64_t j = 0; j < kPanel; j += kLanes) {
        Vec v = Load(sum + i * 32 + j);
        if constexpr (W::kPer == 4) v = {_mm512_cvtepi32_ps(_mm512_castps_si512(v.v))};
        Fold(g, i, j, v, row * Load(scale + j), first, last, epilogue);
      }
    }
  }
}
#endif

// Rows of a block of the kernel that serves W at this level.
template <class W>
inline constexpr int kInt8Rows = W::kTiles ? 32 : kRows;

template <class W, class Epilogue>
inline void Int8Micro(const Int8Block& g, [[maybe_unused]] int64_t tile_words,
                      const Epilogue& epilogue) {
#if FUSELM_IS_AMX
  if constexpr (W::kTiles) return Int8MicroTiles<W>(g, tile_words, epilogue);
#endif
  constexpr int kHalf = kRows > 8 ? 8 : (kRows + 1) / 2 + 1;
  if (g.rows > kHalf) return Int8MicroRows<W, kRows>(g, epilogue);
  if (g.rows > 2) return Int8MicroRows<W, kHalf>(g, epilogue);
  Int8MicroRows<W, 2>(g, epilogue);
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
