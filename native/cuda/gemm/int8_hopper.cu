// The product of int8 by int8 on sm_90a: warpgroup products (wgmma) fed by tensor copies (TMA), the
// sums and scales of int8_dynamic.cu.
//
// Work: as hopper_tile.cuh says, K by 128. One scale per row: tiles of 128 x 256, int32 sums over
// all of K, scaled once. Groups: tiles of 128 x 128, beside the int32 sums the float32 ones, into
// which a warpgroup folds a group while the other one multiplies; scales are fetched meanwhile.
// Shared memory: 214 KB or 150 KB.
// Predicted, not measured: a stage takes the tensor cores 1,024 cycles (of 128 x 256 x 128); per
// row as the bf16 product at twice its rate, 1.6 to 1.9 of it. With groups of 128 a scheduler's two
// warps issue 710 instructions (192 of each are the fold) in a stage of 512 cycles of products, so
// 1.3 of the bf16 product; groups of 64 and 32 are bound by the fold, at 0.8 and 0.4 of it.

#include <algorithm>

#include "native/cuda/gemm/hopper_tile.cuh"
#include "native/cuda/gemm/int8.cuh"

namespace fuselm::cuda {
namespace {

struct Args {
  hopper::Walk walk;
  Int8Product p;
};

// kSlices: of 32 of K in a group, 0 where a row is one.
template <int kColumns, int kSlices>
__global__ void __launch_bounds__(hopper::kThreads, 1) Product(const __grid_constant__ Args args) {
#if defined(FUSELM_HOPPER) || !defined(__CUDACC__)
  using L = hopper::Layout<kColumns>;
  constexpr bool kGroups = kSlices > 0;
  constexpr int kStep = kPanelBytes;   // of K
  constexpr int kSums = kColumns / 2;  // a thread's
  FUSELM_DYNAMIC_SHARED(unsigned char, dynamic);
  const hopper::Block<kColumns> block(dynamic);
  if (block.group == hopper::kGroups) {
    GiveRegisters<24>();
    if (threadIdx.x == hopper::kGroups * kWarpgroup)
      hopper::CopyAll<kColumns, false, false, kStep>(args.walk, block);
  } else {
    TakeRegisters<240>();
    const Int8Product& p = args.p;
    const int lane = threadIdx.x % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp % 4;
    const int steps = static_cast<int>((p.k + kStep - 1) / kStep);
    int step = 0;
    for (int i = static_cast<int>(blockIdx.x); i < args.walk.tiles;
         i += static_cast<int>(gridDim.x)) {
      const hopper::Item item(args.walk, i);
      const int row0 = item.place.m * hopper::kRows + 64 * block.group + 16 * warp;
      const int column0 = item.place.n * kColumns;
      int32_t acc[kSums];
      float total[kGroups ? kSums : 1];
#pragma unroll
      for (int e = 0; e < kSums; ++e) acc[e] = 0;
      if constexpr (kGroups) {
#pragma unroll
        for (int e = 0; e < kSums; ++e) total[e] = 0;
      }
      const auto multiply = [&](uint32_t a, int slice, int add) {
        WgmmaSs(acc, AlongRows(a, hopper::kRows, 64 * block.group, slice),
                AlongRows(a + L::kA, kColumns, 0, slice), add);
      };
      const auto x_scale = [&](int group, int half) {
        const int row = row0 + lane / 4 + 8 * half;
        return row < p.out.m ? p.x_scales[int64_t{group} * p.out.m + row] : 0.0f;
      };
      const auto w_scales = [&](int group, int eight) {
        const int column = column0 + eight * 8 + lane % 4 * 2;
        Pack<float, 2> two{};
        if (column < p.out.n)
          two = *reinterpret_cast<const Pack<float, 2>*>(p.w_scales + group * p.w_scale_stride +
                                                         column);
        return two;
      };
      for (int j = 0; j < steps; ++j, ++step) {
        const uint32_t a = block.Wait(step);
        if constexpr (kGroups) {
#pragma unroll
          for (int slice = 0; slice < kStep / 32; slice += kSlices) {
            const int64_t k = int64_t{j} * kStep + slice * 32;
            if (k >= p.k) break;
            WgmmaFence();
            Pin(acc);
#pragma unroll
            for (int s = 0; s < kSlices; ++s) multiply(a, slice + s, s > 0);
            WgmmaCommit();
            const int group = j * (kStep / 32 / kSlices) + slice / kSlices;
            const float xs[2] = {x_scale(group, 0), x_scale(group, 1)};
            Pack<float, 2> ws[kColumns / 8];
#pragma unroll
            for (int e = 0; e < kColumns / 8; ++e) ws[e] = w_scales(group, e);
            WgmmaWait<0>();
            Pin(acc);
#pragma unroll
            for (int e = 0; e < kSums; ++e)
              total[e] =
                  fmaf(static_cast<float>(acc[e]), xs[e % 4 / 2] * ws[e / 4].v[e % 2], total[e]);
          }
          block.Release(step);
        } else {
          WgmmaFence();
          Pin(acc);
#pragma unroll
          for (int slice = 0; slice < kStep / 32; ++slice) multiply(a, slice, 1);
          WgmmaCommit();
          WgmmaWait<1>();
          if (j > 0) block.Release(step - 1);
        }
      }
      if constexpr (!kGroups) {
        WgmmaWait<0>();
        Pin(acc);
        block.Release(step - 1);
      }
#pragma unroll
      for (int e = 0; e < kSums; e += 16) {
        if constexpr (kGroups) {
          p.out.StoreRows(block.Room(), row0, column0 + e * 2, [&](int j, int half, int one) {
            return total[e + 4 * j + 2 * half + one];
          });
        } else {
          const float xs[2] = {x_scale(0, 0), x_scale(0, 1)};
          const Pack<float, 2> ws[4] = {w_scales(0, e / 4), w_scales(0, e / 4 + 1),
                                        w_scales(0, e / 4 + 2), w_scales(0, e / 4 + 3)};
          p.out.StoreRows(block.Room(), row0, column0 + e * 2, [&](int j, int half, int one) {
            return fmaf(static_cast<float>(acc[e + 4 * j + 2 * half + one]),
                        xs[half] * ws[j].v[one], 0.0f);
          });
        }
      }
    }
  }
#endif
}

template <int kColumns, int kSlices>
void Run(const Arguments& in, const char* what, Args& args) {
  const auto map = [&](const TileSource& from, int box) {
    return MakeTensorMap(from.data, args.p.k, from.extent, 1, 1, {from.stride, 0, 0}, box, 1);
  };
  args.walk.a[0] = map(args.p.x, hopper::kRows);
  args.walk.b[0] = map(args.p.w, kColumns);
  const Grid grid = hopper::GridOf<kColumns>(in, args.walk, 1);
  Launch(in, what, grid, Product<kColumns, kSlices>, args);
}

}  // namespace

bool HopperInt8(const Arguments& in, const char* what, const Int8Product& p) {
  const int64_t tiles_m = CeilDiv(p.out.m, hopper::kRows);
  const int64_t small = tiles_m * CeilDiv(p.out.n, 128), large = tiles_m * CeilDiv(p.out.n, 256);
  constexpr int64_t kMostTiles = int64_t{1} << 30;
  if (!WgmmaWanted(in, Wgmma::kInt8) || p.k == 0 || small < hopper::kFewestTiles ||
      small > kMostTiles)
    return false;
  Args args{};
  args.p = p;
  args.walk.count = 1;
  args.walk.k[0] = p.k;
  args.walk.out = p.out;
  args.walk.tiles_m = static_cast<int>(tiles_m);
  switch (p.group_shift) {
    case 0: Run<128, 1>(in, what, args); break;
    case 1: Run<128, 2>(in, what, args); break;
    case 2: Run<128, 4>(in, what, args); break;
    default:
      if (large >= hopper::kEnoughTiles)
        Run<256, 0>(in, what, args);
      else
        Run<128, 0>(in, what, args);
  }
  return true;
}

}  // namespace fuselm::cuda
