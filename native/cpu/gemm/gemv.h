// Products with at most kGemvRows rows of A (a step of decoding): bound by reading B once, so
// nothing is packed. Each element is summed in an order of its own, set by shapes alone.
#pragma once

#include <algorithm>

#include "native/cpu/gemm/gemm.h"
#include "native/cpu/gemm/words.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

inline constexpr int64_t kGemvRows = 4;
inline constexpr int64_t kGemvStrip = 128;  // columns of a B that runs down K

inline bool IsGemv(const GemmProblem& p) {
  if (p.m > kGemvRows || p.out.on_block || !p.out.columns.empty()) return false;
  for (const GemmSegment& s : p.segments)
    if (!s.a.along_k || s.b.pack || s.b.along_k != p.segments[0].b.along_k) return false;
  return true;
}

// Columns [n0, n1) of C, every column of B along K: dot products, four columns at a time.
template <class T, int kM, class Epilogue>
void GemvAlongK(const GemmProblem& p, int64_t n0, int64_t n1, const Epilogue& epilogue) {
  constexpr int kColumns = 4;
  constexpr int64_t kStep = int64_t{kLanes} * kPerWord<T>;
  for (int64_t n = n0; n < n1; n += kLanes) {
    float sums[kM][kLanes] = {};
    for (int64_t j = n; j < std::min(n + kLanes, n1); j += kColumns) {
      Vec acc[kM][kColumns];
      for (auto& row : acc)
        for (Vec& v : row) v = Zero();
      for (const GemmSegment& s : p.segments) {
        const T *a[kM], *b[kColumns];
        for (int m = 0; m < kM; ++m) a[m] = static_cast<const T*>(s.a.data) + m * s.a.stride;
        for (int c = 0; c < kColumns; ++c)  // past the end: the last column again, dropped below
          b[c] = static_cast<const T*>(s.b.data) + std::min(j + c, n1 - 1) * s.b.stride;
        for (int64_t k = 0; k < s.k; k += kStep) {
          Vec x[kM];
          for (int m = 0; m < kM; ++m) x[m] = RowWords(a[m] + k, s.k - k);
          for (int c = 0; c < kColumns; ++c) {
            const Vec w = RowWords(b[c] + k, s.k - k);
            for (int m = 0; m < kM; ++m) acc[m][c] = MulAdd<T>(acc[m][c], x[m], w);
          }
        }
      }
      for (int m = 0; m < kM; ++m)
        for (int c = 0; c < kColumns; ++c) sums[m][j - n + c] = Sum(acc[m][c]);
    }
    for (int m = 0; m < kM; ++m) epilogue(m, n, Load(sums[m]), n1 - n);
  }
}

// Columns [n0, n1) of C, at most kGemvStrip, every row of B across them: sums of scaled rows.
template <class T, int kM, class Epilogue>
void GemvDownK(const GemmProblem& p, int64_t n0, int64_t n1, const Epilogue& epilogue) {
  constexpr int kDeep = 4;
  float sums[kM][kGemvStrip] = {};
  for (const GemmSegment& s : p.segments)
    for (int64_t k = 0; k < s.k; k += kDeep) {
      Vec x[kM][kDeep];
      const T* row[kDeep];
      for (int d = 0; d < kDeep; ++d) {
        const int64_t at = std::min(k + d, s.k - 1);
        row[d] = static_cast<const T*>(s.b.data) + at * s.b.stride + n0;
        for (int m = 0; m < kM; ++m) {
          const T* a = static_cast<const T*>(s.a.data) + m * s.a.stride;
          x[m][d] = Set(static_cast<float>(a[at]));
        }
      }
      const int64_t depth = std::min<int64_t>(kDeep, s.k - k);
      for (int64_t j = 0; j < n1 - n0; j += kLanes) {
        Vec acc[kM];
        for (int m = 0; m < kM; ++m) acc[m] = Load(sums[m] + j);
        for (int d = 0; d < depth; ++d) {
          const Vec w = LoadN(row[d] + j, n1 - n0 - j);
          for (int m = 0; m < kM; ++m) acc[m] = Fma(x[m][d], w, acc[m]);
        }
        for (int m = 0; m < kM; ++m) Store(sums[m] + j, acc[m]);
      }
    }
  for (int m = 0; m < kM; ++m)
    for (int64_t j = 0; j < n1 - n0; j += kLanes)
      epilogue(m, n0 + j, Load(sums[m] + j), n1 - n0 - j);
}

template <class T, class Epilogue>
void Gemv(Invocation& inv, const GemmProblem& p, const Epilogue& epilogue) {
  const bool along = p.segments[0].b.along_k;
  int64_t k = 1;
  for (const GemmSegment& s : p.segments) k += s.k;
  const int64_t width =
      along ? std::max<int64_t>(kLanes, (int64_t{1} << 16) / k / kLanes * kLanes) : kGemvStrip;
  const auto tile = [&]<int kM>(int64_t n0) {
    const int64_t n1 = std::min(p.n, n0 + width);
    along ? GemvAlongK<T, kM>(p, n0, n1, epilogue) : GemvDownK<T, kM>(p, n0, n1, epilogue);
  };
  inv.ParallelFor((p.n + width - 1) / width, [&](int64_t i, int) noexcept {
    switch (p.m) {
      case 1: return tile.template operator()<1>(i * width);
      case 2: return tile.template operator()<2>(i * width);
      case 3: return tile.template operator()<3>(i * width);
      default: return tile.template operator()<4>(i * width);
    }
  });
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
