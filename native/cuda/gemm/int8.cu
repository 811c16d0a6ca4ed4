// Products of float x with int8 weights W [n, k] and a float32 scale per row or per 32, 64 or 128
// of k.
//
// Many rows in bf16 go by int8_wide.cu.
// Else bf16 goes by Float: tensor cores, tiles of 64 x 64 by 4 warps, K by 32, in slices where
// tiles are few, joined in order. x and W's bytes come by cp.async, five steps ahead (six stages,
// 44 KB with two tiles of widened weights); one step ahead a thread turns its 16 bytes into bf16. A
// step lies within one group, whose sum is folded into the result with its scale when the group
// ends; for dx the scale goes into the rounded weight. float32 x: one thread 4 x 4 of a 64 x 64
// tile, K by 32, 17 KB. Weights of any alignment. Target: the bandwidth of W up to about 64 rows.
// Predicted: 264 blocks with 8 KB of W each on its way, 2 MB, are about 60 % of it.

#include <algorithm>

#include "native/cuda/gemm/int8.cuh"
#include "native/cuda/gemm/kernels.cuh"
#include "native/cuda/gemm/operand.cuh"

namespace fuselm::cuda {
namespace {

using Shape = SmallTile;
constexpr int kStep = 32;  // of K

struct Int8Args {
  TileSource x;  // A: [m, k], or dy [m, n] of dx
  TileSource w;  // int8; extent: its rows
  const float* scales;
  int64_t k, groups, group;  // k: columns of W; group: k when there is one
  int group_shift;
  bool aligned;
  int64_t
      split;  // of what is summed over, in a slice of it; 0: no slices. Slice z writes c + z m n
  Epilogue out;
};

// The weights of a step on their way, 16 a thread: their bytes are copied to shared memory some
// steps ahead; one step ahead the same thread turns them into bf16 in a tile. kDown says that what
// is summed over runs down the rows of W.
template <bool kDown>
struct WeightLoader {
  using Tile = TileLoader<Shape::kN, kDown, 2, Shape::kThreads>;
  static_assert(Shape::kThreads * 16 == Shape::kN * kStep);
  static constexpr int kAcross = (kDown ? Shape::kN : kStep) / 16;  // threads along a row of W
  static constexpr int kBytes = Shape::kThreads * 16;               // of a step
  int64_t row, column;
  int64_t end;  // of what is summed over
  int64_t scale_row;
  float scale = 1, next_scale = 1;

  // first: of the columns of C; from: the first step.
  __device__ __forceinline__ WeightLoader(int first, int64_t from, int64_t end) : end(end) {
    const int own = static_cast<int>(threadIdx.x);
    row = (kDown ? from : first) + own / kAcross;
    column = (kDown ? first : from) + own % kAcross * 16;
    scale_row = row;
  }
  // Starts the copy of the next step to this thread's 16 bytes of `room`.
  __device__ __forceinline__ void Copy(const Int8Args& args, char* room) {
    const bool inside = kDown ? row < end && column < args.k : row < args.w.extent && column < end;
    const auto* const values = static_cast<const int8_t*>(args.w.data);
    const int8_t* const from = inside ? values + row * args.w.stride + column : values;
    char* const to = room + threadIdx.x * 16;
    if (args.aligned)
      CpAsync16(to, from, inside);
    else
      *reinterpret_cast<Pack<int8_t, 16>*>(to) = Take16(from, false, inside ? args.k - column : 0);
    (kDown ? row : column) += kStep;
  }
  // Called before each Widen, and once before the first: the scale of its step, and on its way
  // that of the next.
  __device__ __forceinline__ void FetchScale(const Int8Args& args) {
    if constexpr (kDown) {
      scale = next_scale;
      next_scale = scale_row < end && column < args.k
                       ? args.scales[scale_row * args.groups + (column >> args.group_shift)]
                       : 0.0f;
      scale_row += kStep;
    }
  }
  __device__ __forceinline__ void Widen(const char* room, char* tile) const {
    const auto held = *reinterpret_cast<const Pack<int8_t, 16>*>(room + threadIdx.x * 16);
    const int own = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      Pack<uint32_t, 4> words;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float low = held.v[8 * h + 2 * i], high = held.v[8 * h + 2 * i + 1];
        if constexpr (kDown) low *= scale, high *= scale;
        words.v[i] = ToBf16x2(low, high);
      }
      *reinterpret_cast<Pack<uint32_t, 4>*>(
          tile + Tile::Place(own / kAcross, own % kAcross * 2 + h)) = words;
    }
  }
};

