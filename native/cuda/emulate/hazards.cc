// Proves that the checked build finds what it says it finds: tiny kernels with one bug each, beside
// twins without it. Prints "N passed, N failed".

#include <cstdio>
#include <string>
#include <vector>

#include "native/core/error.h"
#include "native/cuda/hopper.cuh"
#include "native/cuda/mma.cuh"

namespace fuselm::cuda {
namespace {

int passed = 0, failed = 0;

struct Args {
  float* x;
  int64_t n;
};
using Kernel = void (*)(Args, bool);
struct Case {
  const char* name;
  const char* hazard;  // part of the report, where the bug is there
  Kernel kernel;
  int blocks = 1, threads = 64;
  int64_t shared = 256;
};

constexpr int64_t kCount = 1024;

// ------------------------------------------------------------------------------- ordinary memory

__global__ void WrittenByOthers(Args a, bool bug) {
  FUSELM_DYNAMIC_SHARED(float, s);
  const int t = static_cast<int>(threadIdx.x);
  s[t] = a.x[t];
  if (!bug) __syncthreads();
  a.x[t] = s[t ^ 32];
}
__global__ void OverwrittenTooSoon(Args, bool bug) {
  __shared__ float s[64];
  const int t = static_cast<int>(threadIdx.x);
  s[t] = 1;
  __syncthreads();
  const float other = s[(t + 1) % 64];
  if (!bug) __syncthreads();
  s[t] = other;
}
__global__ void TwoWriters(Args, bool bug) {
  FUSELM_DYNAMIC_SHARED(float, s);
  if (threadIdx.x == 0 || (bug && threadIdx.x == 40)) s[0] = 1;
}
__global__ void HalvesOfAWord(Args, bool bug) {
  FUSELM_DYNAMIC_SHARED(bf16, s);
  s[threadIdx.x / (bug ? 2 : 1)].bits = 1;  // a neighbour's half is not this thread's
}
__global__ void LanesBySyncwarp(Args a, bool bug) {
  FUSELM_DYNAMIC_SHARED(float, s);
  const int t = static_cast<int>(threadIdx.x);
  s[t] = a.x[t];
  if (!bug) __syncwarp();
  a.x[t] = s[t ^ 1];
}
__global__ void ShufflesOrderNothing(Args a, bool bug) {
  FUSELM_DYNAMIC_SHARED(float, s);
  const int t = static_cast<int>(threadIdx.x);
  s[t] = a.x[t];
  const float sum = WarpSum(1.0f);
  if (!bug) __syncwarp();
  a.x[t] = s[t ^ 1] + sum;
}
__global__ void OtherWarps(Args a, bool bug) {
  FUSELM_DYNAMIC_SHARED(float, s);
  const int t = static_cast<int>(threadIdx.x);
  s[t] = a.x[t];
  __syncwarp();  // of one warp
  a.x[t] = s[bug ? t ^ 32 : t ^ 16];
}
__global__ void ManyReaders(Args a, bool bug) {
  FUSELM_DYNAMIC_SHARED(float, s);
  if (threadIdx.x == 0) s[0] = a.x[0];
  __syncthreads();
  const float value = s[0];
  __syncwarp();
  if (threadIdx.x == 0 && bug) s[0] = value + 1;  // the other warp may not have read
  __syncthreads();
  if (threadIdx.x == 0) s[0] = value + 2;
}
__global__ void ReadBeforeWritten(Args a, bool bug) {
  __shared__ float s[64];
  const int t = static_cast<int>(threadIdx.x);
  if (t < 63 || !bug) s[t] = 0;
  __syncthreads();
  a.x[t] = s[63 - t];
}
__global__ void LeftByAnotherBlock(Args a, bool bug) {
  FUSELM_DYNAMIC_SHARED(float, s);
  if (blockIdx.x == 0 || !bug) s[threadIdx.x] = 1;
  a.x[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x];
}
__global__ void PastDynamicShared(Args, bool bug) {
  FUSELM_DYNAMIC_SHARED(float, s);
  s[threadIdx.x + (bug ? 1 : 0)] = 1;
}
__global__ void PastTheAllocation(Args a, bool bug) {
  a.x[kCount - 64 + static_cast<int>(threadIdx.x) + (bug ? 1 : 0)] = 1;
}
__global__ void BeforeTheAllocation(Args a, bool bug) {
  a.x[threadIdx.x] = a.x[static_cast<int>(threadIdx.x) - (bug ? 1 : 0)];
}
__global__ void BlocksWriteOneByte(Args a, bool bug) {
  if (threadIdx.x == 0) a.x[bug ? 0 : blockIdx.x] = 1;
}
__global__ void BlocksReadWhatOthersWrite(Args a, bool bug) {
  const int64_t i = blockIdx.x * 64 + threadIdx.x;
  a.x[i] = a.x[bug ? (i + 64) % kCount : i];
}
__global__ void ReadThenWrittenByAnother(Args a, bool bug) {
  if (threadIdx.x != 0) return;
  const float first = a.x[0];  // by all blocks, and then by the last of them as well
  if (bug && blockIdx.x == gridDim.x - 1) a.x[0] = first + 1;
}
__global__ void AtomicsOfBlocks(Args a, bool bug) {
  auto* const counter = reinterpret_cast<int*>(a.x);
  atomicAdd(counter, 1);
  if (bug && threadIdx.x == 0) counter[0] += 1;
}
__global__ void AtomicsThenRead(Args a, bool bug) {
  __shared__ int count;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  atomicAdd(&count, 1);
  if (!bug) __syncthreads();
  a.x[threadIdx.x] = static_cast<float>(count);
}

// ------------------------------------------------------------------------------------- cp.async

__global__ void CopyNotWaitedFor(Args a, bool bug) {
  FUSELM_DYNAMIC_SHARED(float, s);
  const int t = static_cast<int>(threadIdx.x);
  if (t < 16) CpAsync16(s + 4 * t, a.x + 4 * t);
  CpAsyncCommit();
  if (!bug) CpAsyncWait<0>();
  __syncthreads();
  a.x[t] = s[t];
}
__global__ void OneGroupTooFew(Args a, bool bug) {
  FUSELM_DYNAMIC_SHARED(float, s);
  const int t = static_cast<int>(threadIdx.x);
  if (t < 8) CpAsync16(s + 4 * t, a.x + 4 * t);
  CpAsyncCommit();
  if (t < 8) CpAsync16(s + 32 + 4 * t, a.x + 32 + 4 * t);
  CpAsyncCommit();
  CpAsyncWait<1>();
  __syncthreads();
  a.x[t] = s[bug ? 32 + t % 32 : t % 32];
}
__global__ void CopyWithoutBarrier(Args a, bool bug) {
  FUSELM_DYNAMIC_SHARED(float, s);
  const int t = static_cast<int>(threadIdx.x);
  if (t < 16) CpAsync16(s + 4 * t, a.x + 4 * t);
  CpAsyncCommit();
  CpAsyncWait<0>();
  if (!bug) __syncthreads();
  a.x[t + 64] = s[t];
}
__global__ void MatrixRowsOfOthers(Args a, bool bug) {
  __align__(16) __shared__ float s[32][4];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (threadIdx.x < kWarp)
    for (float& value : s[lane]) value = 1;
  if (!bug) __syncthreads();
  uint32_t r[4];
  LdMatrixX4(r, s[bug ? 31 - lane : lane]);
  a.x[threadIdx.x] = static_cast<float>(r[0]);
}

// --------------------------------------------------------------------------------------- Hopper

struct Stage {
  alignas(1024) unsigned char tile[8192];
  Barrier full, empty;
};
__device__ Stage* Begin() {
  FUSELM_DYNAMIC_SHARED(unsigned char, s);
  auto* const stage = reinterpret_cast<Stage*>(s);
  if (threadIdx.x == 0) {
    BarrierInit(&stage->full, 1);
    BarrierInit(&stage->empty, 4);
    BarrierInitFence();
  }
  __syncthreads();
  return stage;
}
__device__ void Fill(Stage* stage, const Args& a) {
  BarrierExpect(&stage->full, 4096);
  BulkCopy(stage->tile, a.x, 4096, &stage->full);
}
__global__ void TensorCopyNotWaitedFor(Args a, bool bug) {
  Stage* const stage = Begin();
  if (threadIdx.x == 0) Fill(stage, a);
  if (bug)
    __syncthreads();  // orders the start of the copy, not its end
  else
    BarrierWait(&stage->full, 0);
  a.x[threadIdx.x] = reinterpret_cast<float*>(stage->tile)[threadIdx.x];
}
__global__ void StageFreedTooSoon(Args a, bool bug) {
  Stage* const stage = Begin();
  if (threadIdx.x == 0) Fill(stage, a);
  BarrierWait(&stage->full, 0);
  const float value = reinterpret_cast<float*>(stage->tile)[threadIdx.x];
  if (!bug) __syncwarp();  // all lanes have read before one of them says so
  if (threadIdx.x % kWarp == 0) BarrierArrive(&stage->empty);
  if (threadIdx.x == 127) {
    BarrierWait(&stage->empty, 0);
    Fill(stage, a);
  }
  BarrierWait(&stage->full, 1);
  a.x[threadIdx.x] = value;
}
__global__ void BarrierNotFenced(Args a, bool bug) {
  FUSELM_DYNAMIC_SHARED(unsigned char, s);
  auto* const stage = reinterpret_cast<Stage*>(s);
  if (threadIdx.x == 0) {
    BarrierInit(&stage->full, 1);
    if (!bug) BarrierInitFence();
  }
  __syncthreads();
  if (threadIdx.x == 0) Fill(stage, a);
  BarrierWait(&stage->full, 0);
}
__global__ void WgmmaNotWaitedFor(Args a, bool bug) {
  Stage* const stage = Begin();
  if (threadIdx.x == 0) {
    BarrierExpect(&stage->full, 8192);
    BulkCopy(stage->tile, a.x, 4096, &stage->full);
    BulkCopy(stage->tile + 4096, a.x, 4096, &stage->full);
  }
  BarrierWait(&stage->full, 0);
  float d[32] = {};
  const uint32_t tile = SharedAddress(stage->tile);
  WgmmaFence();
  WgmmaSs(d, AlongRows(tile, 64, 0, 0), AlongRows(tile, 64, 0, 1), 0);
  WgmmaCommit();
  if (!bug) WgmmaWait<0>();
  if (threadIdx.x % kWarp == 0) BarrierArrive(&stage->empty);
  if (threadIdx.x == 127) {
    BarrierWait(&stage->empty, 0);
    Fill(stage, a);
  }
  BarrierWait(&stage->full, 1);
  WgmmaWait<0>();
}
__global__ void StoresWithoutProxyFence(Args, bool bug) {
  Stage* const stage = Begin();
  auto* const words = reinterpret_cast<uint32_t*>(stage->tile);
  for (int i = static_cast<int>(threadIdx.x); i < 2048; i += 128) words[i] = 0;
  if (!bug) BarrierInitFence();  // contains the fence between proxies
  __syncthreads();
  float d[32] = {};
  const uint32_t tile = SharedAddress(stage->tile);
  WgmmaFence();
  WgmmaSs(d, AlongRows(tile, 64, 0, 0), AlongRows(tile, 64, 0, 1), 0);
  WgmmaCommit();
  WgmmaWait<0>();
}
__global__ void NamedBarriers(Args a, bool bug) {
  FUSELM_DYNAMIC_SHARED(float, s);
  const int t = static_cast<int>(threadIdx.x);
  if (t < 32) {
    s[t] = 1;
    AnnounceAt(1, 64);
  } else {
    if (bug)
      MeetAt(2, 32);
    else
      MeetAt(1, 64);
    a.x[t] = s[t - 32];
  }
}

// A missing barrier shows as a race or, where nobody has run yet, as a read before the write.
const Case kCases[] = {
    {"written by other threads", "read before it is written", WrittenByOthers},
    {"overwritten too soon", "a race within a block", OverwrittenTooSoon},
    {"two writers", "a race within a block", TwoWriters},
    {"halves of a word", "a race within a block", HalvesOfAWord},
    {"lanes by __syncwarp", "read before it is written", LanesBySyncwarp},
    {"shuffles order nothing", "a race within a block", ShufflesOrderNothing},
    {"__syncwarp orders one warp", "read before it is written", OtherWarps},
    {"many readers", "a race within a block", ManyReaders},
    {"read before written", "read before it is written", ReadBeforeWritten},
    {"left by another block", "read before it is written", LeftByAnotherBlock, 2},
    {"past dynamic shared memory", "an access out of bounds", PastDynamicShared},
    {"past an allocation", "an access out of bounds", PastTheAllocation},
    {"before an allocation", "an access out of bounds", BeforeTheAllocation},
    {"blocks write one byte", "a race between blocks", BlocksWriteOneByte, 2},
    {"blocks read what others write", "a race between blocks", BlocksReadWhatOthersWrite, 16},
    {"read, then written by another block", "a race between blocks", ReadThenWrittenByAnother, 5},
    {"atomics of blocks", "a race", AtomicsOfBlocks, 2},
    {"atomics, then a read", "a race within a block", AtomicsThenRead},
    {"cp.async not waited for", "a cp.async is not waited for", CopyNotWaitedFor},
    {"one group of cp.async too few", "a cp.async is not waited for", OneGroupTooFew},
    {"cp.async without a barrier", "a race within a block", CopyWithoutBarrier},
    {"ldmatrix of others' rows", "a race within a block", MatrixRowsOfOthers, 1, 32},
    {"tensor copy not waited for", "not waited for", TensorCopyNotWaitedFor, 1, 128, 10240},
    {"stage freed too soon", "a race within a block", StageFreedTooSoon, 1, 128, 10240},
    {"mbarrier not fenced", "not fenced", BarrierNotFenced, 1, 64, 10240},
    {"wgmma not waited for", "not waited for", WgmmaNotWaitedFor, 1, 128, 10240},
    {"stores before wgmma without a fence", "not fenced", StoresWithoutProxyFence, 1, 128, 10240},
    {"named barriers", "a race within a block", NamedBarriers},
};

// The report of a launch; empty when there is none.
std::string Report(const Case& c, cudaStream_t stream, float* x, bool bug) {
  const Args args{x, kCount};
  try {
    emulate::EnqueueKernel(stream, c.name, dim3(static_cast<unsigned>(c.blocks)), c.threads,
                           c.shared, 227 << 10, [&c, args, bug] { c.kernel(args, bug); });
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void Expect(bool ok, const std::string& name, const std::string& report) {
  ++(ok ? passed : failed);
  if (!ok)
    std::printf("FAIL %s: %s\n", name.c_str(), report.empty() ? "no report" : report.c_str());
}

}  // namespace
}  // namespace fuselm::cuda

int main(int argc, char**) {
  using namespace fuselm::cuda;
  void* memory = nullptr;
  cudaStream_t stream = nullptr;
  if (cudaSetDevice(0) != cudaSuccess ||
      cudaMalloc(&memory, kCount * sizeof(float)) != cudaSuccess ||
      cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, 0) != cudaSuccess) {
    std::printf("FAIL no emulated device\n0 passed, 1 failed\n");
    return 1;
  }
  for (const Case& c : kCases) {
    cudaMemsetAsync(memory, 0, kCount * sizeof(float), stream);
    const std::string fine = Report(c, stream, static_cast<float*>(memory), false);
    Expect(fine.empty(), std::string(c.name) + ", without the bug", fine);
    const std::string found = Report(c, stream, static_cast<float*>(memory), true);
    Expect(
        found.find(c.hazard) != std::string::npos && found.find("hazards.cc:") != std::string::npos,
        std::string(c.name) + ", with the bug", found);
    if (argc > 1) std::printf("%s\n", found.c_str());
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
