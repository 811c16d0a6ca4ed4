// y = x W^T + b with x and W in int8, exact int32 sums of a group times both its scales.
//
// Up to 8 rows: a warp a row of W, which it reads once, 16 bytes a lane, eight in flight; x comes
// from L1 (dp4a). Sums of groups meet in 32 KB of shared memory and are joined in order by a lane a
// row of x. Else mma m16n8k32: tiles of 128 x 128 by 8 warps or 64 x 64 by 4, 64 bytes of K a step,
// four stages of cp.async (64 or 32 KB); with groups a second set of sums, folded when a group
// ends. sm_90a: int8_hopper.cu. Scales are laid out by groups first, so that a fold reads
// neighbours. Rows that are not 16-byte aligned are copied first. The bits are the same in all
// three. Predicted, not measured: mma.sync reaches 0.6 of the int8 peak on sm_90 and shared memory
// allows about as much at 192 bytes an instruction: 1 to 1.2 of the bf16 product there, 1.7 on
// sm_80.

#include <algorithm>

#include "native/cuda/gemm/int8.cuh"
#include "native/cuda/gemm/kernels.cuh"
#include "native/cuda/gemm/operand.cuh"
#include "native/cuda/quantize_int8.cuh"

namespace fuselm::cuda {
namespace {

template <class S, bool kGroups>
__global__ void __launch_bounds__(S::kThreads) Product(const __grid_constant__ Int8Product args) {
  constexpr int kK = kTileBytes, kSlice = 32, kM = S::kFragmentsM, kN = S::kFragmentsN;
  FUSELM_DYNAMIC_SHARED(char, shared);
  const TilePlace place = PlaceOf(static_cast<int>(blockIdx.x), (args.out.m + S::kM - 1) / S::kM,
                                  (args.out.n + S::kN - 1) / S::kN);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  const int warp_m = warp / S::kWarpsN * S::kWarpM, warp_n = warp % S::kWarpsN * S::kWarpN;
  const int row0 = place.m * S::kM + warp_m, column0 = place.n * S::kN + warp_n;
  const int steps = static_cast<int>((args.k + kK - 1) / kK);
  const int slices = static_cast<int>((args.k + kSlice - 1) / kSlice);
  TileLoader<S::kM, false, 1, S::kThreads> load_x;
  TileLoader<S::kN, false, 1, S::kThreads> load_w;
  load_x.Start(args.x, place.m * S::kM, 0, args.k);
  load_w.Start(args.w, place.n * S::kN, 0, args.k);
  const auto copy = [&](int stage) {
    char* const tile = shared + stage * S::kStageBytes;
    load_x.Copy(tile);
    load_w.Copy(tile + S::kM * kTileBytes);
  };
#pragma unroll
  for (int s = 0; s < S::kStages - 1; ++s) {
    if (s < steps) copy(s);
    CpAsyncCommit();
  }
  const FragmentsA<S::kM, false> of_x(warp_m);
  const FragmentsB<S::kN, false> of_w(warp_n);
  int32_t acc[kM][kN][4] = {};
  [[maybe_unused]] float total[kGroups ? kM : 1][kGroups ? kN : 1][4] = {};
  float x_scale[kM][2], w_scale[kN][2];
  const auto take_scales = [&](int group) {
#pragma unroll
    for (int i = 0; i < kM; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = row0 + i * 16 + half * 8 + lane / 4;
        x_scale[i][half] =
            row < args.out.m ? args.x_scales[int64_t{group} * args.out.m + row] : 0.0f;
      }
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      const int column = column0 + j * 8 + lane % 4 * 2;
      Pack<float, 2> two{};
      if (column < args.out.n)
        two = *reinterpret_cast<const Pack<float, 2>*>(args.w_scales + group * args.w_scale_stride +
                                                       column);
      w_scale[j][0] = two.v[0], w_scale[j][1] = two.v[1];
    }
  };
  // What the sum of a group adds to `to`.
  const auto scaled = [&](int i, int j, int half, int e, float to) {
    return fmaf(static_cast<float>(acc[i][j][2 * half + e]), x_scale[i][half] * w_scale[j][e], to);
  };
  for (int step = 0, stage = 0; step < steps; ++step) {
    CpAsyncWait<S::kStages - 2>();
    __syncthreads();
    if (step + S::kStages - 1 < steps) copy(stage == 0 ? S::kStages - 1 : stage - 1);
    CpAsyncCommit();
    const char* const tile_x = shared + stage * S::kStageBytes;
    const char* const tile_w = tile_x + S::kM * kTileBytes;
#pragma unroll
    for (int half = 0; half < kK / kSlice; ++half) {
      uint32_t a[kM][4], b[kN][2];
#pragma unroll
      for (int i = 0; i < kM; ++i) of_x.Load(a[i], tile_x, i, half);
#pragma unroll
      for (int j = 0; j < kN; j += 2) of_w.Load(b[j], b[j + 1], tile_w, j / 2, half);
#pragma unroll
      for (int i = 0; i < kM; ++i)
#pragma unroll
        for (int j = 0; j < kN; ++j) Mma16832S8(acc[i][j], a[i], b[j]);
      if constexpr (kGroups) {
        const int slice = step * (kK / kSlice) + half, mask = (1 << args.group_shift) - 1;
        // what lies past the last slice is zeros
        if (slice < slices && (((slice + 1) & mask) == 0 || slice + 1 == slices)) {
          take_scales(slice >> args.group_shift);
#pragma unroll
          for (int i = 0; i < kM; ++i)
#pragma unroll
            for (int j = 0; j < kN; ++j)
#pragma unroll
              for (int e = 0; e < 4; ++e) {
                total[i][j][e] = scaled(i, j, e / 2, e % 2, total[i][j][e]);
                acc[i][j][e] = 0;
              }
        }
      }
    }
    stage = stage + 1 == S::kStages ? 0 : stage + 1;
  }
  if constexpr (!kGroups) take_scales(0);
  static_assert(kN % 4 == 0 && S::kWarps * Epilogue::kRoom * 4 <= S::kSharedBytes);
  CpAsyncWait<0>();
  __syncthreads();  // nobody reads or writes tiles any more
  float* const room = reinterpret_cast<float*>(shared) + warp * Epilogue::kRoom;
#pragma unroll
  for (int i = 0; i < kM; ++i)
#pragma unroll
    for (int n = 0; n < kN; n += 4)
      args.out.StoreRows(room, row0 + i * 16, column0 + n * 8, [&](int j, int half, int e) {
        if constexpr (kGroups) return total[i][n + j][2 * half + e];
        return scaled(i, n + j, half, e, 0.0f);
      });
}

template <class S, bool kGroups>
void Run(const Arguments& in, const char* what, const Int8Product& args) {
  const int64_t tiles = CeilDiv(args.out.m, S::kM) * CeilDiv(args.out.n, S::kN);
  Launch(in, what, {dim3(static_cast<unsigned>(tiles)), S::kThreads, S::kSharedBytes},
         Product<S, kGroups>, args);
}

constexpr int kFewThreads = 256, kFewWarps = kFewThreads / kWarp;
constexpr int kHeld = 8;                      // loads of W under way
constexpr int kSegment = kHeld * kWarp * 16;  // bytes of K a warp reads at once
constexpr int kSegmentGroups = kSegment / 32;

struct FewArgs {
  Int8Product p;
  const float* w_scales;  // [n, groups], as they come
  int groups;
};

// kM: rows of x, at most; kGroups as above.
template <int kM, bool kGroups>
__global__ void __launch_bounds__(kFewThreads) Few(const __grid_constant__ FewArgs args) {
  __shared__ float sums[kGroups ? kFewWarps : 1][kM][kGroups ? kSegmentGroups : 1];
  const Int8Product& p = args.p;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  const int n = static_cast<int>(blockIdx.x) * kFewWarps + warp;
  if (n >= p.out.n) return;  // whole warps
  const int8_t* const w = static_cast<const int8_t*>(p.w.data) + n * p.w.stride;
  const int8_t* const x = static_cast<const int8_t*>(p.x.data);
  const float* const w_scales = args.w_scales + int64_t{n} * args.groups;
  const int group_bits = kGroups ? p.group_shift + 1 : 0;  // of the lanes that share a group
  int32_t acc[kM] = {};
  float total = 0;  // of row `lane`
  for (int64_t k0 = 0; k0 < p.k; k0 += kSegment) {
    Pack<uint32_t, 4> held[kHeld];
#pragma unroll
    for (int u = 0; u < kHeld; ++u) {
      const int64_t k = k0 + (u * kWarp + lane) * 16;
      held[u] = {};
      if (k < p.k) held[u] = *reinterpret_cast<const Pack<uint32_t, 4>*>(w + k);
    }
    if constexpr (kGroups) __syncwarp();  // sums of the segment before have been read
#pragma unroll
    for (int u = 0; u < kHeld; ++u) {
      const int64_t k = k0 + (u * kWarp + lane) * 16;
      if (k0 + u * kWarp * 16 >= p.k) break;  // the same in all lanes
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        int32_t dot = kGroups ? 0 : acc[m];
        if (m < p.out.m && k < p.k) {
          const auto xs = *reinterpret_cast<const Pack<uint32_t, 4>*>(x + m * p.x.stride + k);
#pragma unroll
          for (int i = 0; i < 4; ++i) dot = Dot4(held[u].v[i], xs.v[i], dot);
        }
        if constexpr (kGroups) {
          dot += __shfl_xor_sync(kFullMask, dot, 1);
          if (group_bits > 1) dot += __shfl_xor_sync(kFullMask, dot, 2);
          if (group_bits > 2) dot += __shfl_xor_sync(kFullMask, dot, 4);
          if ((lane & ((1 << group_bits) - 1)) == 0)
            sums[warp][m][(u * kWarp + lane) >> group_bits] = static_cast<float>(dot);
        } else {
          acc[m] = dot;
        }
      }
    }
    if constexpr (kGroups) {
      __syncwarp();
      if (lane < p.out.m && lane < kM) {
        const int first = static_cast<int>(k0 >> (4 + group_bits));
        const int count = min(args.groups - first, kSegment >> (4 + group_bits));
#pragma unroll 4
        for (int g = 0; g < count; ++g)
          total =
              fmaf(sums[warp][lane][g],
                   p.x_scales[int64_t{first + g} * p.out.m + lane] * w_scales[first + g], total);
      }
    }
  }
  if constexpr (!kGroups) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int d = kWarp / 2; d > 0; d /= 2) acc[m] += __shfl_xor_sync(kFullMask, acc[m], d);
      if (m == lane && m < p.out.m)
        total = fmaf(static_cast<float>(acc[m]), p.x_scales[m] * w_scales[0], 0.0f);
    }
  }
  if (lane < p.out.m) p.out.Store(lane, n, total);
}