struct WarpPlace {
  int m, n, row, column;  // in the tile; of the lane's first element in C
  TilePlace tile;
  __device__ __forceinline__ explicit WarpPlace(const Epilogue& out)
      : tile(PlaceOf(static_cast<int>(blockIdx.x), (out.m + Shape::kM - 1) / Shape::kM,
                     (out.n + Shape::kN - 1) / Shape::kN)) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
    m = warp / Shape::kWarpsN * Shape::kWarpM, n = warp % Shape::kWarpsN * Shape::kWarpN;
    row = tile.m * Shape::kM + m + lane / 4, column = tile.n * Shape::kN + n + lane % 4 * 2;
  }
};

constexpr int kFloatStages = 6;
constexpr int kTileX = Shape::kM * kTileBytes, kTileW = Shape::kN * kTileBytes;
constexpr int kFloatBytes = kFloatStages * (kTileX + WeightLoader<false>::kBytes) + 2 * kTileW;
static_assert(kFloatBytes <= 47 << 10 && Shape::kFragmentsN == 4 &&
              Shape::kWarps * Epilogue::kRoom * 4 <= kFloatBytes);

// kDx: C = x W with x = dy, else C = x W^T.
template <bool kDx>
__global__ void __launch_bounds__(Shape::kThreads, 4) Float(const __grid_constant__ Int8Args args) {
  FUSELM_DYNAMIC_SHARED(char, shared);
  char* const rooms = shared + kFloatStages * kTileX;
  char* const tiles_w = rooms + kFloatStages * WeightLoader<kDx>::kBytes;
  const WarpPlace at(args.out);
  const int64_t depth = kDx ? args.w.extent : args.k, from = args.split * blockIdx.z;
  const int64_t end = args.split > 0 ? min(depth, from + args.split) : depth;
  const int steps = static_cast<int>((end - from + kStep - 1) / kStep);
  const int group_shift = min(args.group_shift - 5, 30);  // a group is 1 << group_shift steps
  TileLoader<Shape::kM, false, 2, Shape::kThreads> load_x;
  WeightLoader<kDx> load_w(at.tile.n * Shape::kN, from, end);
  load_x.Start(args.x, at.tile.m * Shape::kM, from, end);
  const auto room = [&](int step) {
    return rooms + step % kFloatStages * WeightLoader<kDx>::kBytes;
  };
  const auto copy = [&](int step) {
    load_x.Copy(shared + step % kFloatStages * kTileX);
    load_w.Copy(args, room(step));
  };
  load_w.FetchScale(args);
#pragma unroll
  for (int s = 0; s < kFloatStages - 1; ++s) {
    if (s < steps) copy(s);
    CpAsyncCommit();
  }
  if (steps > 0) {
    CpAsyncWait<kFloatStages - 2>();
    load_w.FetchScale(args);
    load_w.Widen(room(0), tiles_w);
  }

  const FragmentsA<Shape::kM, false> of_x(at.m);
  const FragmentsB<Shape::kN, kDx> of_w(at.n);
  float acc[Shape::kFragmentsM][Shape::kFragmentsN][4] = {};
  [[maybe_unused]] float total[Shape::kFragmentsM][Shape::kFragmentsN][4] = {};
  for (int step = 0; step < steps; ++step) {
    CpAsyncWait<kFloatStages - 3>();  // of this thread, the next step
    __syncthreads();                  // of all, this one; nobody reads the one before any more
    const int last = step + kFloatStages - 1;
    if (last < steps) copy(last);
    CpAsyncCommit();
    const char* const tile_x = shared + step % kFloatStages * kTileX;
    const char* const tile_w = tiles_w + step % 2 * kTileW;
#pragma unroll
    for (int slice = 0; slice < 2; ++slice) {
      uint32_t a[Shape::kFragmentsM][4], b[Shape::kFragmentsN][2];
#pragma unroll
      for (int i = 0; i < Shape::kFragmentsM; ++i) of_x.Load(a[i], tile_x, i, slice);
#pragma unroll
      for (int j = 0; j < Shape::kFragmentsN; j += 2)
        of_w.Load(b[j], b[j + 1], tile_w, j / 2, slice);
#pragma unroll
      for (int i = 0; i < Shape::kFragmentsM; ++i)
#pragma unroll
        for (int j = 0; j < Shape::kFragmentsN; ++j) Mma16816(acc[i][j], a[i], b[j]);
    }
    if (step + 1 < steps) {
      load_w.FetchScale(args);
      load_w.Widen(room(step + 1), tiles_w + (step + 1) % 2 * kTileW);
    }
    if constexpr (!kDx) {
      const int64_t of_all = step + from / kStep;
      if (((of_all + 1) & ((1 << group_shift) - 1)) == 0 || step + 1 == steps) {
        const int64_t group = of_all >> group_shift;
#pragma unroll
        for (int j = 0; j < Shape::kFragmentsN; ++j) {
          const int column = at.column + j * 8;
          const float s0 = column < args.out.n ? args.scales[column * args.groups + group] : 0.0f;
          const float s1 =
              column + 1 < args.out.n ? args.scales[(column + 1) * args.groups + group] : 0.0f;
#pragma unroll
          for (int i = 0; i < Shape::kFragmentsM; ++i)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              total[i][j][e] = fmaf(acc[i][j][e], e % 2 ? s1 : s0, total[i][j][e]);
              acc[i][j][e] = 0;
            }
        }
      }
    }
  }
  CpAsyncWait<0>();
  __syncthreads();  // nobody reads or writes tiles any more
  Epilogue out = args.out;
  if (args.split > 0)
    out.c = static_cast<float*>(out.c) + static_cast<int64_t>(blockIdx.z) * out.m * out.n;
  float* const store =
      reinterpret_cast<float*>(shared) + static_cast<int>(threadIdx.x) / kWarp * Epilogue::kRoom;
