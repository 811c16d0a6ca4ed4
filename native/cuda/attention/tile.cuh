// Tiles of bf16 rows in shared memory and their fragments for mma.sync. A row of kD elements is a
// sequence of 16-byte chunks; chunk c of row r stands at c ^ (r % 8), so that the eight rows that
// ldmatrix reads at once lie in different banks.
#pragma once

#include "native/cuda/mma.cuh"

namespace fuselm::cuda::attention {

// In elements; kD is a multiple of 64.
template <int kD>
__host__ __device__ constexpr int TileAt(int row, int chunk) {
  return row * kD + ((chunk ^ (row & 7)) * 8);
}

// Starts copying kRows rows into a tile: row(r) gives the source or null for a row of zeros, `any`
// is an address that may be named but is not read. Columns D..kD become zeros. Unaligned sources
// are copied at once.
template <int kD, int kRows, int kThreads, class F>
__device__ __forceinline__ void LoadTile(bf16* tile, int64_t D, bool aligned, const bf16* any,
                                         F&& row) {
  constexpr int kChunks = kD / 8;
  static_assert(kThreads % kChunks == 0 || kChunks % kThreads == 0);
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kThreads) {
    const int r = i / kChunks, c = i % kChunks;
    const bf16* const from = row(r);
    bf16* const to = tile + TileAt<kD>(r, c);
    if (aligned) {
      const bool valid = from != nullptr && c * 8 < D;
      CpAsync16(to, valid ? from + c * 8 : any, valid);
    } else {
      Pack<bf16, 8> pack;
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        pack.v[k].bits = from != nullptr && c * 8 + k < D ? from[c * 8 + k].bits : uint16_t{0};
      }
      *reinterpret_cast<Pack<bf16, 8>*>(to) = pack;
    }
  }
}

// A: rows row0..+15 of the tile, columns 16 step..+15.
template <int kD>
__device__ __forceinline__ void LoadA(uint32_t (&a)[4], const bf16* tile, int row0, int step) {
  const int lane = threadIdx.x % kWarp;
  LdMatrixX4(a, tile + TileAt<kD>(row0 + lane % 16, 2 * step + lane / 16));
}
// B of a product over columns: n are rows row0..+15 of the tile (two fragments: words 0, 1 and 2,
// 3), k are columns 16 step..+15.
template <int kD>
__device__ __forceinline__ void LoadB(uint32_t (&b)[4], const bf16* tile, int row0, int step) {
  const int lane = threadIdx.x % kWarp, matrix = lane / 8;
  LdMatrixX4(b, tile + TileAt<kD>(row0 + matrix / 2 * 8 + lane % 8, 2 * step + matrix % 2));
}
// B of a product over rows: k are rows row0..+15, n are columns 8 chunk..+15 (two fragments).
template <int kD>
__device__ __forceinline__ void LoadBDown(uint32_t (&b)[4], const bf16* tile, int row0, int chunk) {
  const int lane = threadIdx.x % kWarp, matrix = lane / 8;
  LdMatrixX4Trans(b, tile + TileAt<kD>(row0 + matrix % 2 * 8 + lane % 8, chunk + matrix / 2));
}
__device__ __forceinline__ void MmaPair(float (&c0)[4], float (&c1)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[4]) {
  const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
  Mma16816(c0, a, b0);
  Mma16816(c1, a, b1);
}

// The A operand made of two neighbouring accumulators (16 x 8 each), rounded.
__device__ __forceinline__ void ToA(uint32_t (&a)[4], const float (&left)[4],
                                    const float (&right)[4]) {
  a[0] = ToBf16x2(left[0], left[1]);
  a[1] = ToBf16x2(left[2], left[3]);
  a[2] = ToBf16x2(right[0], right[1]);
  a[3] = ToBf16x2(right[2], right[3]);
}

// 2^x: the special function unit's, relative error 2^-22; 0 for -infinity.
__device__ __forceinline__ float Exp2(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::exp2(x);
#endif
}

// Puts 16 x (8 kTiles) accumulators of a warp, times a factor a row, into rows row0..+15 of a tile
// from column 0 on, rounded.
template <int kD, int kTiles>
__device__ __forceinline__ void StoreTile(bf16* tile, int row0, const float (&acc)[kTiles][4],
                                          float low_factor, float high_factor) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    auto* const low = reinterpret_cast<uint32_t*>(tile + TileAt<kD>(row0 + g, j)) + t;
    auto* const high = reinterpret_cast<uint32_t*>(tile + TileAt<kD>(row0 + g + 8, j)) + t;
    *low = ToBf16x2(acc[j][0] * low_factor, acc[j][1] * low_factor);
    *high = ToBf16x2(acc[j][2] * high_factor, acc[j][3] * high_factor);
  }
}
// One warp copies rows row0..+15 of a tile, `columns` of them from column 0 on, to memory: row(r)
// is the destination or null.
template <int kD, class F>
__device__ __forceinline__ void CopyOut(const bf16* tile, int row0, int64_t columns, bool aligned,
                                        F&& row) {
  constexpr int kChunks = kD / 8;
  for (int i = threadIdx.x % kWarp; i < 16 * kChunks; i += kWarp) {
    const int r = row0 + i / kChunks, c = i % kChunks;
    bf16* const to = row(r);
    if (to == nullptr || c * 8 >= columns) continue;
    const auto pack = *reinterpret_cast<const Pack<bf16, 8>*>(tile + TileAt<kD>(r, c));
    if (aligned) {
      *reinterpret_cast<Pack<bf16, 8>*>(to + c * 8) = pack;
    } else {
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        if (c * 8 + k < columns) to[c * 8 + k] = pack.v[k];
      }
    }
  }
}

}  // namespace fuselm::cuda::attention
