// C = A B^T for float32 on the vector units: exact float32, each sum along K in order.
//
// Work: a block of 256 threads makes a tile of C, 128 x 128 (8 x 8 a thread) or 64 x 64 (4 x 4),
// walking K by 16. The next step's operands are in registers while this one is multiplied; two
// buffers in shared memory, K outermost (33 or 17 KB); one barrier per step. Any alignment: rows
// that allow it load 16 bytes at a time. Target: 80 % of the float32 peak at large sizes.

#include <algorithm>

#include "native/cuda/gemm/kernels.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kStep = 16;  // of K

// Loads kSpan rows x kStep of K of one operand, four neighbours in memory at a time, and stores
// them with K outermost.
template <int kSpan, bool kDown>
struct FloatLoader {
  static constexpr int kFours = kSpan * kStep / 4 / kThreads;
  static constexpr int kPitch = kSpan + 4;  // keeps rows of K in different banks, 16-byte aligned
  float held[kFours][4];

  __device__ __forceinline__ static void Spot(int i, int* at, int* k) {
    const int four = static_cast<int>(threadIdx.x) + i * kThreads;
    if constexpr (kDown) {
      *at = four % (kSpan / 4) * 4, *k = four / (kSpan / 4);
    } else {
      *at = four / (kStep / 4), *k = four % (kStep / 4) * 4;
    }
  }
  // From row `first` and element k0 of K, which ends at k_end.
  __device__ __forceinline__ void Fetch(const TileSource& from, const float* data, bool aligned,
                                        int first, int64_t k0, int64_t k_end) {
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      int at, k;
      Spot(i, &at, &k);
      const int row = first + at;
      const int64_t column = k0 + k;
      const float* p = data + (kDown ? column * from.stride + row : row * from.stride + column);
      const int64_t inside = kDown ? (column < k_end ? from.extent - row : 0)
                                   : (row < from.extent ? k_end - column : 0);
      if (aligned && inside >= 4) {
        const Pack<float, 4> v = *reinterpret_cast<const Pack<float, 4>*>(p);
#pragma unroll
        for (int j = 0; j < 4; ++j) held[i][j] = v.v[j];
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) held[i][j] = j < inside ? p[j] : 0.0f;
      }
    }
  }
  __device__ __forceinline__ void Put(float* tile) const {
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      int at, k;
      Spot(i, &at, &k);
      if constexpr (kDown) {
        Pack<float, 4> v;
#pragma unroll
        for (int j = 0; j < 4; ++j) v.v[j] = held[i][j];
        *reinterpret_cast<Pack<float, 4>*>(tile + k * kPitch + at) = v;
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) tile[(k + j) * kPitch + at] = held[i][j];
      }
    }
  }
};

__device__ __forceinline__ bool Aligned(const TileSource& s, const float* data) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && s.stride % 4 == 0;
}

