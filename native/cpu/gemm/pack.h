// Packing into the two layouts the inner kernels read (words: see words.h).
//
//   A block  [rows][kStrideA]       a row's words of one K block; the constant row stride lets the
//                                   kernel reach every row by displacement and spreads cache sets
//   A block  [words][kStepA]        by columns: kRows neighbours for every word of K. For an A that
//                                   runs down K (dW), which is then copied and never transposed
//   B panel  [words][kPanel]        kPanel neighbouring columns for every word of K
//
// Those of rows and panels are padded with zeros to whole kLanes words, so kernels with wider K
// steps read zeros.
#pragma once

#include <algorithm>
#include <cstdint>

#include "native/cpu/gemm/gemm.h"
#include "native/cpu/gemm/words.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// Shape of the vector kernel's block: kRows x kPanel accumulators fill the register file.
#if FUSELM_HAS_AVX512
inline constexpr int kRows = 14, kVecs = 2;
#elif FUSELM_IS_AVX2
inline constexpr int kRows = 6, kVecs = 2;
#else
inline constexpr int kRows = 4, kVecs = 1;
#endif
inline constexpr int kPanel = kVecs * kLanes;

// Words of K per block: a panel of B (kBlockWords x kPanel) stays in L1 while rows of A pass.
inline constexpr int64_t kBlockWords = 192;
inline constexpr int64_t kStrideA = kBlockWords + 16;

constexpr int64_t RoundUp(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
inline constexpr int64_t kStepA = RoundUp(kRows, kLanes);

// Rows of one block of the kernel that serves T at this level.
template <class T>
inline constexpr bool kTiles = FUSELM_IS_AMX && kPerWord<T> == 2;
template <class T>
inline constexpr int kBlockRows = kTiles<T> ? 32 : kRows;

// What `rows` of A take in either layout.
template <class T>
constexpr int64_t kFloatsA(int64_t rows) {
  const int64_t by_rows = (RoundUp(rows, kBlockRows<T>) + kLanes) * kStrideA;
  return std::max(by_rows, RoundUp(rows, kRows) / kRows * kBlockWords * kStepA);
}

// Rows [i0, i0 + rows) of an operand, elements [k0, k0 + len) of K, into dst[rows][kStrideA].
// May write up to kLanes - 1 rows past the last.
template <class T>
void PackA(const GemmOperand& a, int64_t i0, int64_t rows, int64_t k0, int64_t len, float* dst) {
  const T* data = static_cast<const T*>(a.data);
  constexpr int64_t step = int64_t{kLanes} * kPerWord<T>;
  if (a.along_k) {
    for (int64_t r = 0; r < rows; ++r) {
      const T* row = data + (i0 + r) * a.stride + k0;
      float* out = dst + r * kStrideA;
      for (int64_t k = 0; k < len; k += step, out += kLanes) Store(out, RowWords(row + k, len - k));
    }
    return;
  }
  for (int64_t r = 0; r < rows; r += kLanes) {
    for (int64_t k = 0; k < len; k += step) {
      const T* p = data + (k0 + k) * a.stride + i0 + r;
      Vec block[kLanes];
      for (int w = 0; w < kLanes; ++w) {
        const int64_t at = w * kPerWord<T>;
        block[w] = ColWords(p + at * a.stride, a.stride, rows - r, len - k - at);
      }
      Transpose(block);
      float* out = dst + r * kStrideA + k / kPerWord<T>;
      for (int i = 0; i < kLanes; ++i) Store(out + i * kStrideA, block[i]);
    }
  }
}

// The same rows of an operand that runs down K, as column blocks: blocks of kRows rows,
// kBlockWords * kStepA apart. Rows past the last are zeros.
template <class T>
void PackColumnsA(const GemmOperand& a, int64_t i0, int64_t rows, int64_t k0, int64_t len,
                  float* dst) {
  const T* data = static_cast<const T*>(a.data) + k0 * a.stride + i0;
  for (int64_t k = 0; k < len; k += kPerWord<T>, dst += kStepA) {
    const T* row = data + k * a.stride;
    float* out = dst;
    for (int64_t r = 0; r < rows; r += kRows, out += kBlockWords * kStepA)
      for (int64_t i = 0; i < kStepA; i += kLanes)
        Store(out + i, ColWords(row + r + i, a.stride, rows - r - i, len - k));
  }
}

// Packs a panel of a B whose K runs along its rows. load(column, k, left) returns kLanes words of
// that column from element k of K on, zeros past the `left` elements that remain; k counts from the
// start of B.
template <class T, class Load>
void PackAlongK(const GemmPanel& panel, const Load& load) {
  constexpr int64_t step = int64_t{kLanes} * kPerWord<T>;
  float* dst = panel.dst;
  for (int64_t k = 0; k < panel.len; k += step) {
    for (int j = 0; j < kVecs; ++j) {
      Vec block[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const int64_t at = j * kLanes + i;
        block[i] =
            at < panel.columns ? load(panel.column + at, panel.k0 + k, panel.len - k) : Zero();
      }
      Transpose(block);
      for (int w = 0; w < kLanes; ++w) Store(dst + w * kPanel + j * kLanes, block[w]);
    }
    dst += kLanes * kPanel;
  }
}

// Packs a panel of a B whose K runs down its rows. load(k, column, left, left_k) returns the words
// at element k of K for kLanes columns, zeros past the `left` that exist; of a word of two elements
// the second is zero when left_k is 1.
template <class T, class Load>
void PackDownK(const GemmPanel& panel, const Load& load) {
  const int64_t words = RoundUp(WordsOf<T>(panel.len), kLanes);
  float* dst = panel.dst;
  for (int64_t w = 0; w < words; ++w, dst += kPanel) {
    const int64_t k = w * kPerWord<T>;
    for (int j = 0; j < kVecs; ++j) {
      const int64_t left = panel.columns - j * kLanes;
      Store(dst + j * kLanes,
            left > 0 && k < panel.len
                ? load(panel.k0 + k, panel.column + j * kLanes, left, panel.len - k)
                : Zero());
    }
  }
}

template <class T>
void PackB(const GemmOperand& b, const GemmPanel& panel) {
  if (b.pack) return b.pack(b.data, panel);
  const T* data = static_cast<const T*>(b.data);
  if (b.along_k)
    return PackAlongK<T>(panel, [&](int64_t column, int64_t k, int64_t left) {
      return RowWords(data + column * b.stride + k, left);
    });
  PackDownK<T>(panel, [&](int64_t k, int64_t column, int64_t left, int64_t left_k) {
    return ColWords(data + k * b.stride + column, b.stride, left, left_k);
  });
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