template <bool kGroups>
void RunFew(const Arguments& in, const char* what, const FewArgs& args) {
  const Grid grid{dim3(static_cast<unsigned>(CeilDiv(args.p.out.n, kFewWarps))), kFewThreads};
  if (args.p.out.m == 1)
    Launch(in, what, grid, Few<1, kGroups>, args);
  else if (args.p.out.m <= 4)
    Launch(in, what, grid, Few<4, kGroups>, args);
  else
    Launch(in, what, grid, Few<kGemvRows, kGroups>, args);
}

}  // namespace

void Int8GemmDynamic(const Arguments& in, const char* what, const Int8Problem& p) {
  if (p.m == 0 || p.w.n == 0) return;
  const int64_t stride = CeilDiv(std::max<int64_t>(p.w.k, 1), 16) * 16, groups = p.w.groups();
  int8_t* const values = in.Workspace<int8_t>(p.m * stride);
  float* const x_scales = in.Workspace<float>(p.m * groups + 1);
  // also for K = 0, where the scales of rows are still read
  QuantizeRows(in, what, p.dtype, p.x, p.x_stride, p.m, p.w.k, p.w.group, values, stride, x_scales,
               {1, p.m});
  Int8Product args{};
  args.out = Int8Output(p.y, p.dtype, p.m, p.w.n, p.bias);
  args.x = {values, stride, args.out.m};
  args.w = Aligned16(in, p.w.values, DType::kI8, p.w.k, p.w.n, p.w.k);
  args.x_scales = x_scales;
  args.k = p.w.k;
  args.group_shift = p.w.group == 0 ? Int8Product::kWhole : p.w.group_shift() - 5;
  if (p.m <= kGemvRows && p.w.k > 0) {
    const FewArgs few{args, p.w.scales, static_cast<int>(groups)};
    return p.w.group == 0 ? RunFew<false>(in, what, few) : RunFew<true>(in, what, few);
  }
  View by_group{};  // the scales, transposed
  by_group.data = const_cast<float*>(p.w.scales);
  by_group.dtype = DType::kF32;
  by_group.rank = 2;
  by_group.shape[0] = groups, by_group.shape[1] = p.w.n;
  by_group.stride[0] = 1, by_group.stride[1] = groups;
  args.w_scale_stride = CeilDiv(p.w.n, 2) * 2;
  args.w_scales = static_cast<const float*>(CopyRows(in, by_group, args.w_scale_stride));
  if (HopperInt8(in, what, args)) return;
  constexpr int64_t kEnoughTiles = 120;
  if (CeilDiv(p.m, LargeTile::kM) * CeilDiv(p.w.n, LargeTile::kN) >= kEnoughTiles) {
    if (p.w.group == 0)
      Run<LargeTile, false>(in, what, args);
    else
      Run<LargeTileOfTwo, true>(in, what, args);
  } else if (p.w.group == 0) {
    Run<SmallTile, false>(in, what, args);
  } else {
    Run<SmallTile, true>(in, what, args);
  }
}

}  // namespace fuselm::cuda
