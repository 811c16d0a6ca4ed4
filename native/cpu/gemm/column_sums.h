// Column sums in float32: the gradient of a bias.
#pragma once

#include <algorithm>

#include "native/cpu/gemm/operand.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// out (+)= sums of the columns of m: fixed chunks of rows, added in order.
template <class T>
void ColumnSums(Invocation& inv, const RowMatrix& m, float* out, bool accumulate) {
  constexpr int64_t kSumRows = 256;
  const int64_t chunks = (m.rows + kSumRows - 1) / kSumRows;
  float* partial = inv.Workspace<float>(static_cast<size_t>(std::max<int64_t>(1, chunks) * m.cols));
  inv.ParallelFor(chunks, [&](int64_t chunk, int) noexcept {
    const int64_t end = std::min(m.rows, (chunk + 1) * kSumRows);
    float* sums = partial + chunk * m.cols;
    std::fill(sums, sums + m.cols, 0.0f);
    for (int64_t r = chunk * kSumRows; r < end; ++r) {
      const T* row = static_cast<const T*>(m.data) + r * m.stride;
      for (int64_t j = 0; j < m.cols; j += kLanes) {
        const int64_t left = m.cols - j;
        StoreN(sums + j, LoadN(sums + j, left) + LoadN(row + j, left), left);
      }
    }
  });
  for (int64_t j = 0; j < m.cols; j += kLanes) {
    const int64_t left = m.cols - j;
    Vec sum = accumulate ? LoadN(out + j, left) : Zero();
    for (int64_t c = 0; c < chunks; ++c) sum = sum + LoadN(partial + c * m.cols + j, left);
    StoreN(out + j, sum, left);
  }
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
