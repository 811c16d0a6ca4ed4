// The untyped half of rows_by_id.cuh. Gathering: a thread up to 16 bytes, grid-stride; the target
// is copy bandwidth. Sorting: least significant digit first, 8 bits a pass, three launches a pass:
// digits counted by blocks of 2048 positions, the counts summed up by one block, positions moved.
// Shared memory: 8 KiB of counts. 4096 ids of 50304 take two passes.
#include "native/cuda/rows_by_id.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 256;

struct Gather {
  const std::byte* table;
  std::byte* y;
  const int32_t* ids;
  int64_t limit, stride, items, per_row;
  Divisor by;  // per_row
};

template <class U>
__global__ void __launch_bounds__(kThreads) GatherKernel(const Gather g) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < g.items;
       i += step) {
    const int64_t row = g.items < int64_t{1} << 31
                            ? static_cast<int64_t>(g.by.Quotient(static_cast<uint32_t>(i)))
                            : i / g.per_row;
    const int64_t column = i - row * g.per_row;
    const int32_t id = g.ids[row];
    U value;
    if (id >= 0 && id < g.limit) {
      value = reinterpret_cast<const U*>(g.table + id * g.stride)[column];
    } else {
      memset(&value, 0xff, sizeof value);
    }
    reinterpret_cast<U*>(g.y)[i] = value;
  }
}

constexpr int kDigits = 256, kWarps = kThreads / kWarp, kRounds = 8;
constexpr int kTile = kThreads * kRounds;

struct SortPass {
  const int32_t *ids, *positions;  // positions are null in the first pass: 0, 1, 2 ...
  int32_t *ids_out, *positions_out;
  int32_t* counts;  // [kDigits][blocks], then their sums
  int32_t n, limit;
  int shift;

  __device__ __forceinline__ int32_t Key(int32_t i) const {
    const int32_t id = ids[i];
    return id < 0 || id > limit ? limit : id;
  }
  __device__ __forceinline__ int Digit(int32_t key) const { return key >> shift & (kDigits - 1); }
};

__global__ void __launch_bounds__(kThreads) CountDigits(const SortPass p) {
  __shared__ int32_t counts[kDigits];
  counts[threadIdx.x] = 0;
  __syncthreads();
  for (int r = 0; r < kRounds; ++r) {
    const int32_t i = static_cast<int32_t>(blockIdx.x) * kTile + r * kThreads + threadIdx.x;
    if (i < p.n) atomicAdd(&counts[p.Digit(p.Key(i))], 1);
  }
  __syncthreads();
  p.counts[static_cast<int64_t>(threadIdx.x) * gridDim.x + blockIdx.x] = counts[threadIdx.x];
}

// Each count becomes the sum of those before it. One block.
__global__ void __launch_bounds__(1024) SumCounts(int32_t* counts, int64_t n) {
  __shared__ int32_t parts[32];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int32_t sum = 0;
  for (int64_t round = 0; round < n; round += 1024) {
    const int64_t i = round + threadIdx.x;
    const int32_t mine = i < n ? counts[i] : 0;
    int32_t upto = mine;
#pragma unroll
    for (int d = 1; d < kWarp; d *= 2) {
      const int32_t other = __shfl_up_sync(kFullMask, upto, d);
      if (lane >= d) upto += other;
    }
    __syncthreads();
    if (lane == kWarp - 1) parts[warp] = upto;
    __syncthreads();
    int32_t before = 0, all = 0;
    for (int w = 0; w < 32; ++w) {
      if (w < warp) before += parts[w];
      all += parts[w];
    }
    if (i < n) counts[i] = sum + before + upto - mine;
    sum += all;
  }
}

