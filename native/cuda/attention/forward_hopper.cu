// Attention forward in bf16 on sm_90a: warpgroup products (wgmma) fed by tensor copies (TMA).
//
// Work: a block takes 128 rows of one head: two warpgroups of 64 rows compute, a warp of a third
// copies. Keys come in blocks of 128, K and V each in two stages of shared memory behind mbarriers.
// A warpgroup starts the scores of block j and the values of block j - 1 together, then makes the
// exponentials of j while the values are multiplied; the two warpgroups start theirs in turns
// (named barriers), so that one's exponentials run under the other's products. Scores,
// probabilities and output stay in registers; setmaxnreg moves registers from the copying
// warpgroup to the others. Blocks of rows with many keys come first.
// Shared memory: 161 KB at D 128, 81 KB at 64. Rows 16-byte aligned; masks as in forward.cu.
// Predicted, not measured: at D 128 a block of 128 x 128 takes the tensor cores 2,048 cycles, the
// exponentials 1,024 of their unit and about 430 instructions of each of the two warps of a
// scheduler, all of which fit under the products: 85 % of the tensor cores in long rows, less 2,500
// cycles a block of rows (5 % at 8k causal, 20 % at 1k). At 64 products and exponentials take 1,024
// cycles each: about 60 %.
#include "native/cuda/attention/forward.cuh"
#include "native/cuda/attention/tile.cuh"
#include "native/cuda/hopper.cuh"

namespace fuselm::cuda::attention {
namespace {

constexpr int kGroups = 2;  // that compute
constexpr int kRows = 64 * kGroups, kKeys = 128, kStages = 2;
constexpr int kThreads = kWarpgroup * (kGroups + 1);

struct HopperForward {
  TensorMap q, k, v;
  Forward forward;
};

template <int kD>
struct Layout {
  static constexpr int kQ = kRows * kD * 2, kTile = kKeys * kD * 2;  // bytes
  static constexpr int kBarriers = kQ + 2 * kStages * kTile;
  static constexpr int kIntervals = kBarriers + 128;
  static constexpr int64_t kBytes = kIntervals + kRows * sizeof(Interval) + 1024;  // to align
};
struct Barriers {
  Barrier q, k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
};
static_assert(sizeof(Barriers) <= 128);

template <int kD>
__device__ __forceinline__ void CopyBlocks(const HopperForward& args, unsigned char* shared,
                                           Barriers* barriers, const Place& at,
                                           const KeyRange& keys) {
  using L = Layout<kD>;
  constexpr int kPanels = kD / kPanelColumns;
  const int blocks = (keys.end - keys.begin + kKeys - 1) / kKeys;
  BarrierExpect(&barriers->q, L::kQ);
  for (int p = 0; p < kPanels; ++p) {
    TensorCopy(shared + p * kRows * 128, &args.q, &barriers->q, p * kPanelColumns, at.row0,
               at.head_set, at.b);
  }
  const auto copy = [&](const TensorMap* map, int tile, int j, Barrier* full, Barrier* empty) {
    const int stage = StageOf<kStages>(j);
    BarrierWait(empty + stage, ParityOf<kStages>(j) ^ 1);  // at first free
    BarrierExpect(full + stage, L::kTile);
    unsigned char* const to = shared + L::kQ + (tile * kStages + stage) * L::kTile;
    for (int p = 0; p < kPanels; ++p) {
      TensorCopy(to + p * kKeys * 128, map, full + stage, p * kPanelColumns, keys.begin + j * kKeys,
                 at.kv, at.b);
    }
  };
  for (int j = 0; j < blocks; ++j) {
    if (j == 0) copy(&args.k, 0, 0, barriers->k_full, barriers->k_empty);
    if (j + 1 < blocks) copy(&args.k, 0, j + 1, barriers->k_full, barriers->k_empty);
    copy(&args.v, 1, j, barriers->v_full, barriers->v_empty);
  }
}

// The state of a warpgroup's rows: two a thread, g and g + 8 of its warp's 16.
template <int kD>
struct Rows {
  float out[kD / 2], s[kKeys / 2];
  uint32_t p[kKeys / 16][4];
  float top[2], sum[2];

