// Attention backward in bf16 for tensor cores of sm_80 on, deterministic: one launch for dq by
// blocks of queries, one for dk and dv by blocks of keys (of all heads of a group), each with the
// scores made anew; see backward.cuh for the scheme that both follow.
//
// Work: a block keeps up to 128 rows (16 a warp) and walks over blocks of 32 or 64 columns, whose
// two operands are copied (cp.async) one block ahead. Scores of rows x columns come out of the
// tensor cores as they go in again (P^T and dS^T as A operands), so nothing but operands passes
// through shared memory. Blocks of columns outside the intervals are skipped; for keys, from spans
// of the query blocks that MakeSpans writes first. D above 128: the sums over D in two halves.
// Shared memory: 65 KB at D 64, 97 KB at 128 and 256. Bound by shared memory's bandwidth: each
// operand word feeds 16 rows.
#include "native/cuda/attention/backward.cuh"

#include "native/cuda/attention/tile.cuh"

namespace fuselm::cuda::attention {
namespace {

constexpr int kDeltaThreads = 128;

// A warp a query and head.
template <class T>
__global__ void __launch_bounds__(kDeltaThreads) Deltas(const Backward args) {
  const Problem& p = args.problem;
  const int64_t i =
      static_cast<int64_t>(blockIdx.x) * (kDeltaThreads / kWarp) + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (i >= p.B * p.H * p.T) return;
  const int64_t h = i % p.H, row = i / p.H;
  const int64_t t = row % p.T, b = row / p.T;
  const T* const dout = args.dout.At<T>(b, t, h);
  const T* const out = args.out.At<T>(b, t, h);
  float sum = 0;
  if (p.aligned) {
    constexpr int kPack = 16 / sizeof(T);
    for (int c = lane * kPack; c < p.D; c += kWarp * kPack) {
      const auto x = *reinterpret_cast<const Pack<T, kPack>*>(dout + c);
      const auto y = *reinterpret_cast<const Pack<T, kPack>*>(out + c);
#pragma unroll
      for (int k = 0; k < kPack; ++k) sum += ToFloat(x.v[k]) * ToFloat(y.v[k]);
    }
  } else {
    for (int c = lane; c < p.D; c += kWarp) sum += ToFloat(dout[c]) * ToFloat(out[c]);
  }
  sum = WarpSum(sum);
  if (lane > 0) return;
  args.delta[(b * p.H + h) * p.T + t] = sum;
  if (args.padded > 0) {
    const int64_t at = (b * p.H + h) * args.padded + t;
    args.padded_delta[at] = sum;
    args.lse2[at] = args.lse[(b * p.H + h) * p.T + t] * kLog2E;
  }
}

// A warp a block of `columns` queries.
__global__ void __launch_bounds__(kDeltaThreads)
    MakeSpans(const Backward args, int64_t columns, int64_t blocks) {
  const Problem& p = args.problem;
  const int64_t i =
      static_cast<int64_t>(blockIdx.x) * (kDeltaThreads / kWarp) + threadIdx.x / kWarp;
  if (i >= p.B * blocks) return;
  const int64_t b = i / blocks, t0 = i % blocks * columns;
  Span span = Span::None();
  for (int64_t t = t0 + threadIdx.x % kWarp; t < t0 + columns; t += kWarp) {
    // queries past the end see nothing, so that such a block is never fully seen
    const Interval interval = t < p.T ? p.Of(b, t) : Interval{0, -1};
    span = span.Join(Span::Of(interval));
    if (args.intervals != nullptr) args.intervals[b * args.padded + t] = interval;
  }
  span = WarpJoin(span);
  if (threadIdx.x % kWarp == 0) args.spans[i] = span;
}

// Of a query that stands in a column.
struct alignas(16) Stats {
  float lse2, delta;
  Interval sees;
};

template <int kD, int kWarps, int kColumns, bool kKeyRows>
struct Layout {
  static constexpr int kRows = 16 * kWarps;
  static constexpr int64_t kStats = kKeyRows ? 2 * kColumns * sizeof(Stats) : 0;
  static constexpr int64_t kBytes =
      (2 * kRows + 4 * kColumns) * kD * static_cast<int64_t>(sizeof(bf16)) + kStats;
};

// kOut: columns of D that a block sums, from blockIdx.y * kOut on.
template <int kD, int kOut, int kWarps, int kColumns, bool kKeyRows>
__global__ void __launch_bounds__(kWarps* kWarp) BackwardRows(const Backward args) {
  using L = Layout<kD, kWarps, kColumns, kKeyRows>;
  constexpr int kThreads = kWarps * kWarp, kRows = L::kRows;
  constexpr int kScores = kColumns / 8, kSums = kOut / 8;
  FUSELM_DYNAMIC_SHARED(bf16, rows0);
  bf16* const rows1 = rows0 + kRows * kD;
  bf16* const tiles = rows1 + kRows * kD;  // [stage][operand][kColumns][kD]
  auto* const stats = reinterpret_cast<Stats*>(tiles + 4 * kColumns * kD);  // [stage][kColumns]
  __shared__ Span spans[kWarps];

  const Problem& p = args.problem;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t4 = lane % 4;
  const int own = warp * 16;
  const int64_t count = kKeyRows ? p.S : p.T, heads = kKeyRows ? p.Hkv : p.H;
  const auto row_blocks = static_cast<unsigned>((count + kRows - 1) / kRows);
  // Causal, the first keys are seen by the most queries, and the last queries see the most keys.
  const unsigned place = blockIdx.x % row_blocks;
  const int row0 = static_cast<int>(kKeyRows ? place : row_blocks - 1 - place) * kRows;
  const int head = static_cast<int>(blockIdx.x / row_blocks % static_cast<unsigned>(heads));
  const int b = static_cast<int>(blockIdx.x / row_blocks / static_cast<unsigned>(heads));
  const Heads &from0 = kKeyRows ? args.k : args.q, &from1 = kKeyRows ? args.v : args.dout;
  const Heads &over0 = kKeyRows ? args.q : args.k, &over1 = kKeyRows ? args.dout : args.v;
  const auto* const any = static_cast<const bf16*>(args.q.data);

  const auto load_rows = [&](const Heads& from, bf16* to) {
    LoadTile<kD, kRows, kThreads>(to, p.D, p.aligned, any, [&](int r) -> const bf16* {
      return row0 + r < count ? from.At<bf16>(b, row0 + r, head) : nullptr;
    });
  };
  load_rows(from0, rows0);
  load_rows(from1, rows1);

  // Items are pairs of a member of the group and a block of columns, members first.
  Interval interval[2] = {{0, -1}, {0, -1}};
  float lse2[2] = {}, delta[2] = {};
  int first = 0, blocks;
  Span all{};
  Span mine{};
  const int64_t column_blocks = ((kKeyRows ? p.T : p.S) + kColumns - 1) / kColumns;
  if constexpr (kKeyRows) {
    const BlockRange range = QueriesOf(p, row0, kRows, kColumns);
    first = static_cast<int>(range.begin), blocks = static_cast<int>(range.end - range.begin);
  } else {
    mine = Span::None();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int t = row0 + own + g + 8 * half;
      if (t >= p.T) continue;
      interval[half] = p.Of(b, t);
      lse2[half] = args.lse[(b * p.H + head) * p.T + t] * kLog2E;
      delta[half] = args.delta[(b * p.H + head) * p.T + t];
      mine = mine.Join(Span::Of(interval[half]));
    }
    mine = WarpJoin(mine);
    if (lane == 0) spans[warp] = mine;
    __syncthreads();
    all = spans[0];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) all = all.Join(spans[w]);
    first = all.low / kColumns;
    blocks = all.high < 0 ? 0 : all.high / kColumns + 1 - first;
  }
  const int items = blocks * (kKeyRows ? static_cast<int>(p.group) : 1);
  const auto block_of = [&](int item) { return first + item % blocks; };
  const auto span_of = [&](int item) { return args.spans[b * column_blocks + block_of(item)]; };
  const auto skip = [&](int item) {  // to the first item from here on that meets the rows
    if constexpr (kKeyRows) {
      while (item < items && span_of(item).Misses(row0, kRows)) ++item;
    }
    return item;
  };
  const auto load_item = [&](int item, int stage) {
    const int group = static_cast<int>(p.group);
    const int over_head = kKeyRows ? head * group + item / blocks : head / group;
    const int column0 = block_of(item) * kColumns;
    const int limit = static_cast<int>(kKeyRows ? p.T : p.S);
    bf16* const to = tiles + stage * 2 * kColumns * kD;
    const auto load = [&](const Heads& from, bf16* tile) {
      LoadTile<kD, kColumns, kThreads>(tile, p.D, p.aligned, any, [&](int r) -> const bf16* {
        return column0 + r < limit ? from.At<bf16>(b, column0 + r, over_head) : nullptr;
      });
    };
    load(over0, to);
    load(over1, to + kColumns * kD);
    if constexpr (kKeyRows) {
      for (int i = static_cast<int>(threadIdx.x); i < kColumns; i += kThreads) {
        const int64_t t = column0 + i;
        Stats s{0, 0, {0, -1}};
        if (t < p.T) {
          s.lse2 = args.lse[(b * p.H + over_head) * p.T + t] * kLog2E;
          s.delta = args.delta[(b * p.H + over_head) * p.T + t];
          s.sees = p.Of(b, t);
        }
        stats[stage * kColumns + i] = s;
      }
    }
  };

