// Attention in float32, without tensor cores: forward and backward, exact to float32 rounding.
//
// Work: a warp a few rows (4 or 2 forward, 2 or 1 backward), a lane a column of the 32-column tile
// for scores, and a lane every 32nd element of D for the sums.
// Shared memory: rows and two tiles padded against bank conflicts, at most 88 KB (D 256). For
// checks and small models; bf16 is the fast path.
#include "native/cuda/attention/backward.cuh"
#include "native/cuda/attention/forward.cuh"
#include "native/cuda/attention/tile.cuh"

namespace fuselm::cuda::attention {
namespace {

constexpr int kThreads = 256, kWarps = 8, kTile = 32;
// Rows of a warp.
template <int kColumns>
constexpr int kForwardRows = kColumns == 8 ? 2 : 4;
template <int kColumns>
constexpr int kBackwardRows = kColumns == 8 ? 1 : 2;

template <int kColumns>
constexpr int kWidth = kColumns * kWarp;  // D, padded
template <int kColumns>
constexpr int kStride = kWidth<kColumns> + 4;

// `count` rows into shared memory, `stride` apart: row(r) is the source or null for zeros; columns
// past D are zeros.
template <int kPadded, class F>
__device__ __forceinline__ void CopyRows(float* to, int count, int stride, int64_t D, F&& row) {
  for (int i = static_cast<int>(threadIdx.x); i < count * kPadded; i += kThreads) {
    const int r = i / kPadded, c = i % kPadded;
    const float* const from = row(r);
    to[r * stride + c] = from != nullptr && c < D ? from[c] : 0.0f;
  }
}

template <int kPadded>
__device__ __forceinline__ float Dot(const float* a, const float* b) {
  float sum[4] = {};
#pragma unroll 4
  for (int i = 0; i < kPadded; i += 4) {
    const auto x = *reinterpret_cast<const Pack<float, 4>*>(a + i);
    const auto y = *reinterpret_cast<const Pack<float, 4>*>(b + i);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum[k] += x.v[k] * y.v[k];
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// acc[row] += sum over the tile's rows j of weight[row] of lane j times row j. `room` holds the
// warp's weights meanwhile.
template <int kColumns, int kOwn>
__device__ __forceinline__ void SumDown(float* room, const float (&weight)[kOwn], const float* tile,
                                        float (&acc)[kOwn][kColumns]) {
  const int lane = threadIdx.x % kWarp;
  __syncwarp();  // nobody reads the last weights any more
#pragma unroll
  for (int i = 0; i < kOwn; ++i) room[i * kTile + lane] = weight[i];
  __syncwarp();
#pragma unroll 2
  for (int j = 0; j < kTile; j += 4) {
    Pack<float, 4> w[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      w[i] = *reinterpret_cast<const Pack<float, 4>*>(room + i * kTile + j);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const float x = tile[(j + k) * kStride<kColumns> + lane + c * kWarp];
#pragma unroll
        for (int i = 0; i < kOwn; ++i) acc[i][c] += w[i].v[k] * x;
      }
    }
  }
}

template <int kColumns>
constexpr int64_t kForwardBytes = (kWarps * kForwardRows<kColumns> * (kWidth<kColumns> + kTile) +
                                   2 * kTile * kStride<kColumns>)*sizeof(float);

template <int kColumns>
__global__ void __launch_bounds__(kThreads, 2) ForwardRows(const Forward args) {
  constexpr int kPadded = kWidth<kColumns>, kOwn = kForwardRows<kColumns>;
  constexpr int kRows = kWarps * kOwn;
  FUSELM_DYNAMIC_SHARED(float, q_rows);
  float* const k_tile = q_rows + kRows * kPadded;
  float* const v_tile = k_tile + kTile * kStride<kColumns>;
  float* const weights = v_tile + kTile * kStride<kColumns>;  // [kRows][kTile]
  __shared__ Span spans[kWarps];
  const Problem& p = args.problem;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const Place at = PlaceOf(args, kRows);
  const int b = at.b, row0 = at.row0, kv = at.kv;
  const auto query = [&](int r) { return r / args.per; };
  const auto head = [&](int r) { return at.head_set * args.per + r % args.per; };

  const int own = warp * kOwn;
  Interval interval[kOwn];
  Span mine = Span::None();
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    interval[i] = {0, -1};
    if (row0 + own + i >= args.rows) continue;
    interval[i] = p.Of(b, query(row0 + own + i));
    mine = mine.Join(Span::Of(interval[i]));
  }
  if (lane == 0) spans[warp] = mine;
  __syncthreads();
  Span all = spans[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) all = all.Join(spans[w]);
  const KeyRange keys = KeysOf(args, all, at.split, kTile);

  float acc[kOwn][kColumns] = {}, top[kOwn], sum[kOwn] = {};
#pragma unroll
  for (int i = 0; i < kOwn; ++i) top[i] = -INFINITY;
  if (keys.begin < keys.end) {
    CopyRows<kPadded>(q_rows, kRows, kPadded, p.D, [&](int r) -> const float* {
      return row0 + r < args.rows ? args.q.At<float>(b, query(row0 + r), head(row0 + r)) : nullptr;
    });
  }
  for (int key = keys.begin; key < keys.end; key += kTile) {
    __syncthreads();  // nobody reads the last tile any more
    const auto load = [&](const Heads& from, float* to) {
      CopyRows<kPadded>(to, kTile, kStride<kColumns>, p.D, [&](int r) -> const float* {
        return key + r < keys.end ? from.At<float>(b, SlotOf(p, key + r), kv) : nullptr;
      });
    };
    load(args.k, k_tile);
    load(args.v, v_tile);
    __syncthreads();
    if (mine.Misses(key, kTile)) continue;
    float s[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      s[i] = Dot<kPadded>(q_rows + (own + i) * kPadded, k_tile + lane * kStride<kColumns>);
      const int column = key + lane;
      const float x = interval[i].Has(column) && column < keys.end ? s[i] * p.scale2 : -INFINITY;
      const float next = fmaxf(top[i], WarpMax(x));
      const float base = next == -INFINITY ? 0.0f : next;
      const float shrink = Exp2(top[i] - base);
      top[i] = next;
      s[i] = Exp2(x - base);
      sum[i] = sum[i] * shrink + s[i];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) acc[i][c] *= shrink;
    }
    SumDown<kColumns, kOwn>(weights + own * kTile, s, v_tile, acc);
  }
  const bool valid = p.Valid(b);
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const float total = WarpSum(sum[i]);
    const int r = row0 + own + i;
    if (r >= args.rows) continue;
    if (args.partial != nullptr) {
      if (lane == 0) args.stats[int64_t{at.set} * args.rows + r] = make_float2(top[i], total);
      float* const to = args.partial + (int64_t{at.set} * args.rows + r) * p.D;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (lane + c * kWarp < p.D) to[lane + c * kWarp] = acc[i][c];
      }
      continue;
    }
    if (lane == 0 && args.lse != nullptr) {
      args.lse[(b * p.H + head(r)) * p.T + query(r)] =
          total == 0 ? -INFINITY : top[i] * kLn2 + logf(total);
    }
    float factor = total == 0 ? 0.0f : 1.0f / total;
    if (!valid) factor = __uint_as_float(0x7fc00000u);
    float* const to = args.out.At<float>(b, query(r), head(r));
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (lane + c * kWarp < p.D) to[lane + c * kWarp] = acc[i][c] * factor;
    }
  }
}

