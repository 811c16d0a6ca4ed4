// Tiles in shared memory and warp fragments of the tensor-core products. A tile holds 64 bytes of K
// (32 bf16 or 64 int8) of each of its rows. Sixteen-byte chunks are permuted within a row, so that
// the eight rows of an ldmatrix fall into different banks.
#pragma once

#include "native/cuda/mma.cuh"

namespace fuselm::cuda {

inline constexpr int kTileBytes = 64;  // of K

// Where an operand's tile comes from: rows of `stride` elements, `extent` of them, K of `k`.
struct TileSource {
  const void* data;
  int64_t stride;
  int extent;
};

// Copies tile after tile of one operand: kSpan rows (kDown: columns, K runs down the rows).
// kItem: bytes of an element. data must be 16-byte aligned and stride * kItem a multiple of 16.
template <int kSpan, bool kDown, int kItem, int kThreads>
struct TileLoader {
  static constexpr int kK = kTileBytes / kItem;                              // of a tile
  static constexpr int kChunk = 16 / kItem;                                  // elements of a copy
  static constexpr int kColumns = kDown ? kSpan / kChunk : kTileBytes / 16;  // chunks in a row
  static constexpr int kRows = kDown ? kK : kSpan;
  static constexpr int kCopies = kRows * kColumns / kThreads;
  static constexpr int kBytes = kSpan * kTileBytes;
  // from one chunk of a thread to the next: whole rows, as many as the permutation repeats after
  static constexpr int kApart = kThreads * 16;
  static_assert(kThreads % kColumns == 0 && kThreads / kColumns % 8 == 0);
  static_assert(kCopies * kThreads == kRows * kColumns);
  static_assert(!kDown || kColumns >= 8);

  const char* at[kCopies];
  int64_t step;                    // bytes from tile to tile
  int limit[kDown ? kCopies : 1];  // bytes of a chunk inside the extent, when K does not cut it
  bool partial;                    // some chunks are cut by the extent
  uint32_t to;                     // where in the tile the first of a thread's chunks goes
  int left;                        // of K

  // Byte of chunk `column` of row `row`.
  __device__ __forceinline__ static int Place(int row, int column) {
    if constexpr (kDown) return row * (kColumns * 16) + ((column ^ (row & 7)) << 4);
    return row * kTileBytes + ((column ^ (row >> 1 & 3)) << 4);
  }

  // Tiles from element `k0` of K on; `first` is the tile's first row. What lies past the extent is
  // of no use to anybody: rows there are the last one again, chunks the first.
  __device__ __forceinline__ void Start(const TileSource& from, int first, int64_t k0, int64_t k) {
    left = static_cast<int>(k - k0);
    step = kDown ? from.stride * (kK * kItem) : kTileBytes;
    partial = kDown && from.extent % kChunk != 0;
    const int own = static_cast<int>(threadIdx.x);
    to = Held(static_cast<uint32_t>(Place(own / kColumns, own % kColumns)));
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int chunk = static_cast<int>(threadIdx.x) + i * kThreads;
      const int row = chunk / kColumns, column = chunk % kColumns;
      int64_t offset;
      if constexpr (kDown) {
        const int i0 = first + column * kChunk, inside = from.extent - i0;
        limit[i] = min((inside > 0 ? inside : from.extent) * kItem, 16);
        offset = (k0 + row) * from.stride + (inside > 0 ? i0 : 0);
      } else {
        offset = min(first + row, from.extent - 1) * from.stride + k0 + column * kChunk;
      }
      at[i] = static_cast<const char*>(from.data) + offset * kItem;
    }
  }

  // Starts the copies of one tile and moves on. What lies past K becomes zeros.
  __device__ __forceinline__ void Copy(char* tile) {
    if (left >= kK && !partial) {  // nearly always
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        CpAsync16(tile + to + i * kApart, at[i]);
        at[i] += step;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const int chunk = static_cast<int>(threadIdx.x) + i * kThreads;
        const int row = chunk / kColumns, column = chunk % kColumns;
        int bytes;
        if constexpr (kDown) {
          bytes = row < left ? limit[i] : 0;
        } else {
          bytes = min(16, max((left - column * kChunk) * kItem, 0));
        }
        CpAsync16Part(tile + to + i * kApart, at[i], bytes);
        at[i] += step;
      }
    }
    left -= kK;
  }
};

// Where in a tile a lane finds its part of a warp's fragments. `row`, the first of the warp's rows,
// is a multiple of 32 (A) or of 32 columns (B): then what tells fragments and slices apart is bits
// of the permuted chunk that are 0 in the first one, and bytes that are added.
template <int kSpan, bool kDown>
struct FragmentsOf {
  using L = TileLoader<kSpan, kDown, 2, 128>;
  uint32_t at;

