// levels: generic avx2 avx512 avx512bf16 amx
// Attention of new queries over a cache of keys and values, a ring of slots per row of the batch:
// the few queries of a decoding step by attention/decode.h, longer pieces of a prompt by the
// blocks of the training kernel. Forward only.
#include "native/cpu/attention/decode.h"
#include "native/cpu/attention/forward.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

Problem Check(const Invocation& call) {
  const View &q = call[0], &k = call[1], &v = call[2], &start = call[3], &first = call[4],
             &out = call[5];
  Problem p = Problem::Shapes(q, k, v, call.f64(0), call.i64(1));
  Require(Problem::LikeQuery(out, q), ErrorCode::kShape, "cached_attention: out must be like q");
  Require(start.dtype == DType::kI32 && start.rank == 1 && start.dim(0) == p.B, ErrorCode::kShape,
          "cached_attention: start must be i32 [B]");
  Require(!call.has(4) || (first.dtype == DType::kI32 && first.rank == 1 && first.dim(0) == p.B),
          ErrorCode::kShape, "cached_attention: first must be i32 [B]");
  p.start = &start;
  p.first = call.has(4) ? &first : nullptr;
  for (int64_t b = 0; b < p.B; ++b) {
    const int64_t at = start.as<int32_t>()[b * start.step(0)], end = at + p.T;
    if (at < 0) Throw(ErrorCode::kValue, "cached_attention: start[%d] is %d", int(b), int(at));
    // Past the capacity the oldest positions are gone: only a window that fits may roll over.
    if (end > p.S && !(p.window > 0 && p.window + p.T - 1 <= p.S))
      Throw(ErrorCode::kValue,
            "cached_attention: row %d ends at %lld, past a cache of %lld positions, which %lld "
            "queries with a window of %lld do not fit",
            int(b), static_cast<long long>(end), static_cast<long long>(p.S),
            static_cast<long long>(p.T), static_cast<long long>(p.window));
  }
  return p;
}

template <class Words, class T>
void Run(Invocation& call) {
  const Problem p = Check(call);
  if (p.B == 0 || p.T == 0 || p.H == 0) return;
  if (FewQueries(p))
    Decode<T>(call, p, call[0], call[1], call[2], call[5]);
  else
    RunForward<Words, T>(call, p, call[0], call[1], call[2], call[5], nullptr);
}

#if FUSELM_IS_AVX512BF16 || FUSELM_IS_AMX
constexpr uint32_t kDTypes = Mask(DType::kBF16);
void Forward(Invocation& call) { Run<Bf16Words, bf16>(call); }
#else
constexpr uint32_t kDTypes = kFloat;
void Forward(Invocation& call) {
  DispatchFloat(call[0].dtype, [&]<class T>() { Run<FloatWords, T>(call); });
}
#endif

FUSELM_KERNEL("cached_attention(q, k, v, start, first?) -> (out) [scale, window]", kDTypes,
              Forward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
