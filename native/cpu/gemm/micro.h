// The inner kernels: one block of C from a block of A rows and one B panel (layouts in pack.h).
// Both add `words` of K to the block, start from `c` when `load`, and hand each finished row to
// the epilogue when `last`, else leave it in `c`.
#pragma once

#include <cstdint>

#if FUSELM_IS_AMX
#include "native/cpu/amx.h"
#endif
#include "native/cpu/gemm/pack.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

struct MicroArgs {
  const float* a;
  bool columns;  // a is a column block
  const float* b;
  float* c;  // kRows x kPanel floats (32 x 32 for tiles), `stride` floats a row
  int64_t stride;
  int64_t words;
  int64_t m, rows, n, cols;  // where the block lies in C, and how much of it is inside
  bool load, last;
};

// kR rows in registers. Rows beyond args.rows are computed from whatever the A block holds there
// and dropped.
template <class T, int kR, bool kColumns, class Epilogue>
[[gnu::noinline]] void MicroRows(const MicroArgs& g, const Epilogue& epilogue) {
  Vec acc[kR][kVecs];
  if (g.load) {
#pragma GCC unroll 16
    for (int i = 0; i < kR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) acc[i][j] = Load(g.c + i * g.stride + j * kLanes);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < kR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) acc[i][j] = Zero();
  }
  const float* a = g.a;
  const float* b = g.b;
#pragma GCC unroll 1
  for (int64_t w = 0; w < g.words; ++w, a += kColumns ? kStepA : 1, b += kPanel) {
    Vec bv[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) bv[j] = Load(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kR; ++i) {
      const Vec av = Set(a[i * (kColumns ? 1 : kStrideA)]);
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) acc[i][j] = MulAdd<T>(acc[i][j], av, bv[j]);
    }
  }
  if (!g.last) {
#pragma GCC unroll 16
    for (int i = 0; i < kR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) Store(g.c + i * g.stride + j * kLanes, acc[i][j]);
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kR; ++i) {
    if (i >= g.rows) return;
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j)
      if (j * kLanes < g.cols) epilogue(g.m + i, g.n + j * kLanes, acc[i][j], g.cols - j * kLanes);
  }
}

#if FUSELM_IS_AMX
// 32 x 32 of C in four tiles; two tiles of A rows, two of B columns. `words` rounds up to 16.
template <class Epilogue>
[[gnu::noinline]] void MicroTiles(const MicroArgs& g, const Epilogue& epilogue) {
  static_assert(kPanel == 32 && kLanes == 16);
  constexpr int64_t kBytesA = kStrideA * 4, kBytesB = kPanel * 4;
  const int64_t bytes_c = g.stride * 4;
  float* const c[4] = {g.c, g.c + 16, g.c + 16 * g.stride, g.c + 16 * g.stride + 16};
  const bool tall = g.rows > 16;
  if (g.load) {
    tmm::Load<0>(c[0], bytes_c);
    tmm::Load<1>(c[1], bytes_c);
    if (tall) tmm::Load<2>(c[2], bytes_c);
    if (tall) tmm::Load<3>(c[3], bytes_c);
  } else {
    tmm::Clear<0>();
    tmm::Clear<1>();
    tmm::Clear<2>();
    tmm::Clear<3>();
  }
  const float* a = g.a;
  const float* b = g.b;
  if (tall) {
    for (int64_t w = 0; w < g.words; w += 16, a += 16, b += 16 * kPanel) {
      tmm::Load<6>(b, kBytesB);
      tmm::Load<4>(a, kBytesA);
      tmm::DotBf16<0, 4, 6>();
      tmm::Load<7>(b + 16, kBytesB);
      tmm::DotBf16<1, 4, 7>();
      tmm::Load<5>(a + 16 * kStrideA, kBytesA);
      tmm::DotBf16<2, 5, 6>();
      tmm::DotBf16<3, 5, 7>();
    }
  } else {
    for (int64_t w = 0; w < g.words; w += 16, a += 16, b += 16 * kPanel) {
      tmm::Load<6>(b, kBytesB);
      tmm::Load<4>(a, kBytesA);
      tmm::DotBf16<0, 4, 6>();
      tmm::Load<7>(b + 16, kBytesB);
      tmm::DotBf16<1, 4, 7>();
    }
  }
  tmm::Store<0>(c[0], bytes_c);
  tmm::Store<1>(c[1], bytes_c);
  if (tall) tmm::Store<2>(c[2], bytes_c);
  if (tall) tmm::Store<3>(c[3], bytes_c);
  if (!g.last) return;
  for (int64_t i = 0; i < g.rows; ++i)
    for (int64_t j = 0; j < g.cols; j += kLanes)
      epilogue(g.m + i, g.n + j, Load(g.c + i * g.stride + j), g.cols - j);
}
#endif

template <class T, class Epilogue>
inline void Micro(const MicroArgs& g, const Epilogue& epilogue) {
#if FUSELM_IS_AMX
  if constexpr (kTiles<T>) return MicroTiles(g, epilogue);
#endif
  constexpr int kHalf = kRows > 8 ? 8 : (kRows + 1) / 2 + 1;
  const auto run = [&]<bool kColumns>() {
    if (g.rows > kHalf) return MicroRows<T, kRows, kColumns>(g, epilogue);
    if (g.rows > 2) return MicroRows<T, kHalf, kColumns>(g, epilogue);
    MicroRows<T, 2, kColumns>(g, epilogue);
  };
  g.columns ? run.template operator()<true>() : run.template operator()<false>();
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
