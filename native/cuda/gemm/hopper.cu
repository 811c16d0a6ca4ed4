// C = A B^T for bf16 on sm_90a: warpgroup products (wgmma) fed by tensor copies (TMA).
//
// Work: a block per multiprocessor walks tiles of C of 128 x 256 (or 128 x 128 when those are few):
// two warpgroups of 64 rows multiply, a thread of a third copies, K by 64, four stages of shared
// memory behind mbarriers. The copies run ahead into the next tile while this one is stored.
// setmaxnreg moves registers from the copying warpgroup to the others. Operands may run along K or
// down it: a descriptor says which, nothing is transposed. What lies outside an operand arrives as
// zeros. Shared memory: 193 KB or 129 KB. Operands 16-byte aligned, rows a multiple of 8 elements
// apart; every sum runs along K in order. Target: 80 % of cuBLASLt. Runs when FUSELM_CUDA_WGMMA=1.

#include <algorithm>

#include "native/cuda/gemm/kernels.cuh"
#include "native/cuda/hopper.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kGroups = 2;  // that multiply
constexpr int kRows = 64 * kGroups, kDepth = 64, kStages = 4;
constexpr int kThreads = kWarpgroup * (kGroups + 1);
constexpr int64_t kFewestTiles = 64, kEnoughTiles = 100;

struct HopperArgs {
  TensorMap a[kMaxSegments], b[kMaxSegments];
  int64_t k[kMaxSegments];
  int count;
  Epilogue out;
  int64_t split, c_step;  // elements of K, and of C, from slice or product to the next
  bool a_batched, b_batched;
  int tiles_m, tiles_n, tiles;  // tiles: of all slices or products
};

template <int kColumns>
struct Layout {
  static constexpr int kA = kRows * kDepth * 2, kB = kColumns * kDepth * 2, kStage = kA + kB;
  static constexpr int kBarriers = kStages * kStage;
  static constexpr int64_t kBytes = kBarriers + 2 * kStages * sizeof(Barrier) + 1024;  // to align
};

#if defined(FUSELM_HOPPER) || !defined(__CUDACC__)
// Where tile `i` of the grid's walk is, and its K.
struct Item {
  TilePlace place;
  int z;
  __device__ __forceinline__ Item(const HopperArgs& args, int i) {
    const int each = args.tiles_m * args.tiles_n;
    z = i / each;
    place = PlaceOf(i % each, args.tiles_m, args.tiles_n);
  }
  __device__ __forceinline__ int64_t From(const HopperArgs& args) const { return args.split * z; }
  __device__ __forceinline__ int64_t End(const HopperArgs& args, int segment) const {
    const int64_t k = args.k[segment];
    return args.split > 0 ? min(k, args.split * (z + 1)) : k;
  }
};
#endif

// A tile of one operand: `rows` of it from `first` on and kDepth of K from k on.
template <int kSpan, bool kDown>
__device__ __forceinline__ void CopyTile(unsigned char* to, const TensorMap* map, Barrier* full,
                                         int first, int k, int head) {
  if constexpr (kDown) {
#pragma unroll
    for (int p = 0; p < kSpan / kPanelColumns; ++p)
      TensorCopy(to + p * kDepth * 128, map, full, first + p * kPanelColumns, k, head, 0);
  } else {
    TensorCopy(to, map, full, k, first, head, 0);
  }
}