template <int kColumns>
constexpr int64_t kBackwardBytes =
    (kWarps * kBackwardRows<kColumns> * (2 * kWidth<kColumns> + kTile) +
     2 * kTile * kStride<kColumns>)*sizeof(float);

template <int kColumns, bool kKeyRows>
__global__ void __launch_bounds__(kThreads, 2) BackwardRows(const Backward args) {
  constexpr int kPadded = kWidth<kColumns>, kOwn = kBackwardRows<kColumns>;
  constexpr int kRows = kWarps * kOwn;
  FUSELM_DYNAMIC_SHARED(float, rows0);
  float* const rows1 = rows0 + kRows * kPadded;
  float* const tile0 = rows1 + kRows * kPadded;
  float* const tile1 = tile0 + kTile * kStride<kColumns>;
  float* const weights = tile1 + kTile * kStride<kColumns>;  // [kRows][kTile]
  __shared__ Span spans[kWarps];
  const Problem& p = args.problem;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t count = kKeyRows ? p.S : p.T, heads = kKeyRows ? p.Hkv : p.H;
  const auto tiles = static_cast<unsigned>((count + kRows - 1) / kRows);
  const int64_t row0 = int64_t{blockIdx.x % tiles} * kRows;
  const int head = static_cast<int>(blockIdx.x / tiles % static_cast<unsigned>(heads));
  const int b = static_cast<int>(blockIdx.x / tiles / static_cast<unsigned>(heads));
  const Heads &from0 = kKeyRows ? args.k : args.q, &from1 = kKeyRows ? args.v : args.dout;
  const Heads &over0 = kKeyRows ? args.q : args.k, &over1 = kKeyRows ? args.dout : args.v;
  const auto rows_of = [&](const Heads& from, float* to) {
    CopyRows<kPadded>(to, kRows, kPadded, p.D, [&](int r) -> const float* {
      return row0 + r < count ? from.At<float>(b, row0 + r, head) : nullptr;
    });
  };
  rows_of(from0, rows0);
  rows_of(from1, rows1);

  const int own = warp * kOwn;
  Interval interval[kOwn] = {};
  float lse2[kOwn] = {}, delta[kOwn] = {};
  int64_t begin = 0, end;  // tiles of columns
  if constexpr (kKeyRows) {
    const BlockRange range = QueriesOf(p, row0, kRows, kTile);
    begin = range.begin, end = range.end;
  } else {
    Span mine = Span::None();
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int64_t t = row0 + own + i;
      interval[i] = {0, -1};
      if (t >= p.T) continue;
      interval[i] = p.Of(b, t);
      lse2[i] = args.lse[(b * p.H + head) * p.T + t] * kLog2E;
      delta[i] = args.delta[(b * p.H + head) * p.T + t];
      mine = mine.Join(Span::Of(interval[i]));
    }
    if (lane == 0) spans[warp] = mine;
    __syncthreads();
    Span all = spans[0];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) all = all.Join(spans[w]);
    begin = all.low / kTile;
    end = all.high < 0 ? 0 : all.high / kTile + 1;
  }

  constexpr int kSecond = kKeyRows ? kColumns : 1;
  float acc0[kOwn][kColumns] = {}, acc1[kOwn][kSecond] = {};
  const int64_t members = kKeyRows ? p.group : 1;
  for (int64_t member = 0; member < members; ++member) {
    const int64_t over_head = kKeyRows ? head * p.group + member : head / static_cast<int>(p.group);
    for (int64_t block = begin; block < end; ++block) {
      const int64_t column = block * kTile + lane;
      Interval sees{0, -1};
      float own_lse2 = 0, own_delta = 0;
      if constexpr (kKeyRows) {
        if (column < p.T) {
          sees = p.Of(b, column);
          own_lse2 = args.lse[(b * p.H + over_head) * p.T + column] * kLog2E;
          own_delta = args.delta[(b * p.H + over_head) * p.T + column];
        }
        // the same in every warp
        if (!__any_sync(kFullMask, !sees.empty() && sees.low < row0 + kRows && sees.high >= row0)) {
          continue;
        }
      }
      __syncthreads();  // nobody reads the last tile any more
      const int64_t limit = kKeyRows ? p.T : p.S;
      const auto load = [&](const Heads& from, float* to) {
        CopyRows<kPadded>(to, kTile, kStride<kColumns>, p.D, [&](int r) -> const float* {
          return block * kTile + r < limit ? from.At<float>(b, block * kTile + r, over_head)
                                           : nullptr;
        });
      };
      load(over0, tile0);
      load(over1, tile1);
      __syncthreads();
      float probability[kOwn], ds[kOwn];
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const float s = Dot<kPadded>(rows0 + (own + i) * kPadded, tile0 + lane * kStride<kColumns>);
        const float dp =
            Dot<kPadded>(rows1 + (own + i) * kPadded, tile1 + lane * kStride<kColumns>);
        const bool allowed = kKeyRows ? sees.Has(static_cast<int32_t>(row0 + own + i))
                                      : interval[i].Has(static_cast<int32_t>(column));
        const float base = kKeyRows ? own_lse2 : lse2[i];
        probability[i] = allowed ? Exp2(s * p.scale2 - base) : 0.0f;
        ds[i] = allowed ? probability[i] * (dp - (kKeyRows ? own_delta : delta[i])) : 0.0f;
      }
      SumDown<kColumns, kOwn>(weights + own * kTile, ds, tile0, acc0);
      if constexpr (kKeyRows) {
        SumDown<kColumns, kOwn>(weights + own * kTile, probability, tile1, acc1);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (row0 + own + i >= count) continue;
    float* const to0 = (kKeyRows ? args.dk : args.dq).At<float>(b, row0 + own + i, head);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int at = lane + c * kWarp;
      if (at < p.D) to0[at] = acc0[i][c] * p.scale;
      if constexpr (kKeyRows) {
        if (at < p.D) args.dv.At<float>(b, row0 + own + i, head)[at] = acc1[i][c];
      }
    }
  }
}