#pragma unroll
  for (int i = 0; i < Shape::kFragmentsM; ++i)
    out.StoreRows(store, at.tile.m * Shape::kM + at.m + i * 16, at.tile.n * Shape::kN + at.n,
                  [&](int j, int half, int e) {
                    if constexpr (kDx) return acc[i][j][2 * half + e];
                    return total[i][j][2 * half + e];
                  });
}

constexpr int kSimtThreads = 256;

// kDx as in Float. float32 x; the weights are float32 with their scale (Dx) or without it.
template <bool kDx>
__global__ void __launch_bounds__(kSimtThreads) Simt(const __grid_constant__ Int8Args args) {
  constexpr int kPitch = 64 + 4;
  __align__(16) __shared__ float tile_x[kStep * kPitch];
  __align__(16) __shared__ float tile_w[kStep * kPitch];
  const int tiles_n = (args.out.n + 63) / 64, tiles_m = (args.out.m + 63) / 64;
  const TilePlace place = PlaceOf(static_cast<int>(blockIdx.x), tiles_m, tiles_n);
  const int first_m = place.m * 64, first_n = place.n * 64;
  const int thread_m = static_cast<int>(threadIdx.x) / 16 * 4, thread_n = threadIdx.x % 16 * 4;
  const int64_t depth = kDx ? args.w.extent : args.k;
  const float* const x = static_cast<const float*>(args.x.data);
  const int8_t* const w = static_cast<const int8_t*>(args.w.data);
  float acc[4][4] = {}, total[4][4] = {};
  for (int64_t k0 = 0; k0 < depth; k0 += kStep) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 64 * kStep / kSimtThreads; ++i) {
      const int e = static_cast<int>(threadIdx.x) + i * kSimtThreads;
      {
        const int row = e / kStep, k = e % kStep;
        const bool inside = first_m + row < args.out.m && k0 + k < depth;
        tile_x[k * kPitch + row] = inside ? x[(first_m + row) * args.x.stride + k0 + k] : 0.0f;
      }
      if constexpr (kDx) {
        const int k = e / 64;
        const int64_t column = first_n + e % 64;
        const bool inside = k0 + k < depth && column < args.k;
        tile_w[k * kPitch + e % 64] =
            inside ? static_cast<float>(w[(k0 + k) * args.w.stride + column]) *
                         args.scales[(k0 + k) * args.groups + (column >> args.group_shift)]
                   : 0.0f;
      } else {
        const int row = e / kStep, k = e % kStep;
        const bool inside = first_n + row < args.out.n && k0 + k < depth;
        tile_w[k * kPitch + row] =
            inside ? static_cast<float>(w[(first_n + row) * args.w.stride + k0 + k]) : 0.0f;
      }
    }
    __syncthreads();