template <int kColumns, bool kADown, bool kBDown>
__global__ void __launch_bounds__(kThreads, 1) Product(const __grid_constant__ HopperArgs args) {
#if defined(FUSELM_HOPPER) || !defined(__CUDACC__)
  using L = Layout<kColumns>;
  constexpr int kHalf = 128, kHalves = kColumns / kHalf;  // columns of one product
  FUSELM_DYNAMIC_SHARED(unsigned char, dynamic);
  unsigned char* const shared = dynamic + ((1024 - (SharedAddress(dynamic) & 1023)) & 1023);
  Barrier* const full = reinterpret_cast<Barrier*>(shared + L::kBarriers);
  Barrier* const empty = full + kStages;
  // the same in all lanes, and known to be
  const int group = __shfl_sync(kFullMask, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      BarrierInit(full + i, 1);
      BarrierInit(empty + i, 4 * kGroups);  // a lane a warp
    }
    BarrierInitFence();
  }
  __syncthreads();
  const int blocks = static_cast<int>(gridDim.x);

  if (group == kGroups) {
    GiveRegisters<24>();
    if (threadIdx.x != kGroups * kWarpgroup) return;
    int step = 0;
    for (int i = static_cast<int>(blockIdx.x); i < args.tiles; i += blocks) {
      const Item item(args, i);
      const int a_head = args.a_batched ? item.z : 0, b_head = args.b_batched ? item.z : 0;
      for (int s = 0; s < args.count; ++s) {
        const int64_t end = item.End(args, s);
        for (int64_t k = item.From(args); k < end; k += kDepth, ++step) {
          const int stage = StageOf<kStages>(step);
          BarrierWait(empty + stage, ParityOf<kStages>(step) ^ 1);  // at first free
          BarrierExpect(full + stage, L::kStage);
          unsigned char* const to = shared + stage * L::kStage;
          CopyTile<kRows, kADown>(to, &args.a[s], full + stage, item.place.m * kRows,
                                  static_cast<int>(k), a_head);
          CopyTile<kColumns, kBDown>(to + L::kA, &args.b[s], full + stage, item.place.n * kColumns,
                                     static_cast<int>(k), b_head);
        }
      }
    }
    return;
  }

  TakeRegisters<240>();
  const int lane = threadIdx.x % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp % 4;
  const auto release = [&](int step) {
    if (lane == 0) BarrierArrive(empty + StageOf<kStages>(step));
  };
  int step = 0;
  for (int i = static_cast<int>(blockIdx.x); i < args.tiles; i += blocks) {
    const Item item(args, i);
    float acc[kHalves][kHalf / 2];
#pragma unroll
    for (int h = 0; h < kHalves; ++h)
#pragma unroll
      for (int e = 0; e < kHalf / 2; ++e) acc[h][e] = 0;
    int steps = 0;
    for (int s = 0; s < args.count; ++s)
      steps += static_cast<int>((item.End(args, s) - item.From(args) + kDepth - 1) / kDepth);
    for (int j = 0; j < steps; ++j, ++step) {
      const int stage = StageOf<kStages>(step);
      BarrierWait(full + stage, ParityOf<kStages>(step));
      const uint32_t a = SharedAddress(shared + stage * L::kStage), b = a + L::kA;
      WgmmaFence();
#pragma unroll
      for (int h = 0; h < kHalves; ++h) Pin(acc[h]);
#pragma unroll
      for (int slice = 0; slice < kDepth / 16; ++slice) {
        const uint64_t a_at = kADown ? DownRows(a, kDepth, 16 * slice, group)
                                     : AlongRows(a, kRows, 64 * group, slice);
#pragma unroll
        for (int h = 0; h < kHalves; ++h) {
          const uint64_t b_at = kBDown ? DownRows(b, kDepth, 16 * slice, 2 * h)
                                       : AlongRows(b, kColumns, kHalf * h, slice);
          WgmmaSs<kADown, kBDown>(acc[h], a_at, b_at, 1);
        }
      }
      WgmmaCommit();
      WgmmaWait<1>();
      if (j > 0) release(step - 1);
    }
    WgmmaWait<0>();
#pragma unroll
    for (int h = 0; h < kHalves; ++h) Pin(acc[h]);
    if (steps > 0) release(step - 1);

    Epilogue out = args.out;
    out.c = static_cast<char*>(out.c) + args.c_step * item.z * (out.bf16_out ? 2 : 4);
    const int row = item.place.m * kRows + 64 * group + 16 * warp + lane / 4;
#pragma unroll
    for (int h = 0; h < kHalves; ++h)
#pragma unroll
      for (int e = 0; e < kHalf / 2; e += 4) {
        const int column = item.place.n * kColumns + kHalf * h + e * 2 + lane % 4 * 2;
        out.Store2(row, column, acc[h][e], acc[h][e + 1]);
        out.Store2(row + 8, column, acc[h][e + 2], acc[h][e + 3]);
      }
  }
