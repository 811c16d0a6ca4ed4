// levels: generic avx2 avx512
// The k largest of each row, sorted; ties by lower index, NaN above all numbers. One read of the
// row: blocks that hold nothing above the k-th largest so far are passed over by their maximum, the
// rest goes through a heap. A row is a tile (150 k logits: 0.1 ms), short rows share one.
#include <algorithm>

#include "native/core/kernel.h"
#include "native/cpu/ordered.h"
#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int64_t kTileElements = 1 << 15;

// Larger for what comes first: by value, then by lower index.
inline uint64_t Entry(float value, int64_t index) {
  const uint32_t key = std::isnan(value) ? 0xffffffffu : Ordered(value + 0.0f);  // -0 equals 0
  return uint64_t{key} << 32 | static_cast<uint32_t>(~static_cast<uint32_t>(index));
}
inline int64_t IndexOf(uint64_t entry) {
  return static_cast<uint32_t>(~static_cast<uint32_t>(entry));
}

// The least entry on top.
void SiftDown(uint64_t* heap, int64_t size, int64_t at) {
  const uint64_t entry = heap[at];
  for (int64_t child = 2 * at + 1; child < size; child = 2 * at + 1) {
    if (child + 1 < size && heap[child + 1] < heap[child]) ++child;
    if (entry <= heap[child]) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = entry;
}

// Whether a block of 4 vectors may hold something above `least`. A sum of zero times each is 0 but
// for NaN and infinities, which are then looked at.
template <class T>
inline bool MayEnter(const T* x, float least) {
  const Vec a = Load(x), b = Load(x + kLanes), c = Load(x + 2 * kLanes), d = Load(x + 3 * kLanes);
  const Vec odd = ((a + b) + (c + d)) * Zero();
  return MaxOf(Max(Max(a, b), Max(c, d))) > least || !(Sum(odd) == 0);
}

template <class T>
void RowTop(const T* x, int64_t size, int64_t k, uint64_t* heap, T* values, int32_t* indices) {
  for (int64_t i = 0; i < k; ++i) heap[i] = Entry(static_cast<float>(x[i]), i);
  for (int64_t i = k / 2; i-- > 0;) SiftDown(heap, k, i);
  const auto enter = [&](int64_t i) {
    const uint64_t entry = Entry(static_cast<float>(x[i]), i);
    if (entry <= heap[0]) return;
    heap[0] = entry;
    SiftDown(heap, k, 0);
  };
  int64_t i = k;
  for (; i + 4 * kLanes <= size; i += 4 * kLanes) {
    if (!MayEnter(x + i, static_cast<float>(x[IndexOf(heap[0])]))) continue;
    for (int64_t j = i; j < i + 4 * kLanes; ++j) enter(j);
  }
  for (; i < size; ++i) enter(i);
  for (int64_t left = k; left-- > 0;) {  // the least goes last
    const int64_t index = IndexOf(heap[0]);
    values[left] = x[index];
    indices[left] = static_cast<int32_t>(index);
    heap[0] = heap[left];
    SiftDown(heap, left, 0);
  }
}

// 0 x, 1 values, 2 indices; [k]
void TopK(Invocation& call) {
  const View &x = call[0], &values = call[1], &indices = call[2];
  const int64_t k = call.i64(0), size = x.dim(-1), rows = x.rows();
  Require(x.rank > 0 && k >= 1 && k <= size && size < (int64_t{1} << 31) &&
              (size <= 1 || x.step(-1) == 1),
          ErrorCode::kShape, "top_k: x must be [.., V] with rows of stride 1 and 1 <= k <= V");
  Require(values.contiguous() && values.dtype == x.dtype && values.numel() == rows * k &&
              indices.contiguous() && indices.dtype == DType::kI32 && indices.numel() == rows * k,
          ErrorCode::kShape, "top_k: values and indices must be [.., k], like x and i32");
  call.ReserveScratch(static_cast<size_t>(k) * sizeof(uint64_t));
  const int64_t group = std::max<int64_t>(1, kTileElements / size);
  DispatchFloat(x.dtype, [&]<class T>() {
    call.ParallelFor((rows + group - 1) / group, [&](int64_t tile, int worker) {
      uint64_t* const heap = call.Scratch<uint64_t>(worker, static_cast<size_t>(k));
      for (int64_t r = tile * group; r < std::min(rows, (tile + 1) * group); ++r)
        RowTop(x.row<T>(r), size, k, heap, values.as<T>() + r * k, indices.as<int32_t>() + r * k);
    });
  });
}

FUSELM_KERNEL("top_k(x) -> (values, indices) [k]", kFloat, TopK);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