#pragma unroll 8
    for (int k = 0; k < kStep; ++k) {
      const Pack<float, 4> xs =
          *reinterpret_cast<const Pack<float, 4>*>(&tile_x[k * kPitch + thread_m]);
      const Pack<float, 4> ws =
          *reinterpret_cast<const Pack<float, 4>*>(&tile_w[k * kPitch + thread_n]);
#pragma unroll
      for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n) acc[m][n] = fmaf(xs.v[m], ws.v[n], acc[m][n]);
    }
    if constexpr (!kDx) {
      if ((k0 + kStep) % args.group != 0 && k0 + kStep < depth) continue;
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int column = first_n + thread_n + n;
        const float scale = column < args.out.n
                                ? args.scales[column * args.groups + (k0 >> args.group_shift)]
                                : 0.0f;
#pragma unroll
        for (int m = 0; m < 4; ++m) {
          total[m][n] = fmaf(acc[m][n], scale, total[m][n]);
          acc[m][n] = 0;
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int n = 0; n < 4; n += 2) {
      const float v0 = kDx ? acc[m][n] : total[m][n], v1 = kDx ? acc[m][n + 1] : total[m][n + 1];
      args.out.Store2(first_m + thread_m + m, first_n + thread_n + n, v0, v1);
    }
}

Int8Args ArgsOf(const Int8Weights& w, const Epilogue& out) {
  Int8Args args{};
  args.w = {w.values, w.k, static_cast<int>(w.n)};
  args.scales = w.scales;
  args.k = w.k, args.groups = w.groups();
  args.group_shift = w.group_shift();
  args.group = w.group ? w.group : std::max<int64_t>(w.k, 1);
  args.aligned = reinterpret_cast<uintptr_t>(w.values) % 16 == 0 && w.k % 16 == 0;
  args.out = out;
  return args;
}

Grid SimtGrid(const Epilogue& out) {
  const int64_t tiles = CeilDiv(out.m, 64) * CeilDiv(out.n, 64);
  return {dim3(static_cast<unsigned>(tiles)), kSimtThreads};
}

// Float, in slices of what is summed over where C has few tiles: enough blocks for a large card.
template <bool kDx>
void RunFloat(const Arguments& in, const char* what, Int8Args args) {
  constexpr int64_t kBlocks = 264, kShortest = 512, kUnit = 128;  // the unit holds whole groups
  const int64_t tiles = CeilDiv(args.out.m, Shape::kM) * CeilDiv(args.out.n, Shape::kN);
  const int64_t depth = kDx ? args.w.extent : args.k;
  const int64_t wanted = std::max<int64_t>(1, std::min(kBlocks / tiles, depth / kShortest));
  const int64_t split = CeilDiv(CeilDiv(depth, wanted), kUnit) * kUnit;
  const int64_t slices = wanted == 1 ? 1 : CeilDiv(depth, split);
  const Grid grid{dim3(static_cast<unsigned>(tiles), 1, static_cast<unsigned>(slices)),
                  Shape::kThreads, kFloatBytes};
  if (slices == 1) return Launch(in, what, grid, Float<kDx>, args);
  const Epilogue out = args.out;
  const int64_t m = out.m, n = out.n;
  args.split = split;
  args.out = {};
  args.out.c = in.Workspace<float>(slices * m * n), args.out.stride = n;
  args.out.m = out.m, args.out.n = out.n;
  args.out.pairs = n % 2 == 0, args.out.wide = n % 4 == 0;
  Launch(in, what, grid, Float<kDx>, args);
  JoinSlices(in, what, static_cast<const float*>(args.out.c), slices, out);
}

}  // namespace

