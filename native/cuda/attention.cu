// attention and attention.backward: softmax(scale Q K^T) V with one interval of keys for each
// query, grouped heads; nothing of size T x S exists. The kernels, their work and shared memory:
// attention/forward.cu, backward.cu (bf16), float32.cu, and for sm_90a forward_hopper.cu and
// backward_hopper.cu. D at most 256.
#include "native/cuda/attention/backward.cuh"
#include "native/cuda/attention/forward.cuh"

namespace fuselm::cuda::attention {
namespace {

void Attention(const Arguments& in) {
  const View &q = in[0], &out = in[5], &lse = in[6];
  Forward args{};
  args.problem = Problem::Check(in, q, in[1], in[2], 3, 4);
  Problem& p = args.problem;
  Require(LikeQuery(out, q), ErrorCode::kShape, "attention: out must be like q");
  Require(!in.has(6) || IsLse(lse, p), ErrorCode::kShape, "attention: lse must be f32 [B, H, T]");
  if (p.B == 0 || p.T == 0 || p.H == 0) return;
  p.aligned = p.aligned && RowsAligned16(out);
  args.q = ToHeads(q), args.k = ToHeads(in[1]), args.v = ToHeads(in[2]), args.out = ToHeads(out);
  args.lse = lse.as<float>();
  args.per = 1, args.splits = 1;
  args.rows = static_cast<int32_t>(p.T), args.head_sets = static_cast<int32_t>(p.H);
  if (q.dtype == DType::kBF16) {
    ForwardBf16(in, "attention", args);
  } else {
    ForwardF32(in, "attention", args);
  }
}

void AttentionBackward(const Arguments& in) {
  const View &dout = in[0], &q = in[1], &k = in[2], &v = in[3], &out = in[4], &lse = in[5];
  const View &dq = in[8], &dk = in[9], &dv = in[10];
  Backward args{};
  args.problem = Problem::Check(in, q, k, v, 6, 7);
  Problem& p = args.problem;
  Require(LikeQuery(dout, q) && LikeQuery(out, q) && LikeQuery(dq, q), ErrorCode::kShape,
          "attention.backward: dout, out and dq must be like q");
  Require(LikeQuery(dk, k) && LikeQuery(dv, k), ErrorCode::kShape,
          "attention.backward: dk and dv must be like k");
  Require(IsLse(lse, p), ErrorCode::kShape, "attention.backward: lse must be f32 [B, H, T]");
  if (p.B == 0) return;
  for (const View* x : {&dout, &out, &dq, &dk, &dv}) p.aligned = p.aligned && RowsAligned16(*x);
  args.dout = ToHeads(dout), args.q = ToHeads(q), args.k = ToHeads(k), args.v = ToHeads(v);
  args.out = ToHeads(out), args.dq = ToHeads(dq), args.dk = ToHeads(dk), args.dv = ToHeads(dv);
  args.lse = lse.as<float>();
  args.delta = in.Workspace<float>(std::max<int64_t>(1, p.B * p.H * p.T));
  if (q.dtype == DType::kBF16) {
    BackwardBf16(in, args);
  } else {
    MakeDelta(in, args, q.dtype);
    BackwardF32(in, args);
  }
}

FUSELM_CUDA_KERNEL("attention(q, k, v, first?, last?) -> (out, lse?) [scale, causal, window]",
                   kFloat, Attention);
FUSELM_CUDA_KERNEL(
    "attention.backward(dout, q, k, v, out, lse, first?, last?) -> (dq, dk, dv) [scale, causal, "
    "window]",
    kFloat, AttentionBackward);

}  // namespace
}  // namespace fuselm::cuda::attention
