// Attention backward in bf16 on sm_90a: the scheme of backward.cuh with warpgroup products (wgmma)
// fed by tensor copies (TMA). Deterministic: one launch for dq, one for dk and dv.
//
// Work: a block keeps 128 rows in shared memory, two warpgroups of 64 rows compute, a warp of a
// third copies blocks of columns (64 queries, or 128 keys) into a ring behind mbarriers, and says
// with each which columns it holds and what they see. Scores of rows x columns stay in registers,
// where they become the A operands of the sums. At D 64 a warpgroup's sums run while its next
// scores are made; at 128 only the other warpgroup's work hides under them. Blocks of columns
// outside the intervals are never copied. Shared memory: D 128: 163 KB for keys, 193 KB for
// queries; half of that at 64. Rows 16-byte aligned.
// Predicted, not measured, at D 128: 128 keys x 64 queries take the tensor cores 2,048 cycles for
// dk and dv (the scores, 64 x 64 x 16 at a time, also all of shared memory's 128 bytes a cycle) and
// 1,536 for dq, against about 420 and 350 instructions of each of a scheduler's two warps: at 75 %
// of the tensor cores, 5/7 of whose work counts, about 55 % of their peak.
#include "native/cuda/attention/backward.cuh"
#include "native/cuda/attention/tile.cuh"
#include "native/cuda/hopper.cuh"