template <int kColumns>
void LaunchForward(const Arguments& in, const char* op, Forward args) {
  args.tiles = static_cast<int32_t>(CeilDiv(args.rows, kWarps * kForwardRows<kColumns>));
  const int64_t blocks = int64_t{args.tiles} * args.problem.B * args.head_sets * args.splits;
  Launch(in, op, {dim3(static_cast<unsigned>(blocks)), kThreads, kForwardBytes<kColumns>},
         ForwardRows<kColumns>, args);
}

template <int kColumns>
void LaunchBackward(const Arguments& in, const Backward& args) {
  const Problem& p = args.problem;
  const auto blocks = [&](int64_t count, int64_t heads) {
    return dim3(
        static_cast<unsigned>(CeilDiv(count, kWarps * kBackwardRows<kColumns>) * heads * p.B));
  };
  if (p.T > 0 && p.H > 0) {
    Launch(in, "attention.backward", {blocks(p.T, p.H), kThreads, kBackwardBytes<kColumns>},
           BackwardRows<kColumns, false>, args);
  }
  if (p.S > 0) {
    Launch(in, "attention.backward", {blocks(p.S, p.Hkv), kThreads, kBackwardBytes<kColumns>},
           BackwardRows<kColumns, true>, args);
  }
}

}  // namespace

void ForwardF32(const Arguments& in, const char* op, Forward args) {
  if (args.problem.D <= 64) {
    LaunchForward<2>(in, op, args);
  } else if (args.problem.D <= 128) {
    LaunchForward<4>(in, op, args);
  } else {
    LaunchForward<8>(in, op, args);
  }
}

void BackwardF32(const Arguments& in, const Backward& args) {
  if (args.problem.D <= 64) {
    LaunchBackward<2>(in, args);
  } else if (args.problem.D <= 128) {
    LaunchBackward<4>(in, args);
  } else {
    LaunchBackward<8>(in, args);
  }
}

}  // namespace fuselm::cuda::attention