  __device__ __forceinline__ void Scores(uint32_t q, uint32_t k, int row0) {
    WgmmaFence();
    Pin(s);
#pragma unroll
    for (int i = 0; i < kD / 16; ++i) {
      WgmmaSs(s, AlongRows(q, kRows, row0, i), AlongRows(k, kKeys, 0, i), i > 0);
    }
    WgmmaCommit();
  }
  __device__ __forceinline__ void Values(uint32_t v) {
    WgmmaFence();
    Pin(out);
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) WgmmaRs(out, p[i], DownRows(v, kKeys, 16 * i, 0), 1);
    WgmmaCommit();
  }
  // The intervals are those of rows g and g + 8; by value, so that they stay in registers.
  __device__ __forceinline__ void Mask(int key, Interval low, Interval high) {
    const int first = key + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) {
      const int column = first + (i / 4 * 8 + i % 2);
      if (!(i % 4 / 2 == 0 ? low.Has(column) : high.Has(column))) s[i] = -INFINITY;
    }
  }
  // Scores to exponentials; returns whether the output is to be scaled, by `shrink`.
  __device__ __forceinline__ bool Exponentials(float scale2, float (&shrink)[2]) {
    bool shrinks = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = -INFINITY;
#pragma unroll
      for (int i = 2 * half; i < kKeys / 2; i += 4) most = fmaxf(most, fmaxf(s[i], s[i + 1]));
      most = fmaxf(most, __shfl_xor_sync(kFullMask, most, 1));
      most = fmaxf(most, __shfl_xor_sync(kFullMask, most, 2)) * scale2;
      shrink[half] = 1;
      if (most > top[half] + 8) {  // as in forward.cu
        shrink[half] = Exp2(top[half] - most);
        top[half] = most;
        shrinks = true;
      }
      const float base = top[half] == -INFINITY ? 0.0f : top[half];
      float total = 0;
#pragma unroll
      for (int i = 2 * half; i < kKeys / 2; i += 4) {
        s[i] = Exp2(s[i] * scale2 - base);
        s[i + 1] = Exp2(s[i + 1] * scale2 - base);
        total += s[i] + s[i + 1];
      }
      sum[half] = sum[half] * shrink[half] + total;
    }
    return __any_sync(kFullMask, shrinks);
  }
  __device__ __forceinline__ void Shrink(const float (&shrink)[2]) {
#pragma unroll
    for (int i = 0; i < kD / 2; ++i) out[i] *= shrink[i % 4 / 2];
  }
  __device__ __forceinline__ void Round() {
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) p[i][j] = ToBf16x2(s[8 * i + 2 * j], s[8 * i + 2 * j + 1]);
    }
  }
};

