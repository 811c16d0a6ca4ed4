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

// 0 logits, 1 labels, 2 scale?, 3 loss, 4 lse?, 5 factor?; [ignoreIndex, labelSmoothing, shift]
void CrossEntropy(Invocation& inv) {
  const View& logits = inv[0];
  const int64_t v = logits.dim(-1);
  const Targets target = Targets::Of(inv[1], inv.f64(0), inv.flag(2));
  Require(v > 0 && logits.contiguous() && inv[1].contiguous() && logits.rows() == target.rows &&
              (!inv.has(4) || inv[4].numel() == target.rows),
          ErrorCode::kShape, "crossEntropy: logits [.., V], labels [..] and lse [..] do not fit");
  const float smoothing = static_cast<float>(inv.f64(1));
  const float factor = LossFactor(inv[2], target.Count(kOp, v), kOp);
  float* losses = inv.Workspace<float>(static_cast<size_t>(target.rows));
  float* lse = inv.has(4) ? inv[4].as<float>() : nullptr;
  const int64_t group = RowsPerTile(v);
  DispatchFloat(logits.dtype, [&]<class T>() {
    inv.ParallelFor((target.rows + group - 1) / group, [&](int64_t tile, int) noexcept {
      const int64_t end = std::min(target.rows, (tile + 1) * group);
      for (int64_t r = tile * group; r < end; ++r) {
        const T* row = logits.as<T>() + r * v;
        const int32_t label = target(r);
        losses[r] = 0;
        if (lse) lse[r] = 0;  // an ignored row is read by nobody
        if (label == target.ignore) continue;
        const float log_sum = LogSumOf(row, v).Log();
        if (lse) lse[r] = log_sum;
        losses[r] = log_sum - (1 - smoothing) * static_cast<float>(row[label]);
        if (smoothing == 0) continue;
        Vec sum = Zero();
        for (int64_t i = 0; i < v; i += kLanes) sum = sum + LoadN(row + i, v - i);
        losses[r] -= smoothing / static_cast<float>(v) * Sum(sum);
      }
    });
  });
  *inv[3].as<float>() = static_cast<float>(SumOf(losses, target.rows) * factor);
  if (inv.has(5)) *inv[5].as<float>() = factor;
}

// 0 dloss, 1 logits, 2 labels, 3 lse, 4 scale, 5 dlogits; [ignoreIndex, labelSmoothing, shift]
void CrossEntropyBackward(Invocation& inv) {
  const View &logits = inv[1], &dlogits = inv[5];
  const int64_t v = logits.dim(-1);
  const Targets target = Targets::Of(inv[2], inv.f64(0), inv.flag(2));
  Require(v > 0 && logits.contiguous() && dlogits.contiguous() && inv[2].contiguous() &&
              logits.rows() == target.rows && dlogits.numel() == logits.numel() &&
              dlogits.dtype == logits.dtype && inv[3].numel() == target.rows,
          ErrorCode::kShape, "crossEntropy.backward: logits, labels, lse and dlogits do not fit");
  target.Count(kOp, v);
  const float g = *inv[0].as<float>() * *inv[4].as<float>();
  const float smoothing = static_cast<float>(inv.f64(1));
  const Vec uniform = Set(g * smoothing / static_cast<float>(v));
  const float* lse = inv[3].as<float>();
  const int64_t group = RowsPerTile(v);
  DispatchFloat(logits.dtype, [&]<class T>() {
    inv.ParallelFor((target.rows + group - 1) / group, [&](int64_t tile, int) noexcept {
      const int64_t end = std::min(target.rows, (tile + 1) * group);
      for (int64_t r = tile * group; r < end; ++r) {
        const T* row = logits.as<T>() + r * v;
        T* out = dlogits.as<T>() + r * v;
        const int32_t label = target(r);
        const bool ignored = label == target.ignore;
        for (int64_t i = 0; i < v; i += kLanes) {
          const Vec p = Exp(LoadN(row + i, v - i) - Set(lse[r]));
          StoreN(out + i, ignored ? Zero() : p * Set(g) - uniform, v - i);
        }
        if (ignored) continue;
        const float p = std::exp(static_cast<float>(row[label]) - lse[r]);
        out[label] = T(g * (p - (1 - smoothing) - smoothing / static_cast<float>(v)));
      }
    });
  });
}

FUSELM_KERNEL(
    "cross_entropy(logits, labels, scale?) -> (loss, lse?, factor?) "
    "[ignoreIndex, labelSmoothing, shift]",
    kFloat, CrossEntropy);
FUSELM_KERNEL(
    "cross_entropy.backward(dloss, logits, labels, lse, scale) -> (dlogits) "
    "[ignoreIndex, labelSmoothing, shift]",
    kFloat, CrossEntropyBackward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
