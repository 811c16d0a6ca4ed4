// Attention forward in bf16 for tensor cores of sm_80 on: softmax(scale Q K^T) V, online.
//
// Work: a block of 4 warps takes 64 or 128 rows (queries of one head, or of all heads of a key head
// in decoding), a warp 16 or 32 of them, and walks over the blocks of 64 (D 64) or 32 keys that any
// of its rows may see; scores, sums and output stay in registers. A warp whose own rows see nothing
// of a block skips its arithmetic. The next block is copied (cp.async) meanwhile. Blocks with many
// keys come first.
// Shared memory: 49 KB at D 64, 65 KB at 128, 97 KB at 256.
// Rows of q, k and v that are not 16-byte aligned are copied by elements. Bound by the tensor cores
// in training, by reading the cache once in decoding. Row results do not depend on the batch.
#include "native/cuda/attention/forward.cuh"

#include "native/cuda/attention/tile.cuh"

namespace fuselm::cuda::attention {
namespace {

constexpr int kThreads = 128, kWarps = 4;

template <int kD, int kMTiles>
struct Layout {
  static constexpr int kRows = 16 * kMTiles * kWarps;
  static constexpr int kKeys = kD == 64 ? 64 : 32;
  static constexpr int64_t kBytes =
      (kRows + 4 * kKeys) * kD * sizeof(bf16) + kRows * sizeof(Interval);
};

template <int kD, int kMTiles>
__global__ void __launch_bounds__(kThreads) ForwardRows(const Forward args) {
  using L = Layout<kD, kMTiles>;
  constexpr int kKeys = L::kKeys, kOut = kD / 8, kScores = kKeys / 8;
  FUSELM_DYNAMIC_SHARED(bf16, q_tile);
  bf16* const tiles = q_tile + L::kRows * kD;  // [stage][k, v][kKeys][kD]
  auto* const intervals = reinterpret_cast<Interval*>(tiles + 4 * kKeys * kD);
  __shared__ Span spans[kWarps];

  const Problem& p = args.problem;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t4 = lane % 4;
  const Place at = PlaceOf(args, L::kRows);
  const int b = at.b, row0 = at.row0, kv = at.kv;
  const auto query = [&](int r) { return r / args.per; };
  const auto head = [&](int r) { return at.head_set * args.per + r % args.per; };

  // Intervals of the block's rows; rows past the end see nothing and restrict nothing.
  const int own = warp * 16 * kMTiles;  // this warp's first row
  Span mine = Span::None();
  for (int r = own + lane; r < own + 16 * kMTiles; r += kWarp) {
    Interval interval{0, -1};
    if (row0 + r < args.rows) {
      interval = p.Of(b, query(row0 + r));
      mine = mine.Join(Span::Of(interval));
    }
    intervals[r] = interval;
  }
  const Span span = WarpJoin(mine);
  if (lane == 0) spans[warp] = span;
  __syncthreads();
  Span all = spans[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) all = all.Join(spans[w]);
  const KeyRange keys = KeysOf(args, all, at.split, kKeys);

  const auto* const any = static_cast<const bf16*>(args.q.data);
  const auto load_keys = [&](int key, int stage) {
    const int limit = all.high + 1;
    bf16* const to = tiles + stage * 2 * kKeys * kD;
    const auto load = [&](const Heads& from, bf16* tile) {
      LoadTile<kD, kKeys, kThreads>(tile, p.D, p.aligned, any, [&](int r) -> const bf16* {
        return key + r < limit ? from.At<bf16>(b, SlotOf(p, key + r), kv) : nullptr;
      });
    };
    load(args.k, to);
    load(args.v, to + kKeys * kD);
    CpAsyncCommit();
  };
  float acc[kMTiles][kOut][4] = {};
  float top[kMTiles][2], sum[kMTiles][2];
#pragma unroll
  for (int m = 0; m < kMTiles; ++m) {
    top[m][0] = top[m][1] = -INFINITY;
    sum[m][0] = sum[m][1] = 0;
  }
  if (keys.begin < keys.end) {
    LoadTile<kD, L::kRows, kThreads>(q_tile, p.D, p.aligned, any, [&](int r) -> const bf16* {
      return row0 + r < args.rows ? args.q.At<bf16>(b, query(row0 + r), head(row0 + r)) : nullptr;
    });
    load_keys(keys.begin, 0);
  }
  int stage = 0;
  for (int key = keys.begin; key < keys.end; key += kKeys, stage ^= 1) {
    CpAsyncWait<0>();
    __syncthreads();  // this stage is here; nobody reads the other any more
    if (key + kKeys < keys.end) load_keys(key + kKeys, stage ^ 1);
    if (span.Misses(key, kKeys)) continue;
    const bf16* const k_tile = tiles + stage * 2 * kKeys * kD;
    const bf16* const v_tile = k_tile + kKeys * kD;
    float s[kMTiles][kScores][4] = {};
#pragma unroll
    for (int k = 0; k < kD / 16; ++k) {
      uint32_t a[kMTiles][4];
#pragma unroll
      for (int m = 0; m < kMTiles; ++m) LoadA<kD>(a[m], q_tile, own + 16 * m, k);
#pragma unroll
      for (int j = 0; j < kScores; j += 2) {
        uint32_t both[4];
        LoadB<kD>(both, k_tile, j * 8, k);
#pragma unroll
        for (int m = 0; m < kMTiles; ++m) MmaPair(s[m][j], s[m][j + 1], a[m], both);
      }
    }
    if (!span.Covers(key, kKeys)) {
#pragma unroll
      for (int m = 0; m < kMTiles; ++m) {
        const Interval low = intervals[own + 16 * m + g], high = intervals[own + 16 * m + g + 8];
#pragma unroll
        for (int j = 0; j < kScores; ++j) {
          const int from = key + j * 8 + t4 * 2;
          if (!low.Has(from)) s[m][j][0] = -INFINITY;
          if (!low.Has(from + 1)) s[m][j][1] = -INFINITY;
          if (!high.Has(from)) s[m][j][2] = -INFINITY;
          if (!high.Has(from + 1)) s[m][j][3] = -INFINITY;
        }
      }
    }
    // The maximum that exponents are taken from is replaced when it is exceeded by a factor of
    // 2^8, not before: sums stay far from overflow, and the output is seldom scaled.
    float shrink[kMTiles][2];
    bool shrinks = false;
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = -INFINITY;
#pragma unroll
        for (int j = 0; j < kScores; ++j) {
          most = fmaxf(most, fmaxf(s[m][j][2 * half], s[m][j][2 * half + 1]));
        }
        most = fmaxf(most, __shfl_xor_sync(kFullMask, most, 1));
        most = fmaxf(most, __shfl_xor_sync(kFullMask, most, 2)) * p.scale2;
        shrink[m][half] = 1;
        if (most > top[m][half] + 8) {
          shrink[m][half] = Exp2(top[m][half] - most);
          top[m][half] = most;
          shrinks = true;
        }
      }
    }
    if (__any_sync(kFullMask, shrinks)) {
#pragma unroll
      for (int m = 0; m < kMTiles; ++m) {
        sum[m][0] *= shrink[m][0];
        sum[m][1] *= shrink[m][1];
#pragma unroll
        for (int j = 0; j < kOut; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) acc[m][j][i] *= shrink[m][i / 2];
        }
      }
    }
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float base = top[m][half] == -INFINITY ? 0.0f : top[m][half];
#pragma unroll
        for (int j = 0; j < kScores; ++j) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            s[m][j][i] = Exp2(s[m][j][i] * p.scale2 - base);
            sum[m][half] += s[m][j][i];
          }
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      uint32_t a[kMTiles][4];
#pragma unroll
      for (int m = 0; m < kMTiles; ++m) ToA(a[m], s[m][2 * k], s[m][2 * k + 1]);
