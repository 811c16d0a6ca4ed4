// Rows of a table by id, and sums of rows by id: what embedding and its gradient, take and
// scatter_add are made of. Ids cannot be looked at before a launch, so an id outside the table is
// no error here: its row is read as all ones (NaN in floats, -1 in integers), and added nowhere.
#pragma once

#include "native/cuda/pointwise.cuh"

namespace fuselm::cuda {

// y[i] = table[ids[i]], rows of `bytes` bytes; table rows are `stride` bytes apart, y's dense.
void GatherRows(const Arguments& in, const char* op, const void* table, int64_t limit,
                int64_t stride, const int32_t* ids, int64_t n, int64_t bytes, void* y);

// Positions 0 .. n-1 ordered by their id, those of one id in their own order; `ids` are the ids in
// that order. An id outside [0, limit) counts as `limit`. n < 2^31. In workspaces.
struct SortedIds {
  const int32_t *ids, *positions;
  int64_t n, limit;
};
SortedIds SortById(const Arguments& in, const char* op, const int32_t* ids, int64_t n,
                   int64_t limit);

// y[id] += the rows of that id, summed in their order and rounded once.
//
// Work: a thread takes kSpan sorted positions and up to 16 bytes of columns. Runs of one id inside
// a span are added to y at once; pieces of runs that cross spans go to a workspace,
// [spans][2][width]: 0 the piece that began before the span, 1 the one that begins in it and goes
// on. A second launch adds up the pieces of each such run, in order. An id that fills the batch is
// so shared out by spans. Every element of y has one writer.
namespace rows_by_id {

inline constexpr int kThreads = 256;
inline constexpr int64_t kSpan = 16;

template <class T>
using Total = std::conditional_t<std::is_integral_v<T>, uint32_t, float>;  // integers wrap

template <class Y, class T>
struct Sums {
  SortedIds sorted;
  Axes<1> at;  // of a row of rows
  const T* rows;
  Y* y;
  int64_t y_step, width, spans;
  Total<T>* pieces;
};

template <class Y, class C, int kPack>
__device__ __forceinline__ void AddTo(Y* y, const C (&sums)[kPack]) {
  auto pack = *reinterpret_cast<Pack<Y, kPack>*>(y);
#pragma unroll
  for (int k = 0; k < kPack; ++k) pack.v[k] = Narrow<Y>(static_cast<C>(Widen(pack.v[k])) + sums[k]);
  *reinterpret_cast<Pack<Y, kPack>*>(y) = pack;
}

template <class Y, class T, int kPack>
__global__ void __launch_bounds__(kThreads) SumSpans(const __grid_constant__ Sums<Y, T> s) {
  using C = Total<T>;
  const int64_t groups = s.width / kPack;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= s.spans * groups) return;
  const int64_t span = item / groups, column = item % groups * kPack;
  const int32_t* const ids = s.sorted.ids;
  const int64_t n = s.sorted.n, begin = span * kSpan, end = begin + kSpan < n ? begin + kSpan : n;
  C sums[kPack] = {};
  int32_t id = ids[begin];
  bool before = begin > 0 && ids[begin - 1] == id;  // the run began in an earlier span
  for (int64_t i = begin; i < end; ++i) {
    int64_t from[1];
    s.at.Locate(s.sorted.positions[i], from);
    const auto row = *reinterpret_cast<const Pack<T, kPack>*>(s.rows + from[0] + column);
#pragma unroll
    for (int k = 0; k < kPack; ++k) sums[k] += static_cast<C>(Widen(row.v[k]));
    const int32_t next = i + 1 < n ? ids[i + 1] : -1;
    if (next == id && i + 1 < end) continue;
    if (!before && next != id) {
      if (id < s.sorted.limit) AddTo(s.y + id * s.y_step + column, sums);
    } else {
      C* const piece = s.pieces + (2 * span + (before ? 0 : 1)) * s.width + column;
#pragma unroll
      for (int k = 0; k < kPack; ++k) piece[k] = sums[k];
    }
#pragma unroll
    for (int k = 0; k < kPack; ++k) sums[k] = C(0);
    id = next;
    before = false;
  }
}

template <class Y, class T, int kPack>
__global__ void __launch_bounds__(kThreads) SumPieces(const __grid_constant__ Sums<Y, T> s) {
  using C = Total<T>;
  const int64_t groups = s.width / kPack;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= s.spans * groups) return;
  const int64_t span = item / groups, column = item % groups * kPack;
  const int32_t* const ids = s.sorted.ids;
  const int64_t n = s.sorted.n, begin = span * kSpan, end = begin + kSpan;
  if (end >= n) return;
  // The run at the end of the span, if it goes on and began here.
  const int32_t id = ids[end - 1];
  if (ids[end] != id || id >= s.sorted.limit) return;
  if (begin > 0 && ids[begin - 1] == id) return;
  int64_t low = end, high = n;  // the first position past the run
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (ids[middle] == id) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const int64_t last = (low - 1) / kSpan;
  C sums[kPack];
  const C* piece = s.pieces + (2 * span + 1) * s.width + column;
#pragma unroll
  for (int k = 0; k < kPack; ++k) sums[k] = piece[k];
#pragma unroll 4
  for (int64_t next = span + 1; next <= last; ++next) {
    piece = s.pieces + 2 * next * s.width + column;
#pragma unroll
    for (int k = 0; k < kPack; ++k) sums[k] += piece[k];
  }
  AddTo(s.y + id * s.y_step + column, sums);
}

}  // namespace rows_by_id

// rows: row i at at.Locate(i), `width` elements of unit stride; y rows are y_step elements apart.
template <class Y, class T>
void AddRowsById(const Arguments& in, const char* op, const int32_t* ids, int64_t n, int64_t limit,
                 const T* rows, Axes<1> at, int64_t width, Y* y, int64_t y_step) {
  using namespace rows_by_id;
  if (n == 0 || width == 0) return;
  at.Finish();
  Sums<Y, T> s{
      SortById(in, op, ids, n, limit), at, rows, y, y_step, width, CeilDiv(n, kSpan), nullptr};
  s.pieces = in.Workspace<Total<T>>(2 * s.spans * width);
  constexpr int kPack = 4;
  bool vectors = width % kPack == 0 && y_step % kPack == 0 &&
                 reinterpret_cast<uintptr_t>(rows) % (kPack * sizeof(T)) == 0 &&
                 reinterpret_cast<uintptr_t>(y) % (kPack * sizeof(Y)) == 0;
  for (int i = 0; i < at.rank; ++i) vectors = vectors && at.stride[0][i] % kPack == 0;
  const int64_t items = s.spans * (vectors ? width / kPack : width);
  const int64_t blocks = CeilDiv(items, kThreads);
  Require(blocks < int64_t{1} << 31, ErrorCode::kShape, "more than 2^31 blocks of rows");
  const Grid grid{dim3(static_cast<unsigned>(blocks)), kThreads};
  Launch(in, op, grid, vectors ? SumSpans<Y, T, kPack> : SumSpans<Y, T, 1>, s);
  Launch(in, op, grid, vectors ? SumPieces<Y, T, kPack> : SumPieces<Y, T, 1>, s);
}

}  // namespace fuselm::cuda