Epilogue Int8Output(void* c, DType dtype, int64_t m, int64_t n, const View* bias) {
  Epilogue out{};
  out.c = c;
  out.stride = n;
  out.m = static_cast<int>(m), out.n = static_cast<int>(n);
  out.bf16_out = dtype == DType::kBF16;
  out.pairs = n % 2 == 0 && reinterpret_cast<uintptr_t>(c) % (2 * ItemSize(dtype)) == 0;
  if (bias && bias->data) out.bias = bias->data, out.bias_bf16 = bias->dtype == DType::kBF16;
  out.wide = n % (out.bf16_out ? 8 : 4) == 0 && reinterpret_cast<uintptr_t>(c) % 16 == 0 &&
             reinterpret_cast<uintptr_t>(out.bias) % 16 == 0;
  return out;
}

TileSource Aligned16(const Arguments& in, const void* data, DType dtype, int64_t stride, int64_t m,
                     int64_t k) {
  const int64_t unit = 16 / static_cast<int64_t>(ItemSize(dtype));
  const int extent = static_cast<int>(m);
  if (reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % unit == 0)
    return {data, stride, extent};
  View v;
  v.data = const_cast<void*>(data);
  v.dtype = dtype;
  v.rank = 2;
  v.shape[0] = m, v.shape[1] = k;
  v.stride[0] = stride, v.stride[1] = 1;
  const int64_t padded = CeilDiv(k, unit) * unit;
  return {CopyRows(in, v, padded), padded, extent};
}

void Int8Gemm(const Arguments& in, const char* what, const Int8Problem& p) {
  if (p.m == 0 || p.w.n == 0) return;
  if (p.m <= kGemvRows) {
    return Gemv(
        in, what,
        {p.dtype, p.m, p.w.n, p.w.k, p.x, p.x_stride, nullptr, 0, &p.w, p.bias, p.y, p.w.n});
  }
  if (p.dtype == DType::kBF16 && p.m >= kManyRows && p.w.k > 0 && p.w.group == 0)
    return Int8GemmWide(in, what, p);
  Int8Args args = ArgsOf(p.w, Int8Output(p.y, p.dtype, p.m, p.w.n, p.bias));
  if (p.dtype == DType::kBF16) {
    args.x = Aligned16(in, p.x, p.dtype, p.x_stride, p.m, p.w.k);
    return RunFloat<false>(in, what, args);
  }
  args.x = {p.x, p.x_stride, args.out.m};
  Launch(in, what, SimtGrid(args.out), Simt<false>, args);
}

void Int8GemmDx(const Arguments& in, const char* what, DType dtype, const void* dy,
                int64_t dy_stride, int64_t m, const Int8Weights& w, void* dx) {
  if (m == 0 || w.k == 0) return;
  if (dtype == DType::kBF16 && m >= kManyRows && w.n > 0)
    return Int8GemmDxWide(in, what, dy, dy_stride, m, w, static_cast<bf16*>(dx));
  Int8Args args = ArgsOf(w, Int8Output(dx, dtype, m, w.k, nullptr));
  if (dtype == DType::kBF16) {
    args.x = Aligned16(in, dy, dtype, dy_stride, m, w.n);
    return RunFloat<true>(in, what, args);
  }
  args.x = {dy, dy_stride, args.out.m};
  Launch(in, what, SimtGrid(args.out), Simt<true>, args);
}

}  // namespace fuselm::cuda
