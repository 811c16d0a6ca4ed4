// levels: generic avx2 avx512 avx512bf16 amx
// softmax(scale Q K^T) V with one allowed key interval per query, grouped heads, and its backward.
// Nothing of size T x S exists. The levels avx512bf16 (vdpbf16ps) and amx (tiles) take bf16 only;
// float32 runs the AVX-512 kernel there.
#include "native/cpu/attention/backward.h"
#include "native/cpu/attention/forward.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

#if FUSELM_IS_AVX512BF16 || FUSELM_IS_AMX
constexpr uint32_t kDTypes = Mask(DType::kBF16);
void Forward(Invocation& call) { ForwardAttention<Bf16Words, bf16>(call); }
void Backward(Invocation& call) { BackwardAttention<Bf16Words, bf16>(call); }
#else
constexpr uint32_t kDTypes = kFloat;
void Forward(Invocation& call) {
  DispatchFloat(call[0].dtype, [&]<class T>() { ForwardAttention<FloatWords, T>(call); });
}
void Backward(Invocation& call) {
  DispatchFloat(call[0].dtype, [&]<class T>() { BackwardAttention<FloatWords, T>(call); });
}
#endif

FUSELM_KERNEL("attention(q, k, v, first?, last?) -> (out, lse?) [scale, causal, window]", kDTypes,
              Forward);
FUSELM_KERNEL(
    "attention.backward(dout, q, k, v, out, lse, first?, last?) -> (dq, dk, dv) [scale, causal, "
    "window]",
    kDTypes, Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
