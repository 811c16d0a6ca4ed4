// The matrix product of attention blocks on AMX tiles; included by block.h at that level.
#pragma once

#include "native/cpu/amx.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// Columns come in whole blocks of this many elements.
inline constexpr int64_t kBlock = 32;

// C [rows][columns] (+)= A [rows][depth] B [depth][columns] on blocks of 2 x 2 tiles; rows and
// columns multiples of 32 (columns and depth are rounded up: the layouts are padded with zeros),
// depth in words.
template <class Words>
void Product(const uint32_t* a, int64_t a_row, int64_t, const uint32_t* b, int64_t ldb, float* c,
             int64_t ldc, int64_t rows, int64_t columns, int64_t depth, bool add) {
  for (int64_t n = 0; n < columns; n += 32) {
    for (int64_t m = 0; m < rows; m += 32) {
      float* const c0 = c + m * ldc + n;
      float* const c1 = c0 + 16 * ldc;
      if (add) {
        tmm::Load<0>(c0, ldc * 4);
        tmm::Load<1>(c0 + 16, ldc * 4);
        tmm::Load<2>(c1, ldc * 4);
        tmm::Load<3>(c1 + 16, ldc * 4);
      } else {
        tmm::Clear<0>();
        tmm::Clear<1>();
        tmm::Clear<2>();
        tmm::Clear<3>();
      }
      for (int64_t k = 0; k < depth; k += 16) {
        tmm::Load<4>(a + m * a_row + k, a_row * 4);
        tmm::Load<6>(b + k * ldb + n, ldb * 4);
        tmm::Load<7>(b + k * ldb + n + 16, ldb * 4);
        tmm::DotBf16<0, 4, 6>();
        tmm::DotBf16<1, 4, 7>();
        tmm::Load<5>(a + (m + 16) * a_row + k, a_row * 4);
        tmm::DotBf16<2, 5, 6>();
        tmm::DotBf16<3, 5, 7>();
      }
      tmm::Store<0>(c0, ldc * 4);
      tmm::Store<1>(c0 + 16, ldc * 4);
      tmm::Store<2>(c1, ldc * 4);
      tmm::Store<3>(c1 + 16, ldc * 4);
    }
  }
}
// The thread's tile registers, for the life of one tile of work.
using TileRegisters = tmm::Tiles;

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
