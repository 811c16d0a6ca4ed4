// levels: generic
// Rows by index: take, and its gradient scatter_add.
#include "native/cpu/primitives/elementwise.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

int64_t RowElements(const View& table) {
  int64_t n = 1;
  for (int i = 1; i < table.rank; ++i) n *= table.shape[i];
  return n;
}

// ids and the rows they name: rows.shape = ids.shape + table.shape[1:], all contiguous but the ids.
void CheckRows(const char* op, const View& table, const View& ids, const View& rows) {
  RequireDType(op, ids, DType::kI32);
  RequireDType(op, rows, table.dtype);
  bool fits = table.rank >= 1 && rows.rank == ids.rank + table.rank - 1;
  for (int i = 0; fits && i < rows.rank; ++i)
    fits = rows.shape[i] == (i < ids.rank ? ids.shape[i] : table.shape[i - ids.rank + 1]);
  if (!fits || !table.contiguous() || !rows.contiguous())
    throw Error(ErrorCode::kShape, std::string(op) + ": expected contiguous rows of " +
                                       table.ToString() + " by " + ids.ToString() + ", received " +
                                       rows.ToString());
}

int64_t Id(const View& ids, int64_t index) {
  int64_t at = 0;
  for (int i = ids.rank - 1; i >= 0; --i) {
    at += index % ids.shape[i] * ids.stride[i];
    index /= ids.shape[i];
  }
  return ids.as<int32_t>()[at];
}

void CheckIds(const char* op, const View& ids, int64_t limit) {
  const int64_t n = ids.numel();
  for (int64_t i = 0; i < n; ++i) {
    const int64_t id = Id(ids, i);
    if (id < 0 || id >= limit)
      throw Error(ErrorCode::kValue, std::string(op) + ": ids[" + std::to_string(i) + "] is " +
                                         std::to_string(id) + ", expected 0 to " +
                                         std::to_string(limit - 1));
  }
}

template <class F>
void DispatchItem(DType d, F&& f) {
  switch (ItemSize(d)) {
    case 1: return f.template operator()<uint8_t>();
    case 2: return f.template operator()<uint16_t>();
    case 4: return f.template operator()<uint32_t>();
    default: return f.template operator()<uint64_t>();
  }
}

void Take(Invocation& inv) {
  const View &table = inv[0], &ids = inv[1], &y = inv[2];
  CheckRows("take", table, ids, y);
  CheckIds("take", ids, table.shape[0]);
  const int64_t width = RowElements(table);
  const int64_t per_tile = std::max<int64_t>(1, kChunkElements / std::max<int64_t>(width, 1));
  const int64_t n = ids.numel();
  DispatchItem(table.dtype, [&]<class T>() {
    inv.ParallelFor((n + per_tile - 1) / per_tile, [&](int64_t tile, int) {
      for (int64_t i = tile * per_tile; i < std::min(n, (tile + 1) * per_tile); ++i)
        std::copy_n(table.as<T>() + Id(ids, i) * width, width, y.as<T>() + i * width);
    });
  });
}
FUSELM_KERNEL("take(table, ids) -> (y)", kAnyDType, Take);

// Split by columns, so equal ids are added in their order whoever does it.
void ScatterAdd(Invocation& inv) {
  const View &base = inv[0], &ids = inv[1], &rows = inv[2], &y = inv[3];
  RequireSameShape("scatter_add", base, y);
  RequireDType("scatter_add", y, base.dtype);
  CheckRows("scatter_add", base, ids, rows);
  CheckIds("scatter_add", ids, base.shape[0]);
  Require(y.contiguous(), ErrorCode::kShape, "scatter_add: the output must be contiguous");
  const int64_t width = RowElements(base), n = ids.numel();
  const int64_t columns = std::min<int64_t>(width, 64);
  if (width == 0) return;
  DispatchFloatOrI32(base.dtype, [&]<class T>() {
    using C = ComputeT<T>;
    inv.ParallelFor((width + columns - 1) / columns, [&](int64_t tile, int) {
      const int64_t c0 = tile * columns, c1 = std::min(width, c0 + columns);
      for (int64_t r = 0; r < base.shape[0]; ++r)
        std::copy_n(base.as<T>() + r * width + c0, c1 - c0, y.as<T>() + r * width + c0);
      for (int64_t i = 0; i < n; ++i) {
        T* out = y.as<T>() + Id(ids, i) * width;
        const T* row = rows.as<T>() + i * width;
        for (int64_t c = c0; c < c1; ++c)
          out[c] = T(static_cast<C>(out[c]) + static_cast<C>(row[c]));
      }
    });
  });
}
FUSELM_KERNEL("scatter_add(base, ids, rows) -> (y)", kFloat64 | Mask(DType::kI32), ScatterAdd);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
