// Positions grouped by what they name, so that equal ids are summed by one tile in their order.
#pragma once

#include <cstdint>
#include <utility>

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// Positions 0 .. n-1 ordered by id in [0, limit), those of one id in their own order (radix sort).
// `order` and `spare` have room for n each; the result is one of them.
inline const int32_t* SortById(const int32_t* id, int64_t n, int64_t limit, int32_t* order,
                               int32_t* spare) {
  constexpr int kBits = 11;
  for (int64_t i = 0; i < n; ++i) order[i] = static_cast<int32_t>(i);
  for (int shift = 0; shift == 0 || (limit - 1) >> shift > 0; shift += kBits) {
    int64_t start[(1 << kBits) + 1] = {};
    const auto digit = [&](int32_t token) { return (id[token] >> shift) & ((1 << kBits) - 1); };
    for (int64_t i = 0; i < n; ++i) ++start[digit(order[i]) + 1];
    for (int d = 0; d < 1 << kBits; ++d) start[d + 1] += start[d];
    for (int64_t i = 0; i < n; ++i) spare[start[digit(order[i])]++] = order[i];
    std::swap(order, spare);
  }
  return order;
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
