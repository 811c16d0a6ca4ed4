// Reductions: y has x's rank, and the axes that are 1 in y alone are reduced (the attribute `axes`
// is for shape inference). float32 sums for f32 and bf16, 64 bits for integers. Two ways, chosen by
// what has unit stride in memory:
//   along   a reduced axis: 32 or 256 lanes share an output, 16 bytes each a step
//   across  a kept axis, or few elements an output: a thread an output, up to 256 / columns lanes
//   of
//           rows beside it, joined in shared memory (256 sums)
// What is longer than a chunk is reduced by chunks into a workspace, and that again. Chunks, lanes
// and the order of joining depend on shapes and strides alone. Moves x once: the target is the
// device's read bandwidth.
#include "native/cuda/pointwise.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kAlongChunk = 1 << 14;  // elements of a chunk of 256 lanes
constexpr int64_t kShort = 1024;          // elements of an output that a warp takes
constexpr int64_t kFew = 16;              // elements of an output that one thread takes
constexpr int64_t kRowsPerLane = 64;

template <class T>
using Total = std::conditional_t<std::is_integral_v<T>, int64_t, float>;

struct SumOp {
  template <class C>
  static __device__ __forceinline__ C Start() {
    return C(0);
  }
  template <class C>
  static __device__ __forceinline__ C Join(C a, C b) {
    return a + b;
  }
};
// A NaN wins, as in PyTorch.
struct MaxOp {
  template <class C>
  static __device__ __forceinline__ C Start() {
    if constexpr (std::is_integral_v<C>) {
      return INT64_MIN;
    } else {
      return -INFINITY;
    }
  }
  template <class C>
  static __device__ __forceinline__ C Join(C a, C b) {
    return (a != a || a > b) ? a : b;
  }
};
struct MinOp {
  template <class C>
  static __device__ __forceinline__ C Start() {
    if constexpr (std::is_integral_v<C>) {
      return INT64_MAX;
    } else {
      return INFINITY;
    }
  }
  template <class C>
  static __device__ __forceinline__ C Join(C a, C b) {
    return (a != a || a < b) ? a : b;
  }
};

struct Problem {
  Axes<2> kept;     // strides of x and y
  Axes<1> reduced;  // of x
  const void* x;
  void* y;
  void* partial;            // sums of chunks; null when these are the last
  int64_t outputs, inputs;  // inputs: per output, of this pass
  int64_t chunk, chunks;
  int32_t lanes;
  bool mean;
  int64_t count;  // what the mean divides by
};

// A chunk's total to where it goes: the workspace, or y.
template <class Out, class C>
__device__ __forceinline__ void Deliver(const Problem& p, int64_t output, int64_t partial,
                                        C total) {
  if (p.partial != nullptr) {
    static_cast<C*>(p.partial)[partial] = total;
    return;
  }
  if constexpr (!std::is_integral_v<C>) {
    if (p.mean) total = total / static_cast<float>(p.count);
  }
  int64_t at[2];
  p.kept.Locate(output, at);
  static_cast<Out*>(p.y)[at[1]] = Narrow<Out>(total);
}

template <class Op, class C>
__device__ __forceinline__ C JoinWarp(C value) {
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2)
    value = Op::Join(value, __shfl_xor_sync(kFullMask, value, d));
  return value;
}