// A warp takes kTile / kWarps neighbours in rounds of 32, so that equal digits keep their order.
__global__ void __launch_bounds__(kThreads) MovePositions(const SortPass p) {
  __shared__ int32_t counts[kWarps][kDigits];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int w = 0; w < kWarps; ++w) counts[w][threadIdx.x] = 0;
  __syncthreads();
  const int32_t first = static_cast<int32_t>(blockIdx.x) * kTile + warp * (kTile / kWarps) + lane;
  int32_t rank[kRounds];
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const int32_t i = first + r * kWarp;
    const int digit = i < p.n ? p.Digit(p.Key(i)) : kDigits;
    const unsigned same = __match_any_sync(kFullMask, digit);
    const int before = __popc(same & ((1u << lane) - 1));
    rank[r] = digit < kDigits ? counts[warp][digit] + before : 0;
    __syncwarp();
    if (digit < kDigits && before == 0) counts[warp][digit] += __popc(same);
    __syncwarp();
  }
  __syncthreads();
  int32_t start = p.counts[static_cast<int64_t>(threadIdx.x) * gridDim.x + blockIdx.x];
  for (int w = 0; w < kWarps; ++w) {
    const int32_t here = counts[w][threadIdx.x];
    counts[w][threadIdx.x] = start;
    start += here;
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const int32_t i = first + r * kWarp;
    if (i >= p.n) continue;
    const int32_t key = p.Key(i), to = counts[warp][p.Digit(key)] + rank[r];
    p.ids_out[to] = key;
    p.positions_out[to] = p.positions == nullptr ? i : p.positions[i];
  }
}

}  // namespace

void GatherRows(const Arguments& in, const char* op, const void* table, int64_t limit,
                int64_t stride, const int32_t* ids, int64_t n, int64_t bytes, void* y) {
  if (n == 0 || bytes == 0) return;
  const uint64_t odd = reinterpret_cast<uintptr_t>(table) | reinterpret_cast<uintptr_t>(y) |
                       static_cast<uint64_t>(stride) | static_cast<uint64_t>(bytes);
  const auto run = [&]<class U>() {
    const int64_t per_row = bytes / static_cast<int64_t>(sizeof(U)), items = n * per_row;
    const Gather g{static_cast<const std::byte*>(table),
                   static_cast<std::byte*>(y),
                   ids,
                   limit,
                   stride,
                   items,
                   per_row,
                   Divisor::Of(per_row)};
    const int64_t blocks = std::min(CeilDiv(items, kThreads), int64_t{1} << 18);
    Launch(in, op, {dim3(static_cast<unsigned>(blocks)), kThreads}, GatherKernel<U>, g);
  };
  if (odd % 16 == 0) return run.template operator()<uint4>();
  if (odd % 4 == 0) return run.template operator()<uint32_t>();
  if (odd % 2 == 0) return run.template operator()<uint16_t>();
  run.template operator()<uint8_t>();
}

SortedIds SortById(const Arguments& in, const char* op, const int32_t* ids, int64_t n,
                   int64_t limit) {
  Require(n <= (int64_t{1} << 31) - kTile && limit < int64_t{1} << 31, ErrorCode::kShape,
          "at most 2^31 - 2048 ids and 2^31 - 1 rows");
  int32_t* const room = in.Workspace<int32_t>(4 * n);
  const int64_t blocks = CeilDiv(n, kTile);
  int32_t* const counts = in.Workspace<int32_t>(kDigits * blocks);
  const Grid grid{dim3(static_cast<unsigned>(blocks)), kThreads};
  SortPass p{
      ids, nullptr, room, room + n, counts, static_cast<int32_t>(n), static_cast<int32_t>(limit),
      0};
  for (;; p.shift += 8) {
    Launch(in, op, grid, CountDigits, p);
    Launch(in, op, {dim3(1), 1024}, SumCounts, counts, kDigits * blocks);
    Launch(in, op, grid, MovePositions, p);
    if (p.shift >= 24 || limit >> (p.shift + 8) == 0) break;
    p.ids = p.ids_out;
    p.positions = p.positions_out;
    p.ids_out = p.ids_out == room ? room + 2 * n : room;
    p.positions_out = p.ids_out + n;
  }
  return {p.ids_out, p.positions_out, n, limit};
}

}  // namespace fuselm::cuda
