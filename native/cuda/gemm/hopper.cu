// C = A B^T for bf16 on sm_90a: warpgroup products (wgmma) fed by tensor copies (TMA).
//
// Work: as hopper_tile.cuh says, tiles of 128 x 256 (or 128 x 128 when those are few), K by 64, one
// wgmma of 64 x 256 x 16 a warpgroup and step. setmaxnreg moves registers from the copying
// warpgroup to the others. Operands may run along K or down it: a descriptor says which, nothing
// is transposed. Shared memory: 193 KB or 129 KB. Every sum runs along K in order.
// Predicted, not measured: a stage takes the tensor cores 1,024 cycles of its 2 x 4 instructions
// and the warps that issue them about 100; shared memory gives 80 of its 128 bytes a cycle to
// operands and takes 48. Storing 128 x 256 takes about 1,500 cycles, which nothing hides: 93 % of
// the tensor cores at K 2048, 80 % at 768, before clocks fall. Target: 80 % of cuBLASLt.

#include <algorithm>

#include "native/cuda/gemm/hopper_tile.cuh"

namespace fuselm::cuda {
namespace {

using hopper::Walk;

template <int kColumns, bool kADown, bool kBDown>
__global__ void __launch_bounds__(hopper::kThreads, 1) Product(const __grid_constant__ Walk args) {
#if defined(FUSELM_HOPPER) || !defined(__CUDACC__)
  using L = hopper::Layout<kColumns>;
  constexpr int kDepth = L::kDepth;
  FUSELM_DYNAMIC_SHARED(unsigned char, dynamic);
  const hopper::Block<kColumns> block(dynamic);
  if (block.group == hopper::kGroups) {
    GiveRegisters<24>();
    if (threadIdx.x == hopper::kGroups * kWarpgroup)
      hopper::CopyAll<kColumns, kADown, kBDown, kDepth>(args, block);
  } else {
    TakeRegisters<240>();
    const int warp = static_cast<int>(threadIdx.x) / kWarp % 4;
    int step = 0;
    for (int i = static_cast<int>(blockIdx.x); i < args.tiles; i += static_cast<int>(gridDim.x)) {
      const hopper::Item item(args, i);
      float acc[kColumns / 2];
#pragma unroll
      for (int e = 0; e < kColumns / 2; ++e) acc[e] = 0;
      const int steps = item.Steps(args, kDepth);
      for (int j = 0; j < steps; ++j, ++step) {
        const uint32_t a = block.Wait(step), b = a + L::kA;
        WgmmaFence();
        Pin(acc);
#pragma unroll
        for (int slice = 0; slice < kDepth / 16; ++slice) {
          WgmmaSs<kADown, kBDown>(
              acc,
              kADown ? DownRows(a, kDepth, 16 * slice, block.group)
                     : AlongRows(a, hopper::kRows, 64 * block.group, slice),
              kBDown ? DownRows(b, kDepth, 16 * slice, 0) : AlongRows(b, kColumns, 0, slice), 1);
        }
        WgmmaCommit();
        WgmmaWait<1>();
        if (j > 0) block.Release(step - 1);
      }
      WgmmaWait<0>();
      Pin(acc);
      if (steps > 0) block.Release(step - 1);

      Epilogue out = args.out;
      out.c = static_cast<char*>(out.c) + args.c_step * item.z * (out.bf16_out ? 2 : 4);
      const int row0 = item.place.m * hopper::kRows + 64 * block.group + 16 * warp;
#pragma unroll
      for (int e = 0; e < kColumns / 2; e += 16)
        out.StoreRows(block.Room(), row0, item.place.n * kColumns + e * 2,
                      [&](int j, int half, int one) { return acc[e + 4 * j + 2 * half + one]; });
    }
  }
#endif
}

template <int kColumns>
void Run(const Arguments& in, const char* what, Walk& args, bool a_down, bool b_down,
         int64_t slices) {
  const Grid grid = hopper::GridOf<kColumns>(in, args, slices);
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

// Boxes of 64 columns and, along K, all rows of a tile; down K, those of a stage.
TensorMap MapOf(const TileSource& from, int64_t k, bool down, int span, int64_t batch,
                int64_t batch_stride) {
  const int64_t columns = down ? from.extent : k, rows = down ? k : from.extent;
  return MakeTensorMap(from.data, columns, rows, batch, 1, {from.stride, batch_stride, 0},
                       down ? hopper::Layout<128>::kDepth : span);
}

}  // namespace

bool HopperGemm(const Arguments& in, const char* what, const KernelArgs& from, bool a_down,
                bool b_down, int64_t slices) {
  const int64_t tiles_m = CeilDiv(from.out.m, hopper::kRows);
  const int64_t small = tiles_m * CeilDiv(from.out.n, 128) * slices;
  const int64_t large = tiles_m * CeilDiv(from.out.n, 256) * slices;
  constexpr int64_t kMostTiles = int64_t{1} << 30;
  if (!WgmmaWanted(in, Wgmma::kProduct) || from.batch.rank > 1 || from.batch_from > 0 ||
      small < hopper::kFewestTiles || small > kMostTiles)
    return false;
  for (int i = 0; i < from.count; ++i)
    if (from.segments[i].k == 0) return false;
  const bool wide = large >= hopper::kEnoughTiles;
  Walk args{};
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
    args.a[i] =
        MapOf(s.a, s.k, a_down, hopper::kRows, args.a_batched ? slices : 1, from.batch.a[0]);
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
