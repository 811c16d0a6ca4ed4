// levels: generic avx2 avx512
// Rows by index: take, and its gradient scatter_add. All ids are checked before a row is read.
#include <cstring>

#include "native/cpu/fail.h"
#include "native/cpu/primitives/elementwise.h"
#include "native/cpu/primitives/lanes.h"
#include "native/cpu/primitives/reduce.h"
#include "native/cpu/primitives/rows.h"
#include "native/cpu/sort_by_id.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int64_t kTile = 1 << 15;

int64_t RowElements(const View& table) {
  int64_t n = 1;
  for (int i = 1; i < table.rank; ++i) n *= table.shape[i];
  return n;
}

// ids and the rows they name: rows.shape = ids.shape + table.shape[1:], all contiguous.
void CheckRows(const char* op, const View& table, const View& ids, const View& rows) {
  RequireDType(op, ids, DType::kI32);
  RequireDType(op, rows, table.dtype);
  bool fits = table.rank >= 1 && rows.rank == ids.rank + table.rank - 1;
  for (int i = 0; fits && i < rows.rank; ++i)
    fits = rows.shape[i] == (i < ids.rank ? ids.shape[i] : table.shape[i - ids.rank + 1]);
  if (!fits || !table.contiguous() || !rows.contiguous() || !ids.contiguous())
    throw Error(ErrorCode::kShape, std::string(op) + ": expected contiguous rows of " +
                                       table.ToString() + " by " + ids.ToString() + ", received " +
                                       rows.ToString());
  const int32_t* const id = ids.as<int32_t>();
  const int64_t n = ids.numel();
  for (int64_t i = 0; i < n; ++i)
    if (id[i] < 0 || id[i] >= table.shape[0]) FailRange(op, "ids", i, id[i], table.shape[0]);
}

template <class T>
void TakeElements(const T* table, const int32_t* id, int64_t n, T* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = table[id[i]];
}

void Take(Invocation& inv) {
  const View &table = inv[0], &ids = inv[1], &y = inv[2];
  CheckRows("take", table, ids, y);
  const int64_t n = ids.numel(), item = static_cast<int64_t>(ItemSize(table.dtype));
  const int64_t width = RowElements(table), bytes = width * item;
  if (width == 0) return;
  const int32_t* const id = ids.as<int32_t>();
  const int64_t per_tile = std::max<int64_t>(1, kTile / width);
  inv.ParallelFor((n + per_tile - 1) / per_tile, [&](int64_t tile, int) {
    const int64_t first = tile * per_tile, end = std::min(n, first + per_tile);
    if (width > 1) {
      for (int64_t i = first; i < end; ++i)
        std::memcpy(y.as<std::byte>() + i * bytes, table.as<std::byte>() + id[i] * bytes, bytes);
      return;
    }
    const auto take = [&]<class T>() {
      TakeElements(table.as<T>(), id + first, end - first, y.as<T>() + first);
    };
    switch (item) {
      case 1: return take.template operator()<uint8_t>();
      case 2: return take.template operator()<uint16_t>();
      case 4: return take.template operator()<uint32_t>();
      default: return take.template operator()<uint64_t>();
    }
  });
}
FUSELM_KERNEL("take(table, ids) -> (y)", kAnyDType, Take);

// y[id] += the rows at order[begin .. end), which share an id: summed in their order, rounded once.
template <class T>
void AddRows(T* y, const T* rows, const int32_t* order, int64_t begin, int64_t end, int64_t width,
             int64_t count) {
  if constexpr (kInLanes<T>) {
    for (int64_t c = 0; c < count; c += kLanes) {
      const int64_t left = count - c;
      Vec sum = LoadN(y + c, left);
      for (int64_t i = begin; i < end; ++i) sum = sum + LoadN(rows + order[i] * width + c, left);
      StoreN(y + c, sum, left);
    }
  } else {
    for (int64_t c = 0; c < count; ++c) {
      auto sum = static_cast<Total<T>>(y[c]);
      for (int64_t i = begin; i < end; ++i)
        sum += static_cast<Total<T>>(rows[order[i] * width + c]);
      y[c] = static_cast<T>(sum);
    }
  }
}

void ScatterAdd(Invocation& inv) {
  const View &base = inv[0], &ids = inv[1], &rows = inv[2], &y = inv[3];
  RequireSameShape("scatter_add", base, y);
  RequireDType("scatter_add", y, base.dtype);
  CheckRows("scatter_add", base, ids, rows);
  Require(y.contiguous(), ErrorCode::kShape, "scatter_add: the output must be contiguous");
  const int64_t width = RowElements(base), n = ids.numel();
  Require(n < (int64_t{1} << 31), ErrorCode::kShape, "scatter_add: at most 2^31 - 1 ids");
  CopyRows(inv, y, base);
  if (width == 0 || n == 0) return;
  const int32_t* const id = ids.as<int32_t>();
  int32_t* const room = inv.Workspace<int32_t>(2 * n);
  const int32_t* const order = SortById(id, n, base.shape[0], room, room + n);

  // A tile is a span of sorted ids, moved to the next change of id, by a strip of columns.
  constexpr int64_t kStrip = 128;
  const int64_t strip = std::min(width, kStrip), strips = (width + strip - 1) / strip;
  const int64_t span = kTile / strip, spans = (n + span - 1) / span;
  int64_t* const boundary = inv.Workspace<int64_t>(spans + 1);
  boundary[0] = 0;
  for (int64_t s = 1; s <= spans; ++s) {
    int64_t i = std::min(n, std::max(boundary[s - 1], s * span));
    while (i < n && id[order[i]] == id[order[i - 1]]) ++i;
    boundary[s] = i;
  }
  DispatchFloatOrI32(base.dtype, [&]<class T>() {
    inv.ParallelFor(spans * strips, [&](int64_t tile, int) {
      const int64_t column = tile % strips * strip, count = std::min(strip, width - column);
      const int64_t end = boundary[tile / strips + 1];
      for (int64_t i = boundary[tile / strips]; i < end;) {
        const int32_t row = id[order[i]];
        int64_t next = i + 1;
        while (next < end && id[order[next]] == row) ++next;
        AddRows(y.as<T>() + row * width + column, rows.as<T>() + column, order, i, next, width,
                count);
        i = next;
      }
    });
  });
}
FUSELM_KERNEL("scatter_add(base, ids, rows) -> (y)", kFloat64 | Mask(DType::kI32), ScatterAdd);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