  // `rows_first`: of the four matrices of an ldmatrix the second continues the rows (A), not K (B).
  __device__ __forceinline__ FragmentsOf(int row, bool rows_first) {
    const int lane = threadIdx.x % kWarp, of = lane / 8, in = lane % 8;
    const int of_row = rows_first ? of % 2 : of / 2, of_k = rows_first ? of / 2 : of % 2;
    at = Held(static_cast<uint32_t>(kDown ? L::Place(of_k * 8 + in, row / 8 + of_row)
                                          : L::Place(row + of_row * 8 + in, of_k)));
  }
  // 16 rows, the i-th of them, of the 32-byte slice of the tile's K.
  __device__ __forceinline__ void Load(uint32_t (&r)[4], const char* tile, int i, int slice) const {
    if constexpr (kDown)
      LdMatrixX4Trans(r, tile + slice * (16 * kSpan * 2) + (at ^ i * 32));
    else
      LdMatrixX4(r, tile + i * (16 * kTileBytes) + (at ^ slice * 32));
  }
};
template <int kSpan, bool kDown>
struct FragmentsA : FragmentsOf<kSpan, kDown> {
  __device__ __forceinline__ explicit FragmentsA(int row) : FragmentsOf<kSpan, kDown>(row, true) {}
};
// Two fragments of 8 columns a load.
template <int kSpan, bool kDown>
struct FragmentsB : FragmentsOf<kSpan, kDown> {
  __device__ __forceinline__ explicit FragmentsB(int column)
      : FragmentsOf<kSpan, kDown>(column, false) {}
  __device__ __forceinline__ void Load(uint32_t (&low)[2], uint32_t (&high)[2], const char* tile,
                                       int i, int slice) const {
    uint32_t r[4];
    FragmentsOf<kSpan, kDown>::Load(r, tile, i, slice);
    low[0] = r[0], low[1] = r[1], high[0] = r[2], high[1] = r[3];
  }
};

// How a block of warps shares a tile of C.
template <int kM_, int kN_, int kWarpsM_, int kWarpsN_>
struct TileShape {
  static constexpr int kM = kM_, kN = kN_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr int kWarps = kWarpsM * kWarpsN, kThreads = kWarps * kWarp;
  static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN;
  static constexpr int kFragmentsM = kWarpM / 16, kFragmentsN = kWarpN / 8;
  static constexpr int kStages = 4;
  static constexpr int kStageBytes = (kM + kN) * kTileBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes;
};
// Warps of 64 x 64 read a third less shared memory per product than those of 64 x 32, but with
// sums for two there is room for these alone.
using LargeTile = TileShape<128, 128, 2, 2>;
using LargeTileOfTwo = TileShape<128, 128, 2, 4>;
using SmallTile = TileShape<64, 64, 2, 2>;

// Block b's place among the tiles of C: columns of tiles are walked in bands of kBand rows, so that
// blocks that run at the same time share operands in L2.
struct TilePlace {
  int m, n;
};
__device__ __forceinline__ TilePlace PlaceOf(int b, int tiles_m, int tiles_n) {
  constexpr int kBand = 8;
  const int band = b / (kBand * tiles_n), first = band * kBand;
  const int height = min(kBand, tiles_m - first), in = b - band * kBand * tiles_n;
  return {first + in % height, in / height};
}

// Where C goes, what a sum is multiplied by (`scales`, one per column) and what is added on the
// way.
struct Epilogue {
  void* c;
  int64_t stride;
  int m, n;
  bool bf16_out;
  bool pairs;  // two neighbours in a row may be stored at once
  bool wide;   // eight of them by 16 bytes, and all that joins them is aligned so, too
  bool bias_bf16, addend_bf16;
  const float* scales;
  const void* bias;
  const void* addend;
  int64_t addend_stride;

  // Of what a warp stores 16 x 32 elements by way of.
  static constexpr int kPitch = 40, kRoom = 16 * kPitch;  // floats