template <int kD>
__global__ void __launch_bounds__(kThreads, 1)
    ForwardRows(const __grid_constant__ HopperForward args) {
#if defined(FUSELM_HOPPER) || !defined(__CUDACC__)
  using L = Layout<kD>;
  FUSELM_DYNAMIC_SHARED(unsigned char, dynamic);
  unsigned char* const shared = dynamic + ((1024 - (SharedAddress(dynamic) & 1023)) & 1023);
  auto* const barriers = reinterpret_cast<Barriers*>(shared + L::kBarriers);
  auto* const intervals = reinterpret_cast<Interval*>(shared + L::kIntervals);
  __shared__ Span spans[kRows / kWarp];
  const Forward& f = args.forward;
  const Problem& p = f.problem;
  const Place at = PlaceOf(f, kRows);
  // the same in all lanes, and known to be
  const int group = __shfl_sync(kFullMask, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  const int lane = threadIdx.x % kWarp;

  if (threadIdx.x == 0) {
    BarrierInit(&barriers->q, 1);
    for (int i = 0; i < kStages; ++i) {
      BarrierInit(&barriers->k_full[i], 1);
      BarrierInit(&barriers->v_full[i], 1);
      BarrierInit(&barriers->k_empty[i], 4 * kGroups);  // a lane a warp
      BarrierInit(&barriers->v_empty[i], 4 * kGroups);
    }
    BarrierInitFence();
    PrefetchMap(&args.q), PrefetchMap(&args.k), PrefetchMap(&args.v);
  }
  if (threadIdx.x < kRows) {
    const int t = at.row0 + static_cast<int>(threadIdx.x);
    const bool exists = t < f.rows;
    const Interval interval = exists ? p.Of(at.b, t) : Interval{0, -1};
    intervals[threadIdx.x] = interval;
    const Span span = WarpJoin(exists ? Span::Of(interval) : Span::None());
    if (lane == 0) spans[threadIdx.x / kWarp] = span;
  }
  __syncthreads();
  Span all = spans[0];
#pragma unroll
  for (int w = 1; w < kRows / kWarp; ++w) all = all.Join(spans[w]);
  const KeyRange keys = KeysOf(f, all, 0, kKeys);
  const int blocks = (keys.end - keys.begin + kKeys - 1) / kKeys;

  if (group == kGroups) {
    GiveRegisters<24>();
    if (threadIdx.x == kGroups * kWarpgroup && blocks > 0) {
      CopyBlocks<kD>(args, shared, barriers, at, keys);
    }
  } else {
    TakeRegisters<240>();
    const int warp = __shfl_sync(kFullMask, static_cast<int>(threadIdx.x) / kWarp, 0);
    const int g = lane / 4, t4 = lane % 4;
    const int own = 16 * warp;  // this warp's first row
    const Span span = spans[2 * group].Join(spans[2 * group + 1]);
    const uint32_t q_tile = SharedAddress(shared), k_tiles = q_tile + L::kQ,
                   v_tiles = k_tiles + kStages * L::kTile;
    Rows<kD> rows;
#pragma unroll
    for (int i = 0; i < kD / 2; ++i) rows.out[i] = 0;
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) rows.s[i] = 0;
    rows.top[0] = rows.top[1] = -INFINITY;
    rows.sum[0] = rows.sum[1] = 0;
    float shrink[2];
    const auto release = [&](Barrier* empty) {
      if (lane == 0) BarrierArrive(empty);
    };
    const auto mask = [&](int j) {
      const int key = keys.begin + j * kKeys;
      if (!span.Covers(key, kKeys)) rows.Mask(key, intervals[own + g], intervals[own + g + 8]);
    };
    if (blocks > 0) {
      // Turns: barrier 1 + group lets a group start its products; group 0 is first.
      const auto pass_on = [&](int j) {
        if (group == 0 || j + 1 < blocks) AnnounceAt(2 - group, 2 * kWarpgroup);
      };
      if (group == 1) AnnounceAt(1, 2 * kWarpgroup);
      BarrierWait(&barriers->q, 0);
      BarrierWait(&barriers->k_full[0], 0);
      MeetAt(1 + group, 2 * kWarpgroup);
      rows.Scores(q_tile, k_tiles, 64 * group);
      pass_on(0);
      WgmmaWait<0>();
      Pin(rows.s);
      release(&barriers->k_empty[0]);
      mask(0);
      rows.Exponentials(p.scale2, shrink);
      rows.Round();
      for (int j = 1; j < blocks; ++j) {
        const int stage = StageOf<kStages>(j), before = StageOf<kStages>(j - 1);
        BarrierWait(&barriers->k_full[stage], ParityOf<kStages>(j));
        MeetAt(1 + group, 2 * kWarpgroup);
        rows.Scores(q_tile, k_tiles + stage * L::kTile, 64 * group);
        BarrierWait(&barriers->v_full[before], ParityOf<kStages>(j - 1));
        rows.Values(v_tiles + before * L::kTile);
        pass_on(j);
        WgmmaWait<1>();
        Pin(rows.s);
        release(&barriers->k_empty[stage]);
        mask(j);
        const bool shrinks = rows.Exponentials(p.scale2, shrink);
        WgmmaWait<0>();
        Pin(rows.out);
        release(&barriers->v_empty[before]);
        if (shrinks) rows.Shrink(shrink);
        rows.Round();
      }
      const int last = blocks - 1;
      BarrierWait(&barriers->v_full[StageOf<kStages>(last)], ParityOf<kStages>(last));
      rows.Values(v_tiles + StageOf<kStages>(last) * L::kTile);
      WgmmaWait<0>();
      Pin(rows.out);
    }

    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = rows.sum[half];
      total += __shfl_xor_sync(kFullMask, total, 1);
      total += __shfl_xor_sync(kFullMask, total, 2);
      factor[half] = total == 0 ? 0.0f : 1.0f / total;
      const int t = at.row0 + own + g + 8 * half;
      if (t4 == 0 && t < f.rows && f.lse != nullptr) {
        f.lse[(at.b * p.H + at.head_set) * p.T + t] =
            total == 0 ? -INFINITY : rows.top[half] * kLn2 + logf(total);
      }
    }
    // Through this warp's own rows of the query tile, which its warpgroup reads no more.
    auto* const tile = reinterpret_cast<bf16*>(shared);
    MeetAt(3 + group, kWarpgroup);
#pragma unroll
    for (int i = 0; i < kD / 2; i += 2) {
      const int row = own + g + i % 4 / 2 * 8;
      auto* const to = reinterpret_cast<uint32_t*>(tile + i / 32 * (kRows * kPanelColumns) +
                                                   TileAt<kPanelColumns>(row, i / 4 % 8));
      to[t4] = ToBf16x2(rows.out[i] * factor[i % 4 / 2], rows.out[i + 1] * factor[i % 4 / 2]);
    }
    __syncwarp();
    for (int panel = 0; panel < kD / kPanelColumns; ++panel) {
      const int column = panel * kPanelColumns;
      if (column >= p.D) break;
      CopyOut<kPanelColumns>(
          tile + panel * (kRows * kPanelColumns), own, p.D - column, true, [&](int r) -> bf16* {
            return at.row0 + r < f.rows ? f.out.At<bf16>(at.b, at.row0 + r, at.head_set) + column
                                        : nullptr;
          });
    }
  }
