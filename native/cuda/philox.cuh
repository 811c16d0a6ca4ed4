// Philox by single blocks: the bits of native/core/philox.h.
#pragma once

#include "native/core/philox.h"
#include "native/cuda/device.cuh"
#include "native/cuda/kernel.cuh"

namespace fuselm::cuda {

struct PhiloxBlock {
  uint32_t word[4];
};

// key: four words of device memory, or of registers.
__device__ __forceinline__ PhiloxBlock Philox(const uint32_t* key, uint64_t block) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32);
  uint32_t c2 = key[2], c3 = key[3], k0 = key[0], k1 = key[1];
#pragma unroll
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint32_t high0 = __umulhi(kPhiloxMultiplier0, c0), low0 = kPhiloxMultiplier0 * c0;
    const uint32_t high2 = __umulhi(kPhiloxMultiplier2, c2), low2 = kPhiloxMultiplier2 * c2;
    c0 = high2 ^ c1 ^ k0;
    c1 = low2;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += kPhiloxKeyStep0;
    k1 += kPhiloxKeyStep1;
  }
  return {{c0, c1, c2, c3}};
}

// A word as a float in [0, 1): 24 bits, exact.
__device__ __forceinline__ float PhiloxUniform(uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

// How elementwise kernels are spread: thread t takes 16 elements of group t / 4, whose words are
// blocks 4 (t % 4) .. + 3 of the group: four runs of 4 neighbours, run w at PhiloxRun(t, w).
inline constexpr int kPhiloxThreads = 256, kPhiloxEach = 16;
__device__ __forceinline__ int64_t PhiloxRun(int64_t thread, int word) {
  return thread / 4 * kPhiloxGroup + word * 16 + thread % 4 * 4;
}
// words[w][j]: of element PhiloxRun(thread, w) + j
__device__ __forceinline__ void PhiloxRuns(const uint32_t* key, int64_t thread,
                                           uint32_t (&words)[4][4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const PhiloxBlock block =
        Philox(key, static_cast<uint64_t>(thread / 4 * 16 + thread % 4 * 4 + j));
#pragma unroll
    for (int w = 0; w < 4; ++w) words[w][j] = block.word[w];
  }
}

inline Grid PhiloxGrid(int64_t n) {
  const int64_t threads = CeilDiv(n, kPhiloxGroup) * (kPhiloxGroup / kPhiloxEach);
  const int64_t blocks = CeilDiv(threads, kPhiloxThreads);
  Require(blocks < int64_t{1} << 31, ErrorCode::kShape, "more than 2^31 blocks of random numbers");
  return {dim3(static_cast<unsigned>(blocks)), kPhiloxThreads};
}
inline bool IsPhiloxKey(const View& key) {
  return key.dtype == DType::kU32 && key.contiguous() && key.numel() == 4;
}

}  // namespace fuselm::cuda