template <class T, class Out, class Op>
__global__ void __launch_bounds__(kThreads) Along(const __grid_constant__ Problem p) {
  using C = Total<T>;
  constexpr int kPack = 16 / sizeof(T), kSums = kPack < 4 ? kPack : 4;
  const int lanes = p.lanes, lane = static_cast<int>(threadIdx.x) % lanes;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * (kThreads / lanes) + threadIdx.x / lanes;
  if (item >= p.outputs * p.chunks) return;  // whole warps; with 256 lanes never
  const int64_t output = item / p.chunks, begin = item % p.chunks * p.chunk;
  const int64_t end = begin + p.chunk < p.inputs ? begin + p.chunk : p.inputs;
  int64_t at[2];
  p.kept.Locate(output, at);
  const T* const x = static_cast<const T*>(p.x) + at[0];
  C sums[kSums];
#pragma unroll
  for (int k = 0; k < kSums; ++k) sums[k] = Op::template Start<C>();
  if (p.reduced.rank <= 1 && (p.reduced.rank == 0 || p.reduced.stride[0][0] == 1)) {
    int64_t i = begin;
    // elements up to the first vector
    const int64_t odd =
        static_cast<int64_t>((16 - reinterpret_cast<uintptr_t>(x + begin) % 16) % 16 / sizeof(T));
    const int64_t head = begin + odd < end ? begin + odd : end;
    if (i + lane < head) sums[0] = static_cast<C>(Widen(x[i + lane]));
    i = head;
    const int64_t vectors = (end - i) / kPack;
#pragma unroll 4
    for (int64_t v = lane; v < vectors; v += lanes) {
      const auto pack = *reinterpret_cast<const Pack<T, kPack>*>(x + i + v * kPack);
#pragma unroll
      for (int k = 0; k < kPack; ++k)
        sums[k % kSums] = Op::Join(sums[k % kSums], static_cast<C>(Widen(pack.v[k])));
    }
    i += vectors * kPack;
    if (i + lane < end) sums[1] = Op::Join(sums[1], static_cast<C>(Widen(x[i + lane])));
  } else {
    for (int64_t i = begin + lane; i < end; i += lanes) {
      int64_t from[1];
      p.reduced.Locate(i, from);
      sums[0] = Op::Join(sums[0], static_cast<C>(Widen(x[from[0]])));
    }
  }
#pragma unroll
  for (int k = kSums / 2; k < kSums; ++k)
    sums[k - kSums / 2] = Op::Join(sums[k - kSums / 2], sums[k]);
  if constexpr (kSums == 4) sums[0] = Op::Join(sums[0], sums[1]);
  C total = JoinWarp<Op>(sums[0]);
  if (lanes > kWarp) {
    __shared__ C parts[kThreads / kWarp];
    if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = total;
    __syncthreads();
    total = parts[0];
#pragma unroll
    for (int w = 1; w < kThreads / kWarp; ++w) total = Op::Join(total, parts[w]);
  }
  if (lane == 0) Deliver<Out>(p, output, item, total);
}

template <class T, class Out, class Op>
__global__ void __launch_bounds__(kThreads) Across(const __grid_constant__ Problem p) {
  using C = Total<T>;
  const int lanes = p.lanes, columns = kThreads / lanes;
  const int column = static_cast<int>(threadIdx.x) % columns;
  const int lane = static_cast<int>(threadIdx.x) / columns;
  const int64_t chunk = blockIdx.x % p.chunks;
  const int64_t output = blockIdx.x / p.chunks * columns + column;
  const int64_t end = (chunk + 1) * p.chunk < p.inputs ? (chunk + 1) * p.chunk : p.inputs;
  C sums[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) sums[k] = Op::template Start<C>();
  if (output < p.outputs) {
    int64_t at[2];
    p.kept.Locate(output, at);
    const T* const x = static_cast<const T*>(p.x) + at[0];
    int64_t i = chunk * p.chunk + lane;
    if (p.reduced.rank <= 1) {
      const int64_t step = p.reduced.rank == 0 ? 0 : p.reduced.stride[0][0];
      for (; i + 7 * lanes < end; i += 8 * lanes) {
        T rows[8];  // all under way at once
#pragma unroll
        for (int k = 0; k < 8; ++k) rows[k] = x[(i + k * lanes) * step];
#pragma unroll
        for (int k = 0; k < 8; ++k)
          sums[k % 4] = Op::Join(sums[k % 4], static_cast<C>(Widen(rows[k])));
      }
      for (; i < end; i += lanes) sums[0] = Op::Join(sums[0], static_cast<C>(Widen(x[i * step])));
    } else {
      for (; i < end; i += lanes) {
        int64_t from[1];
        p.reduced.Locate(i, from);
        sums[0] = Op::Join(sums[0], static_cast<C>(Widen(x[from[0]])));
      }
    }
  }
  C total = Op::Join(Op::Join(sums[0], sums[1]), Op::Join(sums[2], sums[3]));
  if (lanes > 1) {
    __shared__ C parts[kThreads];
    parts[threadIdx.x] = total;
    for (int half = lanes / 2; half > 0; half /= 2) {
      __syncthreads();
      if (lane < half) {
        total = Op::Join(total, parts[threadIdx.x + half * columns]);
        parts[threadIdx.x] = total;
      }
    }
  }
  if (lane == 0 && output < p.outputs) Deliver<Out>(p, output, chunk * p.outputs + output, total);
}

int64_t PowerAbove(int64_t n, int64_t most) {
  int64_t power = 1;
  while (power < n && power < most) power *= 2;
  return power;
}