#pragma unroll
      for (int j = 0; j < kOut; j += 2) {
        uint32_t both[4];
        LoadBDown<kD>(both, v_tile, 16 * k, j);
#pragma unroll
        for (int m = 0; m < kMTiles; ++m) MmaPair(acc[m][j], acc[m][j + 1], a[m], both);
      }
    }
  }

  const bool valid = p.Valid(b);
#pragma unroll
  for (int m = 0; m < kMTiles; ++m) {
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sum[m][half];
      total += __shfl_xor_sync(kFullMask, total, 1);
      total += __shfl_xor_sync(kFullMask, total, 2);
      factor[half] = total > 0 ? 1.0f / total : 0.0f;
      if (total != total) factor[half] = total;  // NaN among the scores
      const int r = row0 + own + 16 * m + g + 8 * half;
      if (t4 == 0 && r < args.rows) {
        if (args.partial != nullptr) {
          args.stats[int64_t{at.set} * args.rows + r] = make_float2(top[m][half], total);
        } else if (args.lse != nullptr) {
          args.lse[(b * p.H + head(r)) * p.T + query(r)] =
              total == 0 ? -INFINITY : top[m][half] * kLn2 + logf(total);
        }
      }
      if (args.partial != nullptr && r < args.rows && total != 0) {
        float* const to = args.partial + (int64_t{at.set} * args.rows + r) * p.D;
#pragma unroll
        for (int j = 0; j < kOut; ++j) {
          const int column = j * 8 + t4 * 2;
          if (column < p.D) to[column] = acc[m][j][2 * half];
          if (column + 1 < p.D) to[column + 1] = acc[m][j][2 * half + 1];
        }
      }
      if (!valid) factor[half] = __uint_as_float(0x7fc00000u);
    }
    if (args.partial == nullptr)
      StoreTile<kD, kOut>(q_tile, own + 16 * m, acc[m], factor[0], factor[1]);
  }
  if (args.partial != nullptr) return;
  __syncwarp();  // a warp reads back its own rows alone
