// C = A B^T for bf16 by mma.sync m16n8k16, float32 sums: the product of every card from sm_80 on.
//
// Work: a block makes a tile of C, 128 x 128 by 4 warps (64 x 64 each) or 64 x 64 by 4 (32 x 32),
// walking K by 32. Four stages of cp.async in shared memory: 64 KB or 32 KB; one barrier per step;
// two blocks a multiprocessor where it has room for them.
// Operands must be 16-byte aligned with rows a multiple of 8 elements apart; what lies past K is
// zero-filled by cp.async, past M and N repeated and not stored, so that all three may be anything.
// Each sum runs along K in order: the tile's size does not change the bits. Target: 60 % of
// cuBLASLt on sm_90, where mma.sync itself reaches 2/3 of the peak. Predicted, not measured: of a
// step's 64 HMMA a warp, 413 cycles of an sm_90 scheduler's tensor core, the others issued are
// about 150, and a block takes shared memory 384 cycles: 85 % of what mma.sync can, half of the
// peak.

#include <algorithm>

#include "native/cuda/gemm/kernels.cuh"

namespace fuselm::cuda {
namespace {

template <class S, bool kADown, bool kBDown>
__global__ void __launch_bounds__(S::kThreads, 2) Product(const __grid_constant__ KernelArgs args) {
  using LoadTileA = TileLoader<S::kM, kADown, 2, S::kThreads>;
  using LoadTileB = TileLoader<S::kN, kBDown, 2, S::kThreads>;
  FUSELM_DYNAMIC_SHARED(char, shared);
  const int tiles_n = (args.out.n + S::kN - 1) / S::kN;
  const int tiles_m = (args.out.m + S::kM - 1) / S::kM;
  const TilePlace place = PlaceOf(static_cast<int>(blockIdx.x), tiles_m, tiles_n);
  const BatchOffsets offsets(args);

  // The steps of this block: all of every segment, or a slice of the one there is.
  int segment = 0;
  int64_t k0 = 0, k_end = args.segments[0].k;
  int steps = 0;
  if (args.split > 0) {
    k0 = args.split * blockIdx.z;
    k_end = min(k_end, k0 + args.split);
    steps = static_cast<int>((k_end - k0 + LoadTileA::kK - 1) / LoadTileA::kK);
  } else {
    for (int i = 0; i < args.count; ++i)
      steps += static_cast<int>((args.segments[i].k + LoadTileA::kK - 1) / LoadTileA::kK);
  }

  LoadTileA load_a;
  LoadTileB load_b;
  const auto start = [&](int64_t from, int64_t end) {
    const KernelSegment& s = args.segments[segment];
    TileSource a = s.a, b = s.b;
    a.data = static_cast<const char*>(a.data) + offsets.a * 2;
    b.data = static_cast<const char*>(b.data) + offsets.b * 2;
    load_a.Start(a, place.m * S::kM, from, end);
    load_b.Start(b, place.n * S::kN, from, end);
  };
  const auto copy = [&](int stage) {
    while (load_a.left <= 0 && segment + 1 < args.count) {
      ++segment;
      start(0, args.segments[segment].k);
    }
    char* const tile = shared + stage * S::kStageBytes;
    load_a.Copy(tile);
    load_b.Copy(tile + S::kM * kTileBytes);
  };

  start(k0, k_end);
#pragma unroll
  for (int s = 0; s < S::kStages - 1; ++s) {
    if (s < steps) copy(s);
    CpAsyncCommit();
  }

  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warp_m = warp / S::kWarpsN * S::kWarpM, warp_n = warp % S::kWarpsN * S::kWarpN;
  const FragmentsA<S::kM, kADown> fragments_a(warp_m);
  const FragmentsB<S::kN, kBDown> fragments_b(warp_n);
  float acc[S::kFragmentsM][S::kFragmentsN][4] = {};
  for (int step = 0, stage = 0; step < steps; ++step) {
    CpAsyncWait<S::kStages - 2>();
    __syncthreads();
    // overwrites the stage of the step before, which every warp has left at the barrier
    const int next = stage == 0 ? S::kStages - 1 : stage - 1;
    if (step + S::kStages - 1 < steps) copy(next);
    CpAsyncCommit();
    const char* const tile_a = shared + stage * S::kStageBytes;
    const char* const tile_b = tile_a + S::kM * kTileBytes;
#pragma unroll
    for (int slice = 0; slice < 2; ++slice) {
      uint32_t a[S::kFragmentsM][4], b[S::kFragmentsN][2];
#pragma unroll
      for (int i = 0; i < S::kFragmentsM; ++i) fragments_a.Load(a[i], tile_a, i, slice);
#pragma unroll
      for (int j = 0; j < S::kFragmentsN; j += 2)
        fragments_b.Load(b[j], b[j + 1], tile_b, j / 2, slice);
#pragma unroll
      for (int i = 0; i < S::kFragmentsM; ++i)
#pragma unroll
        for (int j = 0; j < S::kFragmentsN; ++j) Mma16816(acc[i][j], a[i], b[j]);
    }
    stage = stage + 1 == S::kStages ? 0 : stage + 1;
  }

  Epilogue out = args.out;
  out.c = static_cast<char*>(out.c) + offsets.c * (out.bf16_out ? 2 : 4);
  static_assert(S::kFragmentsN % 4 == 0 && S::kWarps * Epilogue::kRoom * 4 <= S::kSharedBytes);
  CpAsyncWait<0>();
  __syncthreads();  // nobody reads or writes tiles any more
  float* const room = reinterpret_cast<float*>(shared) + warp * Epilogue::kRoom;
#pragma unroll
  for (int i = 0; i < S::kFragmentsM; ++i)
#pragma unroll
    for (int n = 0; n < S::kFragmentsN; n += 4)
      out.StoreRows(room, place.m * S::kM + warp_m + i * 16, place.n * S::kN + warp_n + n * 8,
                    [&](int j, int half, int e) { return acc[i][n + j][2 * half + e]; });
}

template <class S>
void Run(const Arguments& in, const char* what, const KernelArgs& args, bool a_down, bool b_down,
         int64_t slices) {
  const int64_t tiles = CeilDiv(args.out.m, S::kM) * CeilDiv(args.out.n, S::kN);
  const Grid grid{dim3(static_cast<unsigned>(tiles), 1, static_cast<unsigned>(slices)), S::kThreads,
                  S::kSharedBytes};
  if (a_down) {
    if (b_down)
      Launch(in, what, grid, Product<S, true, true>, args);
    else
      Launch(in, what, grid, Product<S, true, false>, args);
  } else if (b_down) {
    Launch(in, what, grid, Product<S, false, true>, args);
  } else {
    Launch(in, what, grid, Product<S, false, false>, args);
  }
}

}  // namespace

void TensorCoreGemm(const Arguments& in, const char* what, const KernelArgs& args, bool a_down,
                    bool b_down, int64_t slices) {
  if (HopperGemm(in, what, args, a_down, b_down, slices)) return;
  constexpr int64_t kEnoughTiles = 120;
  const int64_t tiles = CeilDiv(args.out.m, LargeTile::kM) * CeilDiv(args.out.n, LargeTile::kN);
  if (tiles * slices >= kEnoughTiles)
    Run<LargeTile>(in, what, args, a_down, b_down, slices);
  else
    Run<SmallTile>(in, what, args, a_down, b_down, slices);
}

}  // namespace fuselm::cuda
