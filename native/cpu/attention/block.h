// The blocks attention is made of: packing rows of K, Q, V into the operand layouts of a small
// matrix product, that product, and 2^x. Everything is counted in words of 32 bits: a float, or a
// pair of bf16 neighbours along the summed dimension ("pack" 2), so one code serves both.
//
//   rows    [r][ld]       a row of the source, widened to float or as bf16 pairs, zero-padded
//   turned  [D/pack][64]  the transpose of 64 rows: B operand of Q K^T
//   paired  [r/pack][ld]  neighbouring rows interleaved: B operand of P V (float: the rows)
#pragma once

#include <cstring>

#include "native/core/kernel.h"
#include "native/cpu/exp2.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

inline constexpr int64_t kKeys = 64;  // keys of one block
inline constexpr int64_t kRows = 32;  // queries of one sub-block

inline int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

#if FUSELM_HAS_AVX512
inline constexpr int kStrip = 4;  // vectors of C a micro-kernel holds per row
#elif FUSELM_IS_AVX2
inline constexpr int kStrip = 3;
#else
inline constexpr int kStrip = 1;
#endif
inline constexpr int64_t kStep = 4;  // rows of C a micro-kernel holds

// Words are floats; inputs of either dtype are widened.
struct FloatWords {
  using Word = float;
  static constexpr int kPack = 1;
  static inline Vec Broadcast(const float* a) { return Set(*a); }
  static inline Vec Multiply(Vec a, const float* b, Vec c) { return Fma(a, Load(b), c); }

  template <class T>
  static void Row(const T* from, int64_t D, float* to, int64_t ld) {
    int64_t i = 0;
    for (; i + kLanes <= D; i += kLanes) Store(to + i, Load(from + i));
    for (; i < ld; i += kLanes) Store(to + i, i < D ? LoadN(from + i, D - i) : Zero());
  }
};

#if FUSELM_IS_AVX512BF16 || FUSELM_IS_AMX
// Words are pairs of bf16.
struct Bf16Words {
  using Word = uint32_t;
  static constexpr int kPack = 2;
  static inline Vec Broadcast(const uint32_t* a) {
    return {_mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(*a)))};
  }
  static inline Vec Multiply(Vec a, const uint32_t* b, Vec c) {
    return {
        _mm512_dpbf16_ps(c.v, (__m512bh)_mm512_castps_si512(a.v), (__m512bh)_mm512_loadu_si512(b))};
  }
  static void Row(const bf16* from, int64_t D, uint32_t* to, int64_t ld) {
    std::memcpy(to, from, D * sizeof(bf16));
    std::memset(reinterpret_cast<bf16*>(to) + D, 0, (2 * ld - D) * sizeof(bf16));
  }
};
#endif

// Words of one source row: D values, padded to whole vectors of words.
template <class Words>
inline int64_t RowWords(int64_t D) {
  return RoundUp((D + Words::kPack - 1) / Words::kPack, kLanes);
}

// `count` rows from a strided source, then zero rows up to `padded`.
template <class Words, class T>
inline void PackRows(const T* from, int64_t stride, int64_t count, int64_t padded, int64_t D,
                     typename Words::Word* to, int64_t ld) {
  for (int64_t r = 0; r < count; ++r) Words::Row(from + r * stride, D, to + r * ld, ld);
  if (padded > count) std::memset(to + count * ld, 0, (padded - count) * ld * sizeof(*to));
}

#if FUSELM_HAS_AVX512
// One 16 x 16 block of words.
inline void TransposeBlock(const void* from, int64_t ld, void* to, int64_t ld_to) {
  const auto* p = static_cast<const float*>(from);
  auto* q = static_cast<float*>(to);
  __m512 a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(p + i * ld);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    const auto lo = [](__m512 x, __m512 y) {
      return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
    };
    const auto hi = [](__m512 x, __m512 y) {
      return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
    };
    a[i] = lo(b[i], b[i + 2]);
    a[i + 1] = hi(b[i], b[i + 2]);
    a[i + 2] = lo(b[i + 1], b[i + 3]);
    a[i + 3] = hi(b[i + 1], b[i + 3]);
  }
  // a[4g + c] holds, in 128-bit lane l, column 4l + c of rows 4g .. 4g + 3
  for (int c = 0; c < 4; ++c) {
    const __m512 even01 = _mm512_shuffle_f32x4(a[c], a[4 + c], 0x88);
    const __m512 odd01 = _mm512_shuffle_f32x4(a[c], a[4 + c], 0xdd);
    const __m512 even23 = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0x88);
    const __m512 odd23 = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0xdd);
    _mm512_storeu_ps(q + c * ld_to, _mm512_shuffle_f32x4(even01, even23, 0x88));
    _mm512_storeu_ps(q + (4 + c) * ld_to, _mm512_shuffle_f32x4(odd01, odd23, 0x88));
    _mm512_storeu_ps(q + (8 + c) * ld_to, _mm512_shuffle_f32x4(even01, even23, 0xdd));
    _mm512_storeu_ps(q + (12 + c) * ld_to, _mm512_shuffle_f32x4(odd01, odd23, 0xdd));
  }
}
#elif FUSELM_IS_AVX2
// One 8 x 8 block of words.
inline void TransposeBlock(const void* from, int64_t ld, void* to, int64_t ld_to) {
  const auto* p = static_cast<const float*>(from);
  auto* q = static_cast<float*>(to);
  __m256 a[8], b[8];
  for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(p + i * ld);
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
    a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
    a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
  }
  for (int c = 0; c < 4; ++c) {
    _mm256_storeu_ps(q + c * ld_to, _mm256_permute2f128_ps(a[c], a[4 + c], 0x20));
    _mm256_storeu_ps(q + (4 + c) * ld_to, _mm256_permute2f128_ps(a[c], a[4 + c], 0x31));
  }
}
#else
inline void TransposeBlock(const void* from, int64_t ld, void* to, int64_t ld_to) {
  const auto* p = static_cast<const uint32_t*>(from);
  auto* q = static_cast<uint32_t*>(to);
  for (int r = 0; r < kLanes; ++r)
    for (int c = 0; c < kLanes; ++c) q[c * ld_to + r] = p[r * ld + c];
}
#endif

