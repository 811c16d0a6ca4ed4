// Rows of a table by id, and the gradient of the table: sums of rows by id, each in the order of
// its tokens, added to the row of dtable (or, on the first micro-batch, to zero). rows_by_id.cuh
// spreads the work, and says what becomes of an id outside the table.
#include "native/cuda/rows_by_id.cuh"

namespace fuselm::cuda {
namespace {

// out is [ids..., D] with the rows of table [V, D].
bool Fits(const View& ids, const View& table, const View& out) {
  if (ids.dtype != DType::kI32 || !ids.contiguous() || table.rank != 2 || out.rank != ids.rank + 1)
    return false;
  for (int i = 0; i < ids.rank; ++i)
    if (out.shape[i] != ids.shape[i]) return false;
  const int64_t D = table.dim(1);
  return out.dim(-1) == D && (D <= 1 || (table.step(1) == 1 && out.step(-1) == 1));
}

void Forward(const Arguments& in) {
  const View &ids = in[0], &table = in[1], &out = in[2];
  Require(Fits(ids, table, out) && out.dtype == table.dtype && out.contiguous(), ErrorCode::kShape,
          "embedding: ids must be contiguous i32, table [V, D], out [ids..., D] of table's dtype");
  const auto item = static_cast<int64_t>(ItemSize(table.dtype));
  GatherRows(in, "embedding", table.data, table.dim(0), table.step(0) * item, ids.as<int32_t>(),
             ids.numel(), table.dim(1) * item, out.data);
}

struct Zero {
  __device__ float operator()() const { return 0; }
};

void Backward(const Arguments& in) {
  const View &dout = in[0], &ids = in[1], &dtable = in[2];
  Require(Fits(ids, dtable, dout) && dtable.dtype == DType::kF32, ErrorCode::kShape,
          "embedding.backward: ids must be contiguous i32, dout [ids..., D], dtable f32 [V, D]");
  if (!in.flag(0)) Pointwise<float>(in, "embedding.backward", Zero{}, {&dtable});
  if (dtable.numel() == 0) return;
  Axes<1> at;
  for (int i = 0; i < ids.rank; ++i) at.Add(dout.shape[i], {dout.stride[i]});
  DispatchFloat(dout.dtype, [&]<class T>() {
    AddRowsById<float, T>(in, "embedding.backward", ids.as<int32_t>(), ids.numel(), dtable.dim(0),
                          dout.as<T>(), at, dtable.dim(1), dtable.as<float>(), dtable.step(0));
  });
}

FUSELM_CUDA_KERNEL("embedding(ids, table) -> (out)", kFloat, Forward);
FUSELM_CUDA_KERNEL("embedding.backward(dout, ids, dtable!) [accumulate]", kFloat, Backward);

}  // namespace
}  // namespace fuselm::cuda
