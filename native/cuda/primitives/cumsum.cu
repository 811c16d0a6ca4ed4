// Running sums along an axis, from its start or, reversed, from its end; kept in double (64 bits
// for integers) and rounded per element, as on the CPU.
//
// A line is what is summed along; x is [outer, n, inner]. Last axis (inner = 1): a block of 256
// threads a chunk of a line, 4 elements a thread, scanned through shuffles and 8 sums in shared
// memory. Other axes: a thread a chunk of a line, neighbours beside each other. Lines longer than a
// chunk take three launches: sums of chunks, those sums summed up by line, the chunks.
#include "native/cuda/pointwise.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = 4;  // elements of a thread in a round of a block
constexpr int64_t kRowChunk = 1 << 13;
constexpr int64_t kColumnChunk = 256;

template <class T>
using Sum = std::conditional_t<std::is_integral_v<T>, int64_t, double>;

template <class T>
struct Problem {
  const T* x;
  T* y;
  Sum<T>* carry;  // [lines][chunks]; null for one chunk
  int64_t lines, n, inner, chunk, chunks;
  bool reverse;

  // Element i of a line, in the order of summing, stands at i * Step() from its start.
  __device__ __forceinline__ int64_t Start(int64_t line) const {
    const int64_t outer = line / inner;
    return (outer * n + (reverse ? n - 1 : 0)) * inner + line - outer * inner;
  }
  __device__ __forceinline__ int64_t Step() const { return reverse ? -inner : inner; }
};

// Sum of the threads before this one; `all` gets that of the whole block. Contains barriers.
template <class C>
__device__ __forceinline__ C BlockBefore(C value, C& all) {
  __shared__ C parts[kThreads / kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  C upto = value;
#pragma unroll
  for (int d = 1; d < kWarp; d *= 2) {
    const C other = __shfl_up_sync(kFullMask, upto, d);
    if (lane >= d) upto += other;
  }
  __syncthreads();  // the last round may still be read
  if (lane == kWarp - 1) parts[warp] = upto;
  __syncthreads();
  C before = 0;
  all = 0;
#pragma unroll
  for (int w = 0; w < kThreads / kWarp; ++w) {
    if (w < warp) before += parts[w];
    all += parts[w];
  }
  const C inside = __shfl_up_sync(kFullMask, upto, 1);
  return before + (lane == 0 ? C(0) : inside);
}

template <class T, bool kWrites>
__global__ void __launch_bounds__(kThreads) ScanRows(const Problem<T> p) {
  using C = Sum<T>;
  const int64_t line = blockIdx.x / p.chunks, chunk = blockIdx.x - line * p.chunks;
  const int64_t start = p.Start(line), step = p.Step();
  const int64_t begin = chunk * p.chunk, end = begin + p.chunk < p.n ? begin + p.chunk : p.n;
  C sum = kWrites && p.carry != nullptr ? p.carry[blockIdx.x] : C(0);
  for (int64_t round = begin; round < end; round += kThreads * kEach) {
    const int64_t first = round + threadIdx.x * kEach;
    C mine[kEach];
    C total = 0;
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      if (first + k < end) total += static_cast<C>(Widen(p.x[start + (first + k) * step]));
      mine[k] = total;
    }
    C all;
    const C before = sum + BlockBefore(total, all);
    if constexpr (kWrites) {
#pragma unroll
      for (int k = 0; k < kEach; ++k) {
        if (first + k < end) p.y[start + (first + k) * step] = Narrow<T>(before + mine[k]);
      }
    }
    sum += all;
  }
  if (!kWrites && threadIdx.x == 0) p.carry[blockIdx.x] = sum;
}

template <class T, bool kWrites>
__global__ void __launch_bounds__(kThreads) ScanColumns(const Problem<T> p) {
  using C = Sum<T>;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= p.lines * p.chunks) return;
  // neighbouring threads take neighbouring lines
  const int64_t chunk = item / p.lines, line = item - chunk * p.lines;
  const int64_t start = p.Start(line), step = p.Step();
  const int64_t begin = chunk * p.chunk, end = begin + p.chunk < p.n ? begin + p.chunk : p.n;
  C* const carry = p.carry == nullptr ? nullptr : p.carry + line * p.chunks + chunk;
  C sum = kWrites && carry != nullptr ? *carry : C(0);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t at = start + i * step;
    sum += static_cast<C>(Widen(p.x[at]));
    if constexpr (kWrites) p.y[at] = Narrow<T>(sum);
  }
  if (!kWrites) *carry = sum;
}

// Each chunk's sum becomes that of the chunks before it; a block a line.
template <class C>
__global__ void __launch_bounds__(kThreads) ScanCarries(C* carry, int64_t chunks) {
  C* const mine = carry + blockIdx.x * chunks;
  C sum = 0;
  for (int64_t round = 0; round < chunks; round += kThreads) {
    const int64_t i = round + threadIdx.x;
    C all;
    const C before = sum + BlockBefore(i < chunks ? mine[i] : C(0), all);
    if (i < chunks) mine[i] = before;
    sum += all;
  }
}

template <class T>
void Run(const Arguments& in, Problem<T> p) {
  const bool rows = p.inner == 1;
  p.chunk = rows ? kRowChunk : kColumnChunk;
  p.chunks = CeilDiv(p.n, p.chunk);
  const int64_t blocks = rows ? p.lines * p.chunks : CeilDiv(p.lines * p.chunks, kThreads);
  Require(blocks < int64_t{1} << 31 && p.lines < int64_t{1} << 31, ErrorCode::kShape,
          "cumsum: more than 2^31 blocks");
  const Grid grid{dim3(static_cast<unsigned>(blocks)), kThreads};
  if (p.chunks > 1) {
    p.carry = in.Workspace<Sum<T>>(p.lines * p.chunks);
    Launch(in, "cumsum", grid, rows ? ScanRows<T, false> : ScanColumns<T, false>, p);
    Launch(in, "cumsum", {dim3(static_cast<unsigned>(p.lines)), kThreads}, ScanCarries<Sum<T>>,
           p.carry, p.chunks);
  }
  Launch(in, "cumsum", grid, rows ? ScanRows<T, true> : ScanColumns<T, true>, p);
}

void Cumsum(const Arguments& in) {
  const View &x = in[0], &y = in[1];
  const int64_t axis = in.i64(0);
  RequireSameShape("cumsum", x, y);
  RequireDType("cumsum", y, x.dtype);
  Require(axis >= 0 && axis < x.rank, ErrorCode::kShape, "cumsum: axis outside the rank of x");
  Require(x.contiguous() && y.contiguous(), ErrorCode::kShape,
          "cumsum: x and y must be contiguous");
  if (x.numel() == 0) return;
  int64_t inner = 1;
  for (int i = static_cast<int>(axis) + 1; i < x.rank; ++i) inner *= x.shape[i];
  const int64_t n = x.shape[axis];
  const auto run = [&]<class T>() {
    Run<T>(in, {x.as<T>(), y.as<T>(), nullptr, x.numel() / n, n, inner, 0, 0, in.flag(1)});
  };
  if (x.dtype == DType::kI32) return run.template operator()<int32_t>();
  DispatchFloat(x.dtype, run);
}
FUSELM_CUDA_KERNEL("cumsum(x) -> (y) [axis, reverse]", kFloat | Mask(DType::kI32), Cumsum);

}  // namespace
}  // namespace fuselm::cuda
