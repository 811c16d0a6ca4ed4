// grad_norm: L2 norm over all gradients. Squares are taken and summed in double: the square of a
// float is exact there and cannot overflow.
//
// Work: a block a chunk of 16,384 elements, 16-byte loads where aligned, four in flight a thread;
// one block then adds the chunks' sums, each thread every 1,024th, joined in a fixed tree. Static
// shared memory, 8 KB at most. Reads each gradient once: the target is read bandwidth.
#include "native/cuda/multi_tensor.cuh"
#include "native/cuda/rows.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 256, kJoinThreads = 1024;
constexpr int64_t kChunk = 16384;

struct Gradient {
  const float* data;
  int64_t count, first;
  int64_t aligned;
};

template <int kBlock>
__device__ __forceinline__ double BlockSumDouble(double x) {
  __shared__ double parts[kBlock / kWarp];
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) x += __shfl_xor_sync(kFullMask, x, d);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  double sum = 0;
#pragma unroll
  for (int w = 0; w < kBlock / kWarp; ++w) sum += parts[w];
  return sum;
}

__global__ void __launch_bounds__(kThreads)
    SumSquares(const ChunkTable<Gradient> table, double* sums) {
  const Gradient grad = table.entries[table.Find(blockIdx.x)];
  const int64_t begin = (blockIdx.x - grad.first) * kChunk;
  const int64_t count = grad.count - begin < kChunk ? grad.count - begin : kChunk;
  const float* const x = grad.data + begin;
  double sum = 0;
  int64_t done = 0;
  if (grad.aligned) {
    const int64_t packs = count / 4;
    done = packs * 4;
    int64_t i = threadIdx.x;
    for (; i + 3 * kThreads < packs; i += 4 * kThreads) {
      Pack<float, 4> a[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        a[j] = *reinterpret_cast<const Pack<float, 4>*>(x + 4 * (i + j * kThreads));
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) sum += static_cast<double>(a[j].v[k]) * a[j].v[k];
      }
    }
    for (; i < packs; i += kThreads) {
      const auto a = *reinterpret_cast<const Pack<float, 4>*>(x + 4 * i);
#pragma unroll
      for (int k = 0; k < 4; ++k) sum += static_cast<double>(a.v[k]) * a.v[k];
    }
  }
  for (int64_t i = done + threadIdx.x; i < count; i += kThreads) {
    sum += static_cast<double>(x[i]) * x[i];
  }
  sum = BlockSumDouble<kThreads>(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kJoinThreads)
    JoinSums(const double* sums, int64_t chunks, float* norm) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < chunks; i += kJoinThreads) sum += sums[i];
  sum = BlockSumDouble<kJoinThreads>(sum);
  if (threadIdx.x == 0) *norm = static_cast<float>(sqrt(sum));
}

void GradNorm(const Arguments& in) {
  Require(in.size() > 1, ErrorCode::kShape, "grad_norm: no gradients");
  Require(in[0].dtype == DType::kF32 && in[0].numel() == 1, ErrorCode::kShape,
          "grad_norm: norm must be f32 of one element");
  std::vector<Gradient> entries;
  for (size_t i = 1; i < in.size(); ++i) {
    Require(in[i].dtype == DType::kF32, ErrorCode::kShape, "grad_norm: gradients must be f32");
    Require(in[i].contiguous(), ErrorCode::kShape, "grad_norm: gradients must be contiguous");
    entries.push_back({in[i].as<float>(), in[i].numel(), 0, Aligned16(in[i].data)});
  }
  const int64_t chunks = CutIntoChunks(entries, kChunk);
  double* const sums = in.Workspace<double>(chunks + 1);
  if (chunks > 0) {
    auto* const room = in.Workspace<Gradient>(static_cast<int64_t>(entries.size()));
    const auto table = UploadTable(in, "grad_norm", entries, room);
    Launch(in, "grad_norm", {dim3(static_cast<unsigned>(chunks)), kThreads}, SumSquares, table,
           sums);
  }
  Launch(in, "grad_norm", {dim3(1), kJoinThreads}, JoinSums, sums, chunks, in[0].as<float>());
}

FUSELM_CUDA_KERNEL("grad_norm(...(grad)) -> (norm)", Mask(DType::kF32), GradNorm);

}  // namespace
}  // namespace fuselm::cuda
