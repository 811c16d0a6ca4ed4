// cached_attention: new queries over a cache of keys and values, a ring of slots per row. The few
// queries of a decoding step go packed, all heads of a key head in one block, over segments of the
// cache whose results are joined in order; longer pieces by the blocks of the training kernel.
//
// A row that the CPU refuses when it runs (a negative start; a row past the cache, without a window
// that fits) cannot be seen by the launcher: its outputs are NaN.
#include "native/cuda/attention/forward.cuh"

namespace fuselm::cuda::attention {
namespace {

constexpr int64_t kQueries = 8, kRows = 64;  // more than these go by the training kernel
constexpr int64_t kShortest = 256, kMostSplits = 64;

// Positions of a segment, a multiple of 64: by shape alone, so that a row's sums do not depend on
// its batch, and few enough segments that their results are small beside the cache.
int64_t SegmentOf(int64_t positions) {
  return std::max(kShortest, CeilDiv(CeilDiv(positions, kMostSplits), 64) * 64);
}

void CachedAttention(const Arguments& in) {
  const View &q = in[0], &k = in[1], &v = in[2], &start = in[3], &first = in[4], &out = in[5];
  Forward args{};
  args.problem = Problem::Shapes(q, k, v, in.f64(0), in.i64(1));
  Problem& p = args.problem;
  Require(LikeQuery(out, q), ErrorCode::kShape, "cached_attention: out must be like q");
  Require(start.dtype == DType::kI32 && start.rank == 1 && start.dim(0) == p.B, ErrorCode::kShape,
          "cached_attention: start must be i32 [B]");
  Require(!in.has(4) || (first.dtype == DType::kI32 && first.rank == 1 && first.dim(0) == p.B),
          ErrorCode::kShape, "cached_attention: first must be i32 [B]");
  p.start = ToBounds(start);
  p.first = ToBounds(first);
  if (p.B == 0 || p.T == 0 || p.H == 0) return;
  p.aligned = p.aligned && RowsAligned16(out);
  args.q = ToHeads(q), args.k = ToHeads(k), args.v = ToHeads(v), args.out = ToHeads(out);
  const bool few = p.T == 1 || (p.T <= kQueries && p.T * p.group <= kRows);
  args.per = static_cast<int32_t>(few ? p.group : 1);
  args.rows = static_cast<int32_t>(p.T * args.per);
  args.head_sets = static_cast<int32_t>(p.H / args.per);
  args.splits = 1;
  if (few) {
    // one more block of 64 than the positions: a segment begins at a multiple of 64
    const int64_t seen = (p.window > 0 ? std::min(p.S, p.window + p.T) : p.S) + 64;
    args.segment = static_cast<int32_t>(SegmentOf(seen));
    args.splits = static_cast<int32_t>(CeilDiv(seen, args.segment));
    if (args.splits > 1) {
      const int64_t sets = p.B * args.head_sets * args.splits;
      args.partial = in.Workspace<float>(sets * args.rows * p.D);
      args.stats = in.Workspace<float2>(sets * args.rows);
    }
  }
  if (q.dtype == DType::kBF16) {
    ForwardBf16(in, "cached_attention", args);
  } else {
    ForwardF32(in, "cached_attention", args);
  }
  if (args.partial != nullptr) JoinSplits(in, "cached_attention", args, q.dtype);
}

FUSELM_CUDA_KERNEL("cached_attention(q, k, v, start, first?) -> (out) [scale, window]", kFloat,
                   CachedAttention);

}  // namespace
}  // namespace fuselm::cuda::attention
