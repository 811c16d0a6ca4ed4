// levels: generic avx2 avx512
// Cross-entropy of dense logits, and its gradient.
#include "native/cpu/cross_entropy.h"

#include <algorithm>

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr const char* kOp = "crossEntropy";

// Rows per tile: about 256 K logits.
int64_t RowsPerTile(int64_t vocabulary) {
  return std::max<int64_t>(1, (int64_t{1} << 18) / std::max<int64_t>(1, vocabulary));
}

LossTerms TermsOf(const Invocation& inv, int64_t vocabulary) {
  return {static_cast<float>(inv.f64(1)), static_cast<float>(inv.f64(2)),
          static_cast<float>(vocabulary)};
}

// 0 logits, 1 labels, 2 scale?, 3 loss, 4 lse?, 5 factor?;
// [ignoreIndex, labelSmoothing, zLoss, shift, reduction]
void CrossEntropy(Invocation& inv) {
  const View& logits = inv[0];
  const int64_t v = logits.dim(-1);
  const Targets target = Targets::Of(inv[1], inv.f64(0), inv.flag(3));
  const Reduction reduction = static_cast<Reduction>(inv.i64(4));
  Require(v > 0 && logits.contiguous() && inv[1].contiguous() && logits.rows() == target.rows &&
              (!inv.has(4) || inv[4].numel() == target.rows),
          ErrorCode::kShape, "crossEntropy: logits [.., V], labels [..] and lse [..] do not fit");
  const LossTerms terms = TermsOf(inv, v);
  const float factor = LossFactor(inv[2], target.Count(kOp, v), reduction, kOp);
  const LossOutput out = LossOutput::Of(inv, inv[3], reduction, target.rows, kOp);
  float* lse = inv.has(4) ? inv[4].as<float>() : nullptr;
  const int64_t group = RowsPerTile(v);
  DispatchFloat(logits.dtype, [&]<class T>() {
    inv.ParallelFor((target.rows + group - 1) / group, [&](int64_t tile, int) noexcept {
      const int64_t end = std::min(target.rows, (tile + 1) * group);
      for (int64_t r = tile * group; r < end; ++r) {
        const T* row = logits.as<T>() + r * v;
        const int32_t label = target(r);
        out.losses[r] = 0;
        if (lse) lse[r] = 0;  // an ignored row is read by nobody
        if (label == target.ignore) continue;
        const float log_sum = LogSumOf(row, v).Log();
        if (lse) lse[r] = log_sum;
        const float sum = terms.smoothing == 0 ? 0 : SumOf(row, v);
        out.losses[r] = terms.Loss(log_sum, static_cast<float>(row[label]), sum);
      }
    });
  });
  out.Finish(target.rows, factor);
  if (inv.has(5)) *inv[5].as<float>() = factor;
}

// 0 dloss, 1 logits, 2 labels, 3 lse, 4 scale, 5 dlogits;
// [ignoreIndex, labelSmoothing, zLoss, shift, reduction]
void CrossEntropyBackward(Invocation& inv) {
  const View &logits = inv[1], &dlogits = inv[5];
  const int64_t v = logits.dim(-1);
  const Targets target = Targets::Of(inv[2], inv.f64(0), inv.flag(3));
  Require(v > 0 && logits.contiguous() && dlogits.contiguous() && inv[2].contiguous() &&
              logits.rows() == target.rows && dlogits.numel() == logits.numel() &&
              dlogits.dtype == logits.dtype && inv[3].numel() == target.rows,
          ErrorCode::kShape, "crossEntropy.backward: logits, labels, lse and dlogits do not fit");
  target.Count(kOp, v);
  const RowGradient gradient = RowGradient::Of(inv[0], inv[4], target.rows, kOp);
  const LossTerms terms = TermsOf(inv, v);
  const float* lse = inv[3].as<float>();
  const int64_t group = RowsPerTile(v);
  DispatchFloat(logits.dtype, [&]<class T>() {
    inv.ParallelFor((target.rows + group - 1) / group, [&](int64_t tile, int) noexcept {
      const int64_t end = std::min(target.rows, (tile + 1) * group);
      for (int64_t r = tile * group; r < end; ++r) {
        const T* row = logits.as<T>() + r * v;
        T* out = dlogits.as<T>() + r * v;
        const int32_t label = target(r);
        if (label == target.ignore) {
          std::fill(out, out + v, T(0.0f));
          continue;
        }
        const float g = gradient(r);
        const Vec log_sum = Set(lse[r]), weight = Set(g * terms.softmax(lse[r])),
                  uniform = Set(g * terms.uniform());
        for (int64_t i = 0; i < v; i += kLanes)
          StoreN(out + i, Exp(LoadN(row + i, v - i) - log_sum) * weight - uniform, v - i);
        const float p = std::exp(static_cast<float>(row[label]) - lse[r]);
        out[label] = T(g * terms.OfLabel(p, lse[r]));
      }
    });
  });
}

FUSELM_KERNEL(
    "cross_entropy(logits, labels, scale?) -> (loss, lse?, factor?) "
    "[ignoreIndex, labelSmoothing, zLoss, shift, reduction]",
    kFloat, CrossEntropy);
FUSELM_KERNEL(
    "cross_entropy.backward(dloss, logits, labels, lse, scale) -> (dlogits) "
    "[ignoreIndex, labelSmoothing, zLoss, shift, reduction]",
    kFloat, CrossEntropyBackward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