  float acc0[kSums][4] = {};
  float acc1[kKeyRows ? kSums : 1][4] = {};
  const int chunk0 = static_cast<int>(blockIdx.y) * (kOut / 8);
  int item = skip(0);
  if (item < items) load_item(item, 0);
  CpAsyncCommit();
  int stage = 0;
  while (item < items) {
    const int next = skip(item + 1);
    if (next < items) load_item(next, stage ^ 1);
    CpAsyncCommit();
    CpAsyncWait<1>();
    __syncthreads();  // this stage is here
    const bf16* const tile0 = tiles + stage * 2 * kColumns * kD;
    const bf16* const tile1 = tile0 + kColumns * kD;
    const Stats* const columns = stats + stage * kColumns;
    const int column0 = block_of(item) * kColumns;
    bool works = true, covered;
    if constexpr (kKeyRows) {
      const Span span = span_of(item);
      works = !span.Misses(row0 + own, 16);
      covered = span.Covers(row0 + own, 16);
    } else {
      works = !mine.Misses(column0, kColumns);
      covered = mine.Covers(column0, kColumns);
    }
    if (works) {
      float s[kScores][4] = {}, d[kScores][4] = {};
#pragma unroll
      for (int k = 0; k < kD / 16; ++k) {
        uint32_t a[4], both[4];
        LoadA<kD>(a, rows0, own, k);
#pragma unroll
        for (int j = 0; j < kScores; j += 2) {
          LoadB<kD>(both, tile0, j * 8, k);
          MmaPair(s[j], s[j + 1], a, both);
        }
        LoadA<kD>(a, rows1, own, k);
#pragma unroll
        for (int j = 0; j < kScores; j += 2) {
          LoadB<kD>(both, tile1, j * 8, k);
          MmaPair(d[j], d[j + 1], a, both);
        }
      }
#pragma unroll
      for (int j = 0; j < kScores; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int column = j * 8 + t4 * 2 + i % 2;
          const float base = kKeyRows ? columns[column].lse2 : lse2[i / 2];
          const float shift = kKeyRows ? columns[column].delta : delta[i / 2];
          float weight = Exp2(s[j][i] * p.scale2 - base);
          float ds = weight * (d[j][i] - shift);
          if (!covered) {
            const bool allowed = kKeyRows ? columns[column].sees.Has(row0 + own + g + i / 2 * 8)
                                          : interval[i / 2].Has(column0 + column);
            weight = allowed ? weight : 0.0f;
            ds = allowed ? ds : 0.0f;
          }
          s[j][i] = weight;
          d[j][i] = ds;
        }
      }
#pragma unroll
      for (int k = 0; k < kColumns / 16; ++k) {
        uint32_t a[4], both[4];
        ToA(a, d[2 * k], d[2 * k + 1]);
#pragma unroll
        for (int j = 0; j < kSums; j += 2) {
          LoadBDown<kD>(both, tile0, 16 * k, chunk0 + j);
          MmaPair(acc0[j], acc0[j + 1], a, both);
        }
        if constexpr (kKeyRows) {
          ToA(a, s[2 * k], s[2 * k + 1]);
#pragma unroll
          for (int j = 0; j < kSums; j += 2) {
            LoadBDown<kD>(both, tile1, 16 * k, chunk0 + j);
            MmaPair(acc1[j], acc1[j + 1], a, both);
          }
        }
      }
    }
    __syncthreads();  // nobody reads this stage any more
    item = next;
    stage ^= 1;
  }
  CpAsyncWait<0>();  // the rows, too, where there was no item
  __syncthreads();

  const int64_t column0 = blockIdx.y * kOut, left = p.D - column0 < kOut ? p.D - column0 : kOut;
  const auto store = [&](const Heads& to, bf16* tile, const float(&acc)[kSums][4], float factor) {
    StoreTile<kD, kSums>(tile, own, acc, factor, factor);
    __syncwarp();  // a warp reads back its own rows alone
    CopyOut<kD>(tile, own, left, p.aligned, [&](int r) -> bf16* {
      return row0 + r < count ? to.At<bf16>(b, row0 + r, head) + column0 : nullptr;
    });
  };
  if constexpr (kKeyRows) {
    store(args.dk, rows0, acc0, p.scale);
    store(args.dv, rows1, acc1, 1.0f);
  } else {
    store(args.dq, rows0, acc0, p.scale);
  }
}