// kKeys rows of ld words to turned [ld][kKeys].
template <class Word>
inline void Turn(const Word* rows, int64_t ld, Word* to) {
  for (int64_t c = 0; c < ld; c += kLanes)
    for (int64_t r = 0; r < kKeys; r += kLanes)
      TransposeBlock(rows + r * ld + c, ld, to + c * kKeys + r, kKeys);
}

// `count` rows (even) of ld words to paired [count/2][2 ld]. Float rows are paired as they are.
template <class Words>
inline void Pair(const typename Words::Word* rows, int64_t ld, int64_t count,
                 typename Words::Word* to) {
#if FUSELM_IS_AVX512BF16 || FUSELM_IS_AMX
  for (int64_t r = 0; r < count; r += 2) {
    const uint32_t *a = rows + r * ld, *b = a + ld;
    uint32_t* out = to + r * ld;
    for (int64_t i = 0; i < 2 * ld; i += 16) {
      const auto half = [i](const uint32_t* p) {
        return _mm512_cvtepu16_epi32(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i / 2)));
      };
      _mm512_storeu_si512(out + i, _mm512_or_si512(half(a), _mm512_slli_epi32(half(b), 16)));
    }
  }
#else
  (void)rows, (void)ld, (void)count, (void)to;
#endif
}

// C [kStep][kCols vectors] (+)= A B. a_row and a_k are the distances in A of one row and of one
// step along the sum, so a transposed A costs nothing.
template <class Words, int kCols>
inline void Micro(const typename Words::Word* a, int64_t a_row, int64_t a_k,
                  const typename Words::Word* b, int64_t ldb, float* c, int64_t ldc, int64_t depth,
                  bool add) {
  Vec acc[kStep][kCols];
  for (int r = 0; r < kStep; ++r)
    for (int j = 0; j < kCols; ++j) acc[r][j] = add ? Load(c + r * ldc + j * kLanes) : Zero();
  for (int64_t k = 0; k < depth; ++k) {
    for (int r = 0; r < kStep; ++r) {
      const Vec x = Words::Broadcast(a + r * a_row + k * a_k);
      for (int j = 0; j < kCols; ++j)
        acc[r][j] = Words::Multiply(x, b + k * ldb + j * kLanes, acc[r][j]);
    }
  }
  for (int r = 0; r < kStep; ++r)
    for (int j = 0; j < kCols; ++j) Store(c + r * ldc + j * kLanes, acc[r][j]);
}

#if !FUSELM_IS_AMX
// Columns come in whole blocks of this many elements.
inline constexpr int64_t kBlock = kLanes;
struct TileRegisters {
  TileRegisters() {}  // user-provided: an unused local of this type is no warning
};

// C [rows][columns] (+)= A [rows][depth] B [depth][columns]; rows a multiple of kStep, columns
// rounded up to whole vectors.
template <class Words>
void Product(const typename Words::Word* a, int64_t a_row, int64_t a_k,
             const typename Words::Word* b, int64_t ldb, float* c, int64_t ldc, int64_t rows,
             int64_t columns, int64_t depth, bool add) {
  const int64_t vectors = (columns + kLanes - 1) / kLanes;
  for (int64_t v = 0; v < vectors; v += kStrip) {
    const int64_t at = v * kLanes;
    for (int64_t r = 0; r < rows; r += kStep) {
      const auto* ar = a + r * a_row;
      float* cr = c + r * ldc + at;
      switch (std::min<int64_t>(kStrip, vectors - v)) {
#if FUSELM_HAS_AVX512
        case 4: Micro<Words, 4>(ar, a_row, a_k, b + at, ldb, cr, ldc, depth, add); break;
#endif
#if FUSELM_HAS_AVX512 || FUSELM_IS_AVX2
        case 3: Micro<Words, 3>(ar, a_row, a_k, b + at, ldb, cr, ldc, depth, add); break;
        case 2: Micro<Words, 2>(ar, a_row, a_k, b + at, ldb, cr, ldc, depth, add); break;
#endif
        default: Micro<Words, 1>(ar, a_row, a_k, b + at, ldb, cr, ldc, depth, add);
      }
    }
  }
}
#endif

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm

#if FUSELM_IS_AMX
#include "native/cpu/attention/amx_product.h"
#endif