// kSize x kSize a block. A thread's rows are fours, kSize / 2 apart when it has two of them.
template <int kSize, bool kADown, bool kBDown>
__global__ void __launch_bounds__(kThreads, 1) Product(const __grid_constant__ KernelArgs args) {
  constexpr int kFours = kSize / 64, kEach = kFours * 4;
  using LoadTileA = FloatLoader<kSize, kADown>;
  using LoadTileB = FloatLoader<kSize, kBDown>;
  constexpr int kTile = kStep * LoadTileA::kPitch;
  __align__(16) __shared__ float tile_a[2][kTile];
  __align__(16) __shared__ float tile_b[2][kTile];
  const int tiles_n = (args.out.n + kSize - 1) / kSize, tiles_m = (args.out.m + kSize - 1) / kSize;
  const TilePlace place = PlaceOf(static_cast<int>(blockIdx.x), tiles_m, tiles_n);
  const int first_m = place.m * kSize, first_n = place.n * kSize;
  const int thread_m = static_cast<int>(threadIdx.x) / 16 * 4, thread_n = threadIdx.x % 16 * 4;
  const BatchOffsets offsets(args);

  float acc[kEach][kEach] = {};
  LoadTileA load_a;
  LoadTileB load_b;
  int buffer = 0;
  for (int segment = 0; segment < args.count; ++segment) {
    const KernelSegment& s = args.segments[segment];
    const float* const a = static_cast<const float*>(s.a.data) + offsets.a;
    const float* const b = static_cast<const float*>(s.b.data) + offsets.b;
    const bool aligned_a = Aligned(s.a, a), aligned_b = Aligned(s.b, b);
    const int64_t from = args.split > 0 ? args.split * blockIdx.z : 0;
    const int64_t end = args.split > 0 ? min(s.k, from + args.split) : s.k;
    if (from < end) {
      load_a.Fetch(s.a, a, aligned_a, first_m, from, end);
      load_b.Fetch(s.b, b, aligned_b, first_n, from, end);
    }
    for (int64_t k = from; k < end; k += kStep) {
      load_a.Put(tile_a[buffer]);
      load_b.Put(tile_b[buffer]);
      __syncthreads();  // with two buffers, also what keeps a slow warp's reads from the next Put
      if (k + kStep < end) {
        load_a.Fetch(s.a, a, aligned_a, first_m, k + kStep, end);
        load_b.Fetch(s.b, b, aligned_b, first_n, k + kStep, end);
      }
#pragma unroll
      for (int i = 0; i < kStep; ++i) {
        float x[kEach], w[kEach];
#pragma unroll
        for (int f = 0; f < kFours; ++f) {
          const Pack<float, 4> xs = *reinterpret_cast<const Pack<float, 4>*>(
              &tile_a[buffer][i * LoadTileA::kPitch + thread_m + f * (kSize / 2)]);
          const Pack<float, 4> ws = *reinterpret_cast<const Pack<float, 4>*>(
              &tile_b[buffer][i * LoadTileB::kPitch + thread_n + f * (kSize / 2)]);
#pragma unroll
          for (int j = 0; j < 4; ++j) x[f * 4 + j] = xs.v[j], w[f * 4 + j] = ws.v[j];
        }
#pragma unroll
        for (int m = 0; m < kEach; ++m)
#pragma unroll
          for (int n = 0; n < kEach; ++n) acc[m][n] = fmaf(x[m], w[n], acc[m][n]);
      }
      buffer ^= 1;
    }
  }

  Epilogue out = args.out;
  out.c = static_cast<char*>(out.c) + offsets.c * (out.bf16_out ? 2 : 4);
#pragma unroll
  for (int m = 0; m < kEach; ++m) {
    const int row = first_m + thread_m + m / 4 * (kSize / 2) + m % 4;
#pragma unroll
    for (int n = 0; n < kEach; n += 2) {
      const int column = first_n + thread_n + n / 4 * (kSize / 2) + n % 4;
      out.Store2(row, column, acc[m][n], acc[m][n + 1]);
    }
  }
}

template <int kSize>
void Run(const Arguments& in, const char* what, const KernelArgs& args, bool a_down, bool b_down,
         int64_t slices) {
  const int64_t tiles = CeilDiv(args.out.m, kSize) * CeilDiv(args.out.n, kSize);
  const Grid grid{dim3(static_cast<unsigned>(tiles), 1, static_cast<unsigned>(slices)), kThreads};
  if (a_down) {
    if (b_down)
      Launch(in, what, grid, Product<kSize, true, true>, args);
    else
      Launch(in, what, grid, Product<kSize, true, false>, args);
  } else if (b_down) {
    Launch(in, what, grid, Product<kSize, false, true>, args);
  } else {
    Launch(in, what, grid, Product<kSize, false, false>, args);
  }
}

}  // namespace

void SimtGemm(const Arguments& in, const char* what, const KernelArgs& args, bool a_down,
              bool b_down, int64_t slices) {
  constexpr int64_t kEnoughTiles = 120;  // by the shape alone, not by the card
  const int64_t tiles = CeilDiv(args.out.m, 128) * CeilDiv(args.out.n, 128);
  if (tiles * slices >= kEnoughTiles)
    Run<128>(in, what, args, a_down, b_down, slices);
  else
    Run<64>(in, what, args, a_down, b_down, slices);
}

}  // namespace fuselm::cuda