template <int kD, int kOut, int kWarps, int kColumns, bool kKeyRows>
void LaunchRows(const Arguments& in, const Backward& args) {
  using L = Layout<kD, kWarps, kColumns, kKeyRows>;
  const Problem& p = args.problem;
  const int64_t count = kKeyRows ? p.S : p.T, heads = kKeyRows ? p.Hkv : p.H;
  const int64_t blocks = CeilDiv(count, L::kRows) * heads * p.B;
  if (blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(CeilDiv(p.D, kOut)));
  Launch(in, "attention.backward", {grid, kWarps * kWarp, L::kBytes},
         BackwardRows<kD, kOut, kWarps, kColumns, kKeyRows>, args);
}

}  // namespace

void MakeDelta(const Arguments& in, const Backward& args, DType dtype) {
  const Problem& p = args.problem;
  const int64_t rows = p.B * p.H * p.T;
  if (rows == 0) return;
  const Grid grid{dim3(static_cast<unsigned>(CeilDiv(rows, kDeltaThreads / kWarp))), kDeltaThreads};
  DispatchFloat(dtype, [&]<class T>() { Launch(in, "attention.backward", grid, Deltas<T>, args); });
}

void BackwardBf16(const Arguments& in, Backward args) {
  const Problem& p = args.problem;
  const bool hopper = OnHopper(in, Wgmma::kBackward, p) && p.T >= 64 && p.S >= 64 &&
                      Copyable(args.q, p.T, p.H, p.B) && Copyable(args.dout, p.T, p.H, p.B) &&
                      Copyable(args.k, p.S, p.Hkv, p.B) && Copyable(args.v, p.S, p.Hkv, p.B);
  // of the kernels for keys below
  const int64_t columns = hopper ? kHopperQueries : p.D <= 64 ? 64 : 32;
  const int64_t blocks = CeilDiv(p.T, columns);
  if (hopper) {
    args.padded = blocks * columns;
    args.lse2 = in.Workspace<float>(p.B * p.H * args.padded);
    args.padded_delta = in.Workspace<float>(p.B * p.H * args.padded);
    args.intervals = in.Workspace<Interval>(p.B * args.padded);
  }
  MakeDelta(in, args, DType::kBF16);
  args.spans = in.Workspace<Span>(std::max<int64_t>(1, p.B * blocks));
  if (blocks > 0) {
    const Grid grid{dim3(static_cast<unsigned>(CeilDiv(p.B * blocks, kDeltaThreads / kWarp))),
                    kDeltaThreads};
    Launch(in, "attention.backward", grid, MakeSpans, args, columns, blocks);
  }
  if (hopper) return BackwardHopper(in, args);
  if (p.D <= 64) {
    LaunchRows<64, 64, 8, 64, false>(in, args);
    LaunchRows<64, 64, 8, 64, true>(in, args);
  } else if (p.D <= 128) {
    LaunchRows<128, 128, 8, 32, false>(in, args);
    LaunchRows<128, 128, 8, 32, true>(in, args);
  } else {
    LaunchRows<256, 128, 2, 32, false>(in, args);
    LaunchRows<256, 128, 2, 32, true>(in, args);
  }
}

}  // namespace fuselm::cuda::attention