namespace fuselm::cuda::attention {
namespace {

constexpr int kGroups = 2;  // that compute
constexpr int kRows = 64 * kGroups;
constexpr int kThreads = kWarpgroup * (kGroups + 1);

struct HopperBackward {
  TensorMap rows[2], columns[2];
  Backward backward;
};

// What comes with a block of columns.
struct alignas(16) Item {
  int column0;  // negative: there are no more
  Span span;
};

template <int kD, bool kKeyRows>
struct Layout {
  static constexpr int kColumns = kKeyRows ? kHopperQueries : 128;
  static constexpr int kStages = kKeyRows ? 3 : 2;
  static constexpr int kRowBytes = kRows * kD * 2, kColumnBytes = kColumns * kD * 2;
  static constexpr int kColumnsAt = 2 * kRowBytes;
  // of a stage: lse2, delta, intervals of its columns
  static constexpr int kStats = kKeyRows ? kColumns * 16 : 0;
  static constexpr int kStatsAt = kColumnsAt + kStages * 2 * kColumnBytes;
  static constexpr int kItemsAt = kStatsAt + kStages * kStats;
  static constexpr int kBarriersAt = kItemsAt + kStages * static_cast<int>(sizeof(Item));
  static constexpr int64_t kBytes = kBarriersAt + 64 + 1024;  // to align
};
template <int kStages>
struct Barriers {
  Barrier rows, full[kStages], empty[kStages];
};

template <int kD, bool kKeyRows>
__global__ void __launch_bounds__(kThreads, 1)
    BackwardRows(const __grid_constant__ HopperBackward args) {
#if defined(FUSELM_HOPPER) || !defined(__CUDACC__)
  using L = Layout<kD, kKeyRows>;
  constexpr bool kOverlaps = kD == 64;  // at 128 there are no registers for it
  constexpr int kColumns = L::kColumns, kStages = L::kStages, kPanels = kD / kPanelColumns;
  FUSELM_DYNAMIC_SHARED(unsigned char, dynamic);
  unsigned char* const shared = dynamic + ((1024 - (SharedAddress(dynamic) & 1023)) & 1023);
  auto* const items = reinterpret_cast<Item*>(shared + L::kItemsAt);
  auto* const barriers = reinterpret_cast<Barriers<kStages>*>(shared + L::kBarriersAt);
  static_assert(sizeof(*barriers) <= 64);
  __shared__ Span spans[kRows / kWarp];
  const Backward& f = args.backward;
  const Problem& p = f.problem;
  // the same in all lanes, and known to be
  const int group = __shfl_sync(kFullMask, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  const int warp = __shfl_sync(kFullMask, static_cast<int>(threadIdx.x) / kWarp, 0);
  const int lane = threadIdx.x % kWarp;

  const int count = static_cast<int>(kKeyRows ? p.S : p.T);
  const int heads = static_cast<int>(kKeyRows ? p.Hkv : p.H);
  const int row_blocks = (count + kRows - 1) / kRows;
  const int block = static_cast<int>(blockIdx.x), place = block % row_blocks;
  const int row0 = (kKeyRows ? place : row_blocks - 1 - place) * kRows;
  const int head = block / row_blocks % heads, b = block / row_blocks / heads;
  const int own = 16 * warp;  // this warp's first row
  const int g = lane / 4, t4 = lane % 4;

  if (threadIdx.x == 0) {
    BarrierInit(&barriers->rows, 1);
    for (int i = 0; i < kStages; ++i) {
      BarrierInit(&barriers->full[i], 1);
      BarrierInit(&barriers->empty[i], 4 * kGroups);  // a lane a warp
    }
    BarrierInitFence();
    for (int i = 0; i < 2; ++i) PrefetchMap(&args.rows[i]), PrefetchMap(&args.columns[i]);
  }
  if constexpr (!kKeyRows) {
    if (threadIdx.x < kRows) {
      const int t = row0 + static_cast<int>(threadIdx.x);
      const Span span = WarpJoin(t < count ? Span::Of(p.Of(b, t)) : Span::None());
      if (lane == 0) spans[warp] = span;
    }
  }
  __syncthreads();

  if (group == kGroups) {
    GiveRegisters<24>();
    if (threadIdx.x == kGroups * kWarpgroup) {
      BarrierExpect(&barriers->rows, 2 * L::kRowBytes);
      for (int i = 0; i < 2 * kPanels; ++i) {
        TensorCopy(shared + i * kRows * 128, &args.rows[i / kPanels], &barriers->rows,
                   i % kPanels * kPanelColumns, row0, head, b);
      }
      int first, blocks;
      if constexpr (kKeyRows) {
        const BlockRange range = QueriesOf(p, row0, kRows, kColumns);
        first = static_cast<int>(range.begin), blocks = static_cast<int>(range.end - range.begin);
      } else {
        Span all = spans[0];
        for (int w = 1; w < kRows / kWarp; ++w) all = all.Join(spans[w]);
        first = all.low / kColumns;
        blocks = all.high < 0 ? 0 : all.high / kColumns + 1 - first;
      }
      const int group_size = static_cast<int>(p.group);
      const int members = kKeyRows ? group_size : 1;
      const int query_blocks = static_cast<int>(f.padded / kHopperQueries);
      int next = 0;
      for (int member = 0; member < members; ++member) {
        const int over = kKeyRows ? head * group_size + member : head / group_size;
        for (int i = first; i < first + blocks; ++i) {
          Item item{i * kColumns, {}};
          if constexpr (kKeyRows) {
            item.span = f.spans[int64_t{b} * query_blocks + i];
            if (item.span.Misses(row0, kRows)) continue;
          }
          const int stage = StageOf<kStages>(next);
          BarrierWait(&barriers->empty[stage], ParityOf<kStages>(next) ^ 1);  // at first free
          items[stage] = item;
          Barrier* const full = &barriers->full[stage];
          BarrierExpect(full, 2 * L::kColumnBytes + L::kStats);
          unsigned char* const to = shared + L::kColumnsAt + stage * 2 * L::kColumnBytes;
          for (int j = 0; j < 2 * kPanels; ++j) {
            TensorCopy(to + j * kColumns * 128, &args.columns[j / kPanels], full,
                       j % kPanels * kPanelColumns, item.column0, over, b);
          }
          if constexpr (kKeyRows) {
            unsigned char* const stats = shared + L::kStatsAt + stage * L::kStats;
            const int64_t at = (int64_t{b} * p.H + over) * f.padded + item.column0;
            BulkCopy(stats, f.lse2 + at, kColumns * 4, full);
            BulkCopy(stats + kColumns * 4, f.padded_delta + at, kColumns * 4, full);
            BulkCopy(stats + kColumns * 8, f.intervals + b * f.padded + item.column0, kColumns * 8,
                     full);
          }
          ++next;
        }
      }
      const int stage = StageOf<kStages>(next);
      BarrierWait(&barriers->empty[stage], ParityOf<kStages>(next) ^ 1);
      items[stage] = Item{-1, {}};
      BarrierArrive(&barriers->full[stage]);
    }
  } else {
    TakeRegisters<240>();
    Interval interval[2] = {{0, -1}, {0, -1}};
    float lse2[2] = {}, delta[2] = {};
    Span mine{};
    if constexpr (!kKeyRows) {
      mine = spans[2 * group].Join(spans[2 * group + 1]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int t = row0 + own + g + 8 * half;
        if (t >= count) continue;
        interval[half] = p.Of(b, t);
        lse2[half] = f.lse2[(int64_t{b} * p.H + head) * f.padded + t];
        delta[half] = f.padded_delta[(int64_t{b} * p.H + head) * f.padded + t];
      }
    }
    constexpr int kSecond = kKeyRows ? kD / 2 : 1;
    float acc0[kD / 2], acc1[kSecond], s[kColumns / 2], d[kColumns / 2];
    uint32_t weights[kKeyRows ? kColumns / 16 : 1][4], ds[kColumns / 16][4];
#pragma unroll
    for (int i = 0; i < kD / 2; ++i) acc0[i] = 0;
#pragma unroll
    for (int i = 0; i < kSecond; ++i) acc1[i] = 0;
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) s[i] = d[i] = 0;
    const uint32_t rows0 = SharedAddress(shared), rows1 = rows0 + L::kRowBytes;
    BarrierWait(&barriers->rows, 0);
    int held = -1;  // the stage whose sums are under way
    const auto release = [&](int stage) {
      __syncwarp();  // every lane has read the item and its statistics; wgmma does not order that
      if (lane == 0) BarrierArrive(&barriers->empty[stage]);
    };
    for (int next = 0;; ++next) {
      const int stage = StageOf<kStages>(next);
      BarrierWait(&barriers->full[stage], ParityOf<kStages>(next));
      const Item item = items[stage];
      if (item.column0 < 0) break;
      bool misses, covered;
      if constexpr (kKeyRows) {
        misses = item.span.Misses(row0 + 64 * group, 64);
        covered = item.span.Covers(row0 + 64 * group, 64);
      } else {
        misses = mine.Misses(item.column0, kColumns);
        covered = mine.Covers(item.column0, kColumns);
      }
      const auto finish = [&] {  // the sums under way, whose stage the copies may wait for
        WgmmaWait<0>();
        Pin(acc0);
        Pin(acc1);
        if (held >= 0) release(held);
        held = -1;
      };
      if (misses) {
        finish();
        release(stage);
        continue;
      }
      const uint32_t tile0 = rows0 + L::kColumnsAt + stage * 2 * L::kColumnBytes;
      const uint32_t tile1 = tile0 + L::kColumnBytes;
      if constexpr (!kOverlaps) finish();
      WgmmaFence();
      Pin(s);
#pragma unroll
      for (int k = 0; k < kD / 16; ++k) {
        WgmmaSs(s, AlongRows(rows0, kRows, 64 * group, k), AlongRows(tile0, kColumns, 0, k), k > 0);
      }
      WgmmaCommit();
      Pin(d);
#pragma unroll
      for (int k = 0; k < kD / 16; ++k) {
        WgmmaSs(d, AlongRows(rows1, kRows, 64 * group, k), AlongRows(tile1, kColumns, 0, k), k > 0);
      }
      WgmmaCommit();
      WgmmaWait<1>();  // the scores, and the sums of the block before
      Pin(s);
      if constexpr (kOverlaps) {
        Pin(acc0);
        Pin(acc1);
        if (held >= 0) release(held);
      }
      const auto* const stats =
          reinterpret_cast<const float*>(shared + L::kStatsAt + stage * L::kStats);
      const auto* const sees = reinterpret_cast<const Interval*>(stats + 2 * kColumns);
#pragma unroll
      for (int i = 0; i < kColumns / 2; i += 4) {
        float2 base = make_float2(lse2[0], lse2[1]);  // of the two columns, or of the two rows
        if constexpr (kKeyRows) {
          base = *reinterpret_cast<const float2*>(stats + i / 4 * 8 + t4 * 2);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          s[i + j] = Exp2(s[i + j] * p.scale2 - ((kKeyRows ? j % 2 : j / 2) ? base.y : base.x));
        }
      }
      if (!covered) {
#pragma unroll
        for (int i = 0; i < kColumns / 2; i += 4) {
          const int column = i / 4 * 8 + t4 * 2;
          Pack<Interval, 2> of_columns{};
          if constexpr (kKeyRows)
            of_columns = *reinterpret_cast<const Pack<Interval, 2>*>(sees + column);
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const bool allowed = kKeyRows ? of_columns.v[j % 2].Has(row0 + own + g + 8 * (j / 2))
                                          : interval[j / 2].Has(item.column0 + column + j % 2);
            if (!allowed) s[i + j] = 0;
          }
        }
      }
      WgmmaWait<0>();
      Pin(d);
#pragma unroll
      for (int i = 0; i < kColumns / 2; i += 4) {
        float2 shift = make_float2(delta[0], delta[1]);
        if constexpr (kKeyRows) {
          shift = *reinterpret_cast<const float2*>(stats + kColumns + i / 4 * 8 + t4 * 2);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          d[i + j] = s[i + j] * (d[i + j] - ((kKeyRows ? j % 2 : j / 2) ? shift.y : shift.x));
        }
      }
      if (!covered) {  // where nothing is seen d may be no number
#pragma unroll
        for (int i = 0; i < kColumns / 2; ++i) d[i] = s[i] == 0 ? 0.0f : d[i];
      }
#pragma unroll
      for (int k = 0; k < kColumns / 16; ++k) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          ds[k][j] = ToBf16x2(d[8 * k + 2 * j], d[8 * k + 2 * j + 1]);
          if constexpr (kKeyRows) {
            weights[k][j] = ToBf16x2(s[8 * k + 2 * j], s[8 * k + 2 * j + 1]);
          }
        }
      }
      WgmmaFence();
      Pin(acc0);
      Pin(acc1);
#pragma unroll
      for (int k = 0; k < kColumns / 16; ++k) {
        if constexpr (kKeyRows) {
          WgmmaRs(acc1, weights[k], DownRows(tile1, kColumns, 16 * k, 0), 1);
        }
        WgmmaRs(acc0, ds[k], DownRows(tile0, kColumns, 16 * k, 0), 1);
      }
      WgmmaCommit();
      held = stage;
    }
    WgmmaWait<0>();
    Pin(acc0);
    Pin(acc1);
    // Through this warpgroup's own rows of the first operands, which it reads no more.
    MeetAt(1 + group, kWarpgroup);
    const auto store = [&](const Heads& to, bf16* tile, const float(&acc)[kD / 2], float factor) {
#pragma unroll
      for (int i = 0; i < kD / 2; i += 2) {
        const int row = own + g + i % 4 / 2 * 8;
        auto* const at = reinterpret_cast<uint32_t*>(tile + i / 32 * (kRows * kPanelColumns) +
                                                     TileAt<kPanelColumns>(row, i / 4 % 8));
        at[t4] = ToBf16x2(acc[i] * factor, acc[i + 1] * factor);
      }
      __syncwarp();
      for (int panel = 0; panel < kPanels; ++panel) {
        const int column = panel * kPanelColumns;
        if (column >= p.D) break;
        CopyOut<kPanelColumns>(
            tile + panel * (kRows * kPanelColumns), own, p.D - column, true, [&](int r) -> bf16* {
              return row0 + r < count ? to.At<bf16>(b, row0 + r, head) + column : nullptr;
            });
      }
    };
    auto* const tile = reinterpret_cast<bf16*>(shared);
    if constexpr (kKeyRows) {
      store(f.dk, tile, acc0, p.scale);
      store(f.dv, tile + kRows * kD, acc1, 1.0f);
    } else {
      store(f.dq, tile, acc0, p.scale);
    }
  }