#pragma unroll
  for (int m = 0; m < kMTiles; ++m) {
    CopyOut<kD>(q_tile, own + 16 * m, p.D, p.aligned, [&](int r) -> bf16* {
      return row0 + r < args.rows ? args.out.At<bf16>(b, query(row0 + r), head(row0 + r)) : nullptr;
    });
  }
}

template <int kD, int kMTiles>
void LaunchRows(const Arguments& in, const char* op, Forward args) {
  using L = Layout<kD, kMTiles>;
  args.tiles = static_cast<int32_t>(CeilDiv(args.rows, L::kRows));
  const int64_t blocks = int64_t{args.tiles} * args.problem.B * args.head_sets * args.splits;
  Launch(in, op, {dim3(static_cast<unsigned>(blocks)), kThreads, L::kBytes},
         ForwardRows<kD, kMTiles>, args);
}

// One warp a row of one head set: the segments' sums on a common scale, in order.
constexpr int kJoinThreads = 128;
template <class T>
__global__ void __launch_bounds__(kJoinThreads) JoinRows(const Forward args) {
  const Problem& p = args.problem;
  const int64_t index =
      static_cast<int64_t>(blockIdx.x) * (kJoinThreads / kWarp) + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (index >= p.B * args.head_sets * args.rows) return;
  const auto place = static_cast<uint32_t>(index);
  const int r = static_cast<int>(place % args.rows);
  const int head_set = static_cast<int>(place / args.rows % args.head_sets);
  const int b = static_cast<int>(place / args.rows / args.head_sets);
  const int64_t set0 = (int64_t{b} * args.head_sets + head_set) * args.splits;
  float most = -INFINITY;
  for (int64_t s = lane; s < args.splits; s += kWarp) {
    most = fmaxf(most, args.stats[(set0 + s) * args.rows + r].x);
  }
  most = WarpMax(most);
  const float base = most == -INFINITY ? 0.0f : most;
  constexpr int kColumns = static_cast<int>(kLargestD) / kWarp;
  float total = 0, acc[kColumns] = {};
  for (int64_t s = 0; s < args.splits; ++s) {
    const float2 stat = args.stats[(set0 + s) * args.rows + r];
    if (stat.y == 0) continue;  // nothing was seen, and nothing written
    const float weight = Exp2(stat.x - base);
    total += stat.y * weight;
    const float* const from = args.partial + ((set0 + s) * args.rows + r) * p.D;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int column = lane + i * kWarp;
      if (column < p.D) acc[i] += from[column] * weight;
    }
  }
  float factor = total == 0 ? 0.0f : 1.0f / total;
  if (!p.Valid(b)) factor = __uint_as_float(0x7fc00000u);
  T* const out = args.out.At<T>(b, r / args.per, head_set * args.per + r % args.per);
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    const int column = lane + i * kWarp;
    if (column < p.D) out[column] = FromFloat<T>(acc[i] * factor);
  }
}

}  // namespace

void ForwardBf16(const Arguments& in, const char* op, Forward args) {
  const Problem& p = args.problem;
  const bool few = args.rows <= 64;
  if (OnHopper(in, Wgmma::kForward, p) && !few && args.per == 1 && args.partial == nullptr &&
      p.S > 0 && Copyable(args.q, p.T, p.H, p.B) && Copyable(args.k, p.S, p.Hkv, p.B) &&
      Copyable(args.v, p.S, p.Hkv, p.B)) {
    return ForwardHopper(in, op, args);
  }
  if (args.problem.D <= 64) {
    if (few) {
      LaunchRows<64, 1>(in, op, args);
    } else {
      LaunchRows<64, 2>(in, op, args);
    }
  } else if (args.problem.D <= 128) {
    if (few) {
      LaunchRows<128, 1>(in, op, args);
    } else {
      LaunchRows<128, 2>(in, op, args);
    }
  } else {
    LaunchRows<256, 1>(in, op, args);
  }
}

void JoinSplits(const Arguments& in, const char* op, const Forward& args, DType dtype) {
  const int64_t rows = args.problem.B * args.head_sets * args.rows;
  const Grid grid{dim3(static_cast<unsigned>(CeilDiv(rows, kJoinThreads / kWarp))), kJoinThreads};
  DispatchFloat(dtype, [&]<class T>() { Launch(in, op, grid, JoinRows<T>, args); });
}

}  // namespace fuselm::cuda::attention