#endif
}

TensorMap MapOf(const Heads& x, int64_t D, int64_t rows, int64_t heads, int64_t B, int box) {
  return MakeTensorMap(x.data, D, rows, heads, B, {x.stride[1], x.stride[2], x.stride[0]}, box);
}

static_assert(Layout<128>::kBytes <= kHopperBytes);

template <int kD>
void LaunchRows(const Arguments& in, const char* op, Forward args) {
  const Problem& p = args.problem;
  args.tiles = static_cast<int32_t>(CeilDiv(args.rows, kRows));
  HopperForward both{};
  both.q = MapOf(args.q, p.D, p.T, p.H, p.B, kRows);
  both.k = MapOf(args.k, p.D, p.S, p.Hkv, p.B, kKeys);
  both.v = MapOf(args.v, p.D, p.S, p.Hkv, p.B, kKeys);
  both.forward = args;
  const int64_t blocks = int64_t{args.tiles} * p.B * p.H;
  Launch(in, op, {dim3(static_cast<unsigned>(blocks)), kThreads, Layout<kD>::kBytes},
         ForwardRows<kD>, both);
}

}  // namespace

void ForwardHopper(const Arguments& in, const char* op, const Forward& args) {
  if (args.problem.D <= 64) {
    LaunchRows<64>(in, op, args);
  } else {
    LaunchRows<128>(in, op, args);
  }
}

}  // namespace fuselm::cuda::attention