#endif
}

static_assert(Layout<128, true>::kBytes <= kHopperBytes);
static_assert(Layout<128, false>::kBytes <= kHopperBytes);

template <int kD, bool kKeyRows>
void LaunchRows(const Arguments& in, const Backward& args) {
  using L = Layout<kD, kKeyRows>;
  const Problem& p = args.problem;
  HopperBackward both{};
  both.backward = args;
  const auto queries = [&](const Heads& x, int box) {
    return MakeTensorMap(x.data, p.D, p.T, p.H, p.B, {x.stride[1], x.stride[2], x.stride[0]}, box);
  };
  const auto keys = [&](const Heads& x, int box) {
    return MakeTensorMap(x.data, p.D, p.S, p.Hkv, p.B, {x.stride[1], x.stride[2], x.stride[0]},
                         box);
  };
  const int query_box = kKeyRows ? L::kColumns : kRows, key_box = kKeyRows ? kRows : L::kColumns;
  TensorMap* const of_queries = kKeyRows ? both.columns : both.rows;
  TensorMap* const of_keys = kKeyRows ? both.rows : both.columns;
  of_queries[0] = queries(args.q, query_box), of_queries[1] = queries(args.dout, query_box);
  of_keys[0] = keys(args.k, key_box), of_keys[1] = keys(args.v, key_box);
  const int64_t blocks = CeilDiv(kKeyRows ? p.S : p.T, kRows) * (kKeyRows ? p.Hkv : p.H) * p.B;
  Launch(in, "attention.backward", {dim3(static_cast<unsigned>(blocks)), kThreads, L::kBytes},
         BackwardRows<kD, kKeyRows>, both);
}

}  // namespace

void BackwardHopper(const Arguments& in, const Backward& args) {
  if (args.problem.H == 0) return;
  if (args.problem.D <= 64) {
    LaunchRows<64, false>(in, args);
    LaunchRows<64, true>(in, args);
  } else {
    LaunchRows<128, false>(in, args);
    LaunchRows<128, true>(in, args);
  }
}

}  // namespace fuselm::cuda::attention
