// levels: generic avx2 avx512 avx512bf16
// Rows of a table by id, and the gradient of the table. All ids are checked before a row is read.
// The backward groups tokens by id (stable radix sort), so each row of the gradient is summed by
// one tile in token order, whatever the thread count. Rows no id names are left as they are.
#include <algorithm>

#include "native/core/kernel.h"
#include "native/cpu/fail.h"
#include "native/cpu/simd.h"
#include "native/cpu/sort_by_id.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int64_t kTileElements = 1 << 16;

void CheckIds(const char* op, const View& ids, int64_t limit) {
  const int32_t* id = ids.as<int32_t>();
  const int64_t n = ids.numel();
  for (int64_t i = 0; i < n; ++i)
    if (id[i] < 0 || id[i] >= limit) FailRange(op, "ids", i, id[i], limit);
}

// out is [ids..., D] with the rows of table [V, D].
bool Fits(const View& ids, const View& table, const View& out) {
  if (ids.dtype != DType::kI32 || !ids.contiguous() || table.rank != 2 || out.rank != ids.rank + 1)
    return false;
  for (int i = 0; i < ids.rank; ++i)
    if (out.shape[i] != ids.shape[i]) return false;
  const int64_t D = table.dim(1);
  return out.dim(-1) == D && (D <= 1 || (table.step(1) == 1 && out.step(-1) == 1));
}

void Forward(Invocation& call) {
  const View &ids = call[0], &table = call[1], &out = call[2];
  Require(Fits(ids, table, out) && out.dtype == table.dtype, ErrorCode::kShape,
          "embedding: ids must be contiguous i32, table [V, D], out [ids..., D] of table's dtype");
  const int64_t n = ids.numel(), D = table.dim(1);
  CheckIds("embedding", ids, table.dim(0));
  if (n == 0 || D == 0) return;
  const int64_t bytes = D * static_cast<int64_t>(ItemSize(table.dtype));
  const int64_t per_tile = std::max<int64_t>(1, kTileElements / D);
  DispatchFloat(table.dtype, [&]<class T>() {
    call.ParallelFor((n + per_tile - 1) / per_tile, [&](int64_t tile, int) {
      for (int64_t i = tile * per_tile; i < std::min(n, (tile + 1) * per_tile); ++i)
        std::memcpy(out.row<T>(i), table.as<T>() + ids.as<int32_t>()[i] * table.step(0), bytes);
    });
  });
}

void Backward(Invocation& call) {
  const View &dout = call[0], &ids = call[1], &dtable = call[2];
  Require(Fits(ids, dtable, dout) && dtable.dtype == DType::kF32, ErrorCode::kShape,
          "embedding.backward: ids must be contiguous i32, dout [ids..., D], dtable f32 [V, D]");
  const int64_t n = ids.numel(), V = dtable.dim(0), D = dtable.dim(1);
  Require(n < (int64_t{1} << 31), ErrorCode::kShape, "embedding.backward: at most 2^31 - 1 ids");
  CheckIds("embedding.backward", ids, V);
  if (D == 0 || V == 0) return;
  if (!call.flag(0)) {  // the first micro-batch writes
    const int64_t rows = std::max<int64_t>(1, 4 * kTileElements / D);
    call.ParallelFor((V + rows - 1) / rows, [&](int64_t tile, int) {
      for (int64_t v = tile * rows; v < std::min(V, (tile + 1) * rows); ++v)
        std::memset(dtable.as<float>() + v * dtable.step(0), 0, D * sizeof(float));
    });
  }
  if (n == 0) return;
  const int32_t* const id = ids.as<int32_t>();
  int32_t* const room = call.Workspace<int32_t>(2 * n);
  const int32_t* const order = SortById(id, n, V, room, room + n);

  // A tile is a span of sorted tokens, moved to the next change of id, by a strip of columns: one
  // id that fills the batch is still shared out.
  constexpr int64_t kStrip = 128;
  const int64_t strips = (D + kStrip - 1) / kStrip;
  const int64_t span = 256, spans = (n + span - 1) / span;
  int64_t* const boundary = call.Workspace<int64_t>(spans + 1);
  boundary[0] = 0;
  for (int64_t s = 1; s <= spans; ++s) {
    int64_t i = std::min(n, std::max(boundary[s - 1], s * span));
    while (i < n && id[order[i]] == id[order[i - 1]]) ++i;
    boundary[s] = i;
  }
  DispatchFloat(dout.dtype, [&]<class T>() {
    call.ParallelFor(spans * strips, [&](int64_t tile, int) {
      const int64_t column = tile % strips * kStrip, count = std::min(kStrip, D - column);
      const int64_t end = boundary[tile / strips + 1];
      for (int64_t i = boundary[tile / strips]; i < end; ++i) {
        const T* from = dout.row<T>(order[i]) + column;
        float* to = dtable.as<float>() + id[order[i]] * dtable.step(0) + column;
        for (int64_t c = 0; c < count; c += kLanes)
          StoreN(to + c, LoadN(to + c, count - c) + LoadN(from + c, count - c), count - c);
      }
    });
  });
}

FUSELM_KERNEL("embedding(ids, table) -> (out)", kFloat, Forward);
FUSELM_KERNEL("embedding.backward(dout, ids, dtable!) [accumulate]", kFloat, Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
