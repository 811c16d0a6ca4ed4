// Elementwise work on tensors of one shape: cut into contiguous runs, then into tiles.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "native/core/kernel.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

inline constexpr int64_t kRunElements = 1 << 15;  // elements of one tile

// Same shape and dtype, unit stride in the last axis.
inline bool LikeRows(const View& a, const View& b) {
  if (a.dtype != b.dtype || a.rank != b.rank) return false;
  for (int i = 0; i < a.rank; ++i)
    if (a.shape[i] != b.shape[i]) return false;
  return b.rank == 0 || b.dim(-1) <= 1 || b.step(-1) == 1;
}

// Cuts views of one shape into runs of contiguous elements: whole tensors when all are
// contiguous, otherwise rows. f(first row, column, count) works on one run.
template <class F>
void ForRuns(Invocation& call, std::initializer_list<const View*> views, F f) {
  const View& a = **views.begin();
  int64_t width = a.rank ? a.dim(-1) : 1, rows = a.rows();
  if (width == 0 || rows == 0) return;
  bool flat = true;
  for (const View* v : views) flat = flat && v->contiguous();
  if (flat) {
    width *= rows;
    rows = 1;
  }
  const int64_t columns = std::min(width, kRunElements);
  const int64_t strips = (width + columns - 1) / columns;
  const int64_t per_tile = std::max<int64_t>(1, kRunElements / columns);
  const int64_t row_tiles = (rows + per_tile - 1) / per_tile;
  call.ParallelFor(row_tiles * strips, [&](int64_t tile, int) {
    const int64_t column = tile % strips * columns;
    const int64_t count = std::min(columns, width - column);
    const int64_t first = tile / strips * per_tile;
    for (int64_t r = first; r < std::min(rows, first + per_tile); ++r) f(r, column, count);
  });
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