#endif
}

static_assert(Layout<256>::kBytes <= kHopperBytes);

template <int kColumns>
void Run(const Arguments& in, const char* what, HopperArgs& args, bool a_down, bool b_down,
         int64_t slices) {
  args.tiles_n = static_cast<int>(CeilDiv(args.out.n, kColumns));
  const int64_t tiles = int64_t{args.tiles_m} * args.tiles_n * slices;
  args.tiles = static_cast<int>(tiles);
  const int64_t blocks = std::min<int64_t>(tiles, in.device.multiprocessors);
  const Grid grid{dim3(static_cast<unsigned>(blocks)), kThreads, Layout<kColumns>::kBytes};
  if (a_down) {
    if (b_down)
      Launch(in, what, grid, Product<kColumns, true, true>, args);
    else
      Launch(in, what, grid, Product<kColumns, true, false>, args);
  } else if (b_down) {
    Launch(in, what, grid, Product<kColumns, false, true>, args);
  } else {
    Launch(in, what, grid, Product<kColumns, false, false>, args);
  }
}

// Boxes of 64 columns and, along K, all rows of a tile; down K, kDepth rows.
TensorMap MapOf(const TileSource& from, int64_t k, bool down, int span, int64_t batch,
                int64_t batch_stride) {
  const int64_t columns = down ? from.extent : k, rows = down ? k : from.extent;
  return MakeTensorMap(from.data, columns, rows, batch, 1, {from.stride, batch_stride, 0},
                       down ? kDepth : span);
}

}  // namespace

bool HopperGemm(const Arguments& in, const char* what, const KernelArgs& from, bool a_down,
                bool b_down, int64_t slices) {
  const int64_t tiles_m = CeilDiv(from.out.m, kRows);
  const int64_t small = tiles_m * CeilDiv(from.out.n, 128) * slices;
  const int64_t large = tiles_m * CeilDiv(from.out.n, 256) * slices;
  constexpr int64_t kMostTiles = int64_t{1} << 30;
  if (!WgmmaWanted(in) || from.batch.rank > 1 || from.batch_from > 0 || small < kFewestTiles ||
      small > kMostTiles)
    return false;
  for (int i = 0; i < from.count; ++i)
    if (from.segments[i].k == 0) return false;
  const bool wide = large >= kEnoughTiles;
  HopperArgs args{};
  args.count = from.count;
  args.out = from.out;
  args.tiles_m = static_cast<int>(tiles_m);
  args.split = from.split;
  const bool batched = from.batch.rank == 1;
  args.a_batched = batched && from.batch.a[0] != 0;
  args.b_batched = batched && from.batch.b[0] != 0;
  args.c_step = batched ? from.batch.c[0] : int64_t{from.out.m} * from.out.n;
  for (int i = 0; i < from.count; ++i) {
    const KernelSegment& s = from.segments[i];
    args.k[i] = s.k;
    args.a[i] = MapOf(s.a, s.k, a_down, kRows, args.a_batched ? slices : 1, from.batch.a[0]);
    args.b[i] =
        MapOf(s.b, s.k, b_down, wide ? 256 : 128, args.b_batched ? slices : 1, from.batch.b[0]);
  }
  if (wide)
    Run<256>(in, what, args, a_down, b_down, slices);
  else
    Run<128>(in, what, args, a_down, b_down, slices);
  return true;
}

}  // namespace fuselm::cuda
