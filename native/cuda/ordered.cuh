// Floats as integers of the same order, and the search for a border among them by digits.
#pragma once

#include "native/cuda/device.cuh"

namespace fuselm::cuda {

// Larger floats have larger keys; -0 is just below 0, NaN by its sign above or below all.
__device__ __forceinline__ uint32_t Ordered(float f) {
  const uint32_t u = __float_as_uint(f);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}

using Mass = unsigned long long;  // what CUDA's 64-bit atomics take

// The highest bucket that, with all above it, comes to `target`, or bucket 0; and what is above it.
struct Border {
  int bucket;
  Mass above, own;
};

// By the first warp of the block, the same in all its lanes. kBuckets is a multiple of 32.
template <int kBuckets, class Count>
__device__ __forceinline__ Border FindBorder(const Count* histogram, Mass target) {
  constexpr int kEach = kBuckets / kWarp;
  const int lane = threadIdx.x % kWarp, first = (kWarp - 1 - lane) * kEach;  // lane 0 has the top
  Mass mine = 0;
  // each lane begins elsewhere, or all would ask one bank
  for (int b = 0; b < kEach; ++b) mine += histogram[first + (b + lane) % kEach];
  Mass upto = mine;
#pragma unroll
  for (int d = 1; d < kWarp; d *= 2) {
    const Mass other = __shfl_up_sync(kFullMask, upto, d);
    if (lane >= d) upto += other;
  }
  const unsigned reach = __ballot_sync(kFullMask, upto >= target);
  const int owner = reach == 0 ? kWarp - 1 : __ffs(static_cast<int>(reach)) - 1;
  Border border{first + kEach - 1, upto - mine, 0};
  if (lane == owner) {
    while (border.bucket > first && border.above + histogram[border.bucket] < target)
      border.above += histogram[border.bucket--];
    border.own = histogram[border.bucket];
  }
  border.bucket = __shfl_sync(kFullMask, border.bucket, owner);
  border.above = __shfl_sync(kFullMask, border.above, owner);
  border.own = __shfl_sync(kFullMask, border.own, owner);
  return border;
}

}  // namespace fuselm::cuda