// One pass; those that follow read the sums of its chunks.
template <class T, class Out, class Op>
void Reduce(const Arguments& in, const char* op, Problem p, bool across) {
  using C = Total<T>;
  int64_t blocks;
  if (across) {
    int64_t columns = kThreads;
    if (p.inputs > kFew) columns = PowerAbove(p.outputs, 32);
    p.lanes = static_cast<int32_t>(kThreads / columns);
    p.chunk = p.lanes * kRowsPerLane;
    p.chunks = std::max<int64_t>(1, CeilDiv(p.inputs, p.chunk));
    blocks = CeilDiv(p.outputs, columns) * p.chunks;
  } else {
    p.lanes = p.inputs <= kShort ? kWarp : kThreads;
    p.chunk = kAlongChunk;
    p.chunks = std::max<int64_t>(1, CeilDiv(p.inputs, p.chunk));
    blocks = CeilDiv(p.outputs * p.chunks, kThreads / p.lanes);
  }
  Require(blocks < int64_t{1} << 31, ErrorCode::kShape, "a reduction of more than 2^31 blocks");
  p.kept.Finish();
  p.reduced.Finish();
  C* const partial = p.chunks > 1 ? in.Workspace<C>(p.outputs * p.chunks) : nullptr;
  p.partial = partial;
  Launch(in, op, {dim3(static_cast<unsigned>(blocks)), kThreads},
         across ? Across<T, Out, Op> : Along<T, Out, Op>, p);
  if (p.chunks == 1) return;
  Problem next = p;
  next.x = partial;
  // kept: where a sum stands in the workspace, and y's own places
  next.inputs = p.chunks;
  next.reduced = {};
  next.reduced.Add(p.chunks, {across ? p.outputs : 1});
  int64_t inner = across ? 1 : p.chunks;
  for (int i = p.kept.rank - 1; i >= 0; --i) {
    next.kept.stride[0][i] = inner;
    inner *= p.kept.size[i];
  }
  Reduce<C, Out, Op>(in, op, next, across);
}

template <class Op>
void ReduceAxes(const Arguments& in, const char* op, bool mean) {
  const View &x = in[0], &y = in[1];
  Problem p{};
  bool fits = x.rank == y.rank;
  int order[kMaxRank] = {};
  const int rank = fits ? OrderAxes(x, order) : 0;
  for (int i = 0; i < rank; ++i) {
    const int axis = order[i];
    if (x.shape[axis] == y.shape[axis]) {
      p.kept.Add(x.shape[axis], {x.stride[axis], y.stride[axis]});
    } else {
      fits = fits && y.shape[axis] == 1;
      p.reduced.Add(x.shape[axis], {x.stride[axis]});
    }
  }
  for (int i = 0; fits && i < x.rank; ++i) fits = x.shape[i] != 1 || y.shape[i] == 1;
  if (!fits) {
    throw Error(ErrorCode::kShape,
                std::string(op) + ": " + y.ToString() + " is no reduction of " + x.ToString());
  }
  p.x = x.data;
  p.y = y.data;
  p.outputs = p.kept.count;
  p.inputs = p.count = p.reduced.count;
  p.mean = mean;
  if (p.outputs == 0) return;
  const bool across =
      p.inputs <= kFew || (p.kept.rank > 0 && p.kept.stride[0][p.kept.rank - 1] == 1);
  if constexpr (std::is_same_v<Op, SumOp>) {
    if (x.dtype == DType::kU8 && !mean) {  // how many are set
      RequireDType(op, y, DType::kI32);
      return Reduce<uint8_t, int32_t, Op>(in, op, p, across);
    }
  }
  RequireDType(op, y, x.dtype);
  if (x.dtype == DType::kI32 && !mean) return Reduce<int32_t, int32_t, Op>(in, op, p, across);
  DispatchFloat(x.dtype, [&]<class T>() { Reduce<T, T, Op>(in, op, p, across); });
}

void Sum(const Arguments& in) { ReduceAxes<SumOp>(in, "sum", false); }
void Mean(const Arguments& in) { ReduceAxes<SumOp>(in, "mean", true); }
void Max(const Arguments& in) { ReduceAxes<MaxOp>(in, "max", false); }
void Min(const Arguments& in) { ReduceAxes<MinOp>(in, "min", false); }

FUSELM_CUDA_KERNEL("sum(x) -> (y) [axes]", kFloat | Mask(DType::kI32) | Mask(DType::kU8), Sum);
FUSELM_CUDA_KERNEL("mean(x) -> (y) [axes]", kFloat, Mean);
FUSELM_CUDA_KERNEL("max(x) -> (y) [axes]", kFloat | Mask(DType::kI32), Max);
FUSELM_CUDA_KERNEL("min(x) -> (y) [axes]", kFloat | Mask(DType::kI32), Min);

}  // namespace
}  // namespace fuselm::cuda
