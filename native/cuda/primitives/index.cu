// Rows by index: take, and its gradient scatter_add. rows_by_id.cuh spreads the work, and says what
// becomes of an id outside the table.
#include "native/cuda/rows_by_id.cuh"

namespace fuselm::cuda {
namespace {

// ids and the rows they name: rows.shape = ids.shape + table.shape[1:], all contiguous. Returns the
// elements of a row.
int64_t CheckRows(const char* op, const View& table, const View& ids, const View& rows) {
  RequireDType(op, ids, DType::kI32);
  RequireDType(op, rows, table.dtype);
  bool fits = table.rank >= 1 && rows.rank == ids.rank + table.rank - 1;
  for (int i = 0; fits && i < rows.rank; ++i)
    fits = rows.shape[i] == (i < ids.rank ? ids.shape[i] : table.shape[i - ids.rank + 1]);
  if (!fits || !table.contiguous() || !rows.contiguous() || !ids.contiguous()) {
    throw Error(ErrorCode::kShape, std::string(op) + ": expected contiguous rows of " +
                                       table.ToString() + " by " + ids.ToString() + ", received " +
                                       rows.ToString());
  }
  int64_t width = 1;
  for (int i = 1; i < table.rank; ++i) width *= table.shape[i];
  return width;
}

void Take(const Arguments& in) {
  const View &table = in[0], &ids = in[1], &y = in[2];
  const int64_t bytes = CheckRows("take", table, ids, y) * static_cast<int64_t>(ItemSize(y.dtype));
  GatherRows(in, "take", table.data, table.shape[0], bytes, ids.as<int32_t>(), ids.numel(), bytes,
             y.data);
}
FUSELM_CUDA_KERNEL("take(table, ids) -> (y)", kAnyDType, Take);

void ScatterAdd(const Arguments& in) {
  const View &base = in[0], &ids = in[1], &rows = in[2], &y = in[3];
  RequireSameShape("scatter_add", base, y);
  RequireDType("scatter_add", y, base.dtype);
  const int64_t width = CheckRows("scatter_add", base, ids, rows);
  Require(y.contiguous(), ErrorCode::kShape, "scatter_add: the output must be contiguous");
  const auto run = [&]<class T>() {
    Pointwise<T, T>(in, "scatter_add", Same{}, {&y, &base});
    Axes<1> at;
    at.Add(ids.numel(), {width});
    AddRowsById<T, T>(in, "scatter_add", ids.as<int32_t>(), ids.numel(), base.shape[0],
                      rows.as<T>(), at, width, y.as<T>(), width);
  };
  if (base.dtype == DType::kI32) return run.template operator()<int32_t>();
  DispatchFloat(base.dtype, run);
}
FUSELM_CUDA_KERNEL("scatter_add(base, ids, rows) -> (y)", kFloat | Mask(DType::kI32), ScatterAdd);

}  // namespace
}  // namespace fuselm::cuda