  __device__ __forceinline__ float Bias(int column) const {
    return bias_bf16 ? ToFloat(static_cast<const bf16*>(bias)[column])
                     : static_cast<const float*>(bias)[column];
  }
  __device__ __forceinline__ void Store(int row, int column, float v) const {
    if (scales != nullptr) v *= scales[column];
    if (addend != nullptr) {
      const int64_t at = row * addend_stride + column;
      v += addend_bf16 ? ToFloat(static_cast<const bf16*>(addend)[at])
                       : static_cast<const float*>(addend)[at];
    }
    if (bias != nullptr) v += Bias(column);
    if (bf16_out) {
      static_cast<bf16*>(c)[row * stride + column] = ToBf16(v);
    } else {
      static_cast<float*>(c)[row * stride + column] = v;
    }
  }
  // Elements (row, column) and (row, column + 1), as far as they are inside.
  __device__ __forceinline__ void Store2(int row, int column, float v0, float v1) const {
    if (row >= m || column >= n) return;
    if (!pairs || column + 1 >= n) {
      Store(row, column, v0);
      if (column + 1 < n) Store(row, column + 1, v1);
      return;
    }
    if (scales != nullptr) v0 *= scales[column], v1 *= scales[column + 1];
    if (addend != nullptr) {
      const int64_t at = row * addend_stride + column;
      if (addend_bf16) {
        const uint32_t add =
            *reinterpret_cast<const uint32_t*>(static_cast<const bf16*>(addend) + at);
        v0 += LowToFloat(add), v1 += HighToFloat(add);
      } else {
        const Pack<float, 2> add =
            *reinterpret_cast<const Pack<float, 2>*>(static_cast<const float*>(addend) + at);
        v0 += add.v[0], v1 += add.v[1];
      }
    }
    if (bias != nullptr) v0 += Bias(column), v1 += Bias(column + 1);
    if (bf16_out) {
      *reinterpret_cast<uint32_t*>(static_cast<bf16*>(c) + row * stride + column) =
          ToBf16x2(v0, v1);
    } else {
      *reinterpret_cast<Pack<float, 2>*>(static_cast<float*>(c) + row * stride + column) = {v0, v1};
    }
  }

  // v += the eight elements from p on.
  __device__ __forceinline__ static void Add8(float (&v)[8], const void* p, int64_t at,
                                              bool of_bf16) {
    if (of_bf16) {
      const auto words =
          *reinterpret_cast<const Pack<uint32_t, 4>*>(static_cast<const bf16*>(p) + at);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        v[2 * i] += LowToFloat(words.v[i]), v[2 * i + 1] += HighToFloat(words.v[i]);
    } else {
#pragma unroll
      for (int h = 0; h < 8; h += 4) {
        const auto four =
            *reinterpret_cast<const Pack<float, 4>*>(static_cast<const float*>(p) + at + h);
#pragma unroll
        for (int i = 0; i < 4; ++i) v[h + i] += four.v[i];
      }
    }
  }
  // Eight elements from (row, column) on, inside; needs `wide`.
  __device__ __forceinline__ void Store8(int row, int column, float (&v)[8]) const {
    if (scales != nullptr) {
#pragma unroll
      for (int h = 0; h < 8; h += 4) {
        const auto four = *reinterpret_cast<const Pack<float, 4>*>(scales + column + h);
#pragma unroll
        for (int i = 0; i < 4; ++i) v[h + i] *= four.v[i];
      }
    }
    if (addend != nullptr) Add8(v, addend, row * addend_stride + column, addend_bf16);
    if (bias != nullptr) Add8(v, bias, column, bias_bf16);
    const int64_t at = row * stride + column;
    if (bf16_out) {
      *reinterpret_cast<Pack<uint32_t, 4>*>(static_cast<bf16*>(c) + at) = {
          ToBf16x2(v[0], v[1]), ToBf16x2(v[2], v[3]), ToBf16x2(v[4], v[5]), ToBf16x2(v[6], v[7])};
    } else {
      auto* const to = reinterpret_cast<Pack<float, 4>*>(static_cast<float*>(c) + at);
      to[0] = {v[0], v[1], v[2], v[3]};
      to[1] = {v[4], v[5], v[6], v[7]};
    }
  }
  // 16 x 32 elements from (row0, column0) on, as a warp's tensor core leaves them: value(j, half,
  // e) is element 2t + e of the j-th eight of row g + 8 half, with lane = 4g + t. They pass through
  // the warp's own kRoom floats of shared memory, so that four lanes store 64 bytes of a row at
  // once and one short piece of code serves all edges.
  template <class F>
  __device__ __forceinline__ void StoreRows(float* room, int row0, int column0, F&& value) const {
    const int lane = threadIdx.x % kWarp;
    __syncwarp();  // what stood there has been read
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<Pack<float, 2>*>(room + (lane / 4 + 8 * half) * kPitch + 8 * j +
                                           lane % 4 * 2) = {value(j, half, 0), value(j, half, 1)};
    __syncwarp();
#pragma unroll 1
    for (int r = lane / 4; r < 16; r += 8) {
      const int row = row0 + r, column = column0 + lane % 4 * 8;
      if (row >= m || column >= n) continue;
      const float* const from = room + r * kPitch + lane % 4 * 8;
      if (wide && column + 8 <= n) {
        float v[8];
#pragma unroll
        for (int h = 0; h < 8; h += 4) {
          const auto four = *reinterpret_cast<const Pack<float, 4>*>(from + h);
#pragma unroll
          for (int i = 0; i < 4; ++i) v[h + i] = four.v[i];
        }
        Store8(row, column, v);
      } else {
#pragma unroll 1
        for (int i = 0; i < 8 && column + i < n; ++i) Store(row, column + i, from[i]);
      }
    }
  }
};

}  // namespace fuselm::cuda
