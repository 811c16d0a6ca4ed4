// levels: generic avx2 avx512
// alpha T^2 KL(teacher || student) at temperature T + (1 - alpha) cross-entropy of the labels, and
// its gradient alpha T (p_T - q_T) + (1 - alpha) (p - onehot). Computed in float32. Two reads of
// both rows forward (maxima, sums), one backward; a row of 50 k bf16 logits stays in L2 between
// them.
#include <algorithm>
#include <limits>

#include "native/cpu/cross_entropy.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr const char* kOp = "distillationLoss";
// In place of -inf, and past the end of a row: its exponential is 0, and so is 0 times it.
constexpr float kLowest = -std::numeric_limits<float>::max() / 4;

template <class T>
inline Vec LoadLogits(const T* x, int64_t n) {
  if (n >= kLanes) return Max(Set(kLowest), Load(x));
  alignas(64) float part[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) part[i] = i < n ? static_cast<float>(x[i]) : kLowest;
  return Max(Set(kLowest), Load(part));
}

int64_t RowsPerTile(int64_t vocabulary) {
  return std::max<int64_t>(1, (int64_t{1} << 17) / std::max<int64_t>(1, vocabulary));
}

struct Weights {
  float temperature, alpha;
};

// Log-sums of a row: of the student, and of both at the temperature.
struct LogSums {
  float student, soft_student, soft_teacher;
};

template <class S, class T>
float RowLoss(const S* s, const T* t, int64_t v, int32_t label, Weights w, LogSums& lse) {
  Vec top_s = Set(kLowest), top_t = Set(kLowest);
  for (int64_t i = 0; i < v; i += kLanes) {
    top_s = Max(top_s, LoadLogits(s + i, v - i));
    top_t = Max(top_t, LoadLogits(t + i, v - i));
  }
  const float max_s = MaxOf(top_s), max_t = MaxOf(top_t);
  const Vec inverse = Set(1 / w.temperature);
  Vec hard = Zero(), soft = Zero(), teacher = Zero(), cross = Zero();
  for (int64_t i = 0; i < v; i += kLanes) {
    const Vec a = LoadLogits(s + i, v - i) - Set(max_s);
    const Vec b = LoadLogits(t + i, v - i) - Set(max_t);
    hard = hard + Exp(a);
    soft = soft + Exp(a * inverse);
    const Vec q = Exp(b * inverse);
    teacher = teacher + q;
    cross = Fma(q, (b - a) * inverse, cross);
  }
  const float log_hard = std::log(Sum(hard)), log_soft = std::log(Sum(soft));
  const float sum = Sum(teacher), log_teacher = std::log(sum);
  lse = {max_s + log_hard, max_s / w.temperature + log_soft, max_t / w.temperature + log_teacher};
  // sum q (log q - log p): the maxima cancel
  const float divergence = Sum(cross) / sum - log_teacher + log_soft;
  const float entropy = log_hard - (static_cast<float>(s[label]) - max_s);
  return w.alpha * w.temperature * w.temperature * divergence + (1 - w.alpha) * entropy;
}

template <class S, class T>
void RowGradients(const S* s, const T* t, int64_t v, int32_t label, Weights w, LogSums lse, float g,
                  S* out) {
  const Vec inverse = Set(1 / w.temperature);
  const Vec hard = Set(g * (1 - w.alpha)), soft = Set(g * w.alpha * w.temperature);
  const Vec lse_s = Set(lse.student), lse_soft = Set(lse.soft_student),
            lse_t = Set(lse.soft_teacher);
  for (int64_t i = 0; i < v; i += kLanes) {
    const Vec a = LoadLogits(s + i, v - i), b = LoadLogits(t + i, v - i);
    const Vec away = Exp(a * inverse - lse_soft) - Exp(b * inverse - lse_t);
    StoreN(out + i, Fma(soft, away, hard * Exp(a - lse_s)), v - i);
  }
  const float a = static_cast<float>(s[label]), b = static_cast<float>(t[label]);
  const float away = std::exp(a / w.temperature - lse.soft_student) -
                     std::exp(b / w.temperature - lse.soft_teacher);
  const float of_label = std::exp(a - lse.student) - 1;
  out[label] = S(g * (w.alpha * w.temperature * away + (1 - w.alpha) * of_label));
}

// 0 logits, 1 teacher, 2 labels, 3 scale?, 4 loss, 5 lse?, 6 factor?;
// [temperature, alpha, ignoreIndex, shift, reduction]
void Forward(Invocation& inv) {
  const View &logits = inv[0], &teacher = inv[1];
  const int64_t v = logits.dim(-1);
  const Targets target = Targets::Of(inv[2], inv.f64(2), inv.flag(3));
  const Reduction reduction = static_cast<Reduction>(inv.i64(4));
  Require(v > 0 && logits.contiguous() && teacher.contiguous() && teacher.dim(-1) == v &&
              teacher.numel() == logits.numel() && inv[2].contiguous() &&
              logits.rows() == target.rows && (!inv.has(5) || inv[5].numel() == 3 * target.rows),
          ErrorCode::kShape, "distillationLoss: logits, teacher, labels and lse do not fit");
  const Weights weights{static_cast<float>(inv.f64(0)), static_cast<float>(inv.f64(1))};
  const float factor = LossFactor(inv[3], target.Count(kOp, v), reduction, kOp);
  const LossOutput out = LossOutput::Of(inv, inv[4], reduction, target.rows, kOp);
  LogSums* lse = inv.has(5) ? reinterpret_cast<LogSums*>(inv[5].as<float>()) : nullptr;
  const int64_t group = RowsPerTile(v);
  DispatchFloat(logits.dtype, [&]<class S>() {
    DispatchFloat(teacher.dtype, [&]<class T>() {
      inv.ParallelFor((target.rows + group - 1) / group, [&](int64_t tile, int) noexcept {
        const int64_t end = std::min(target.rows, (tile + 1) * group);
        for (int64_t r = tile * group; r < end; ++r) {
          const int32_t label = target(r);
          LogSums sums{};  // an ignored row's are read by nobody
          out.losses[r] = label == target.ignore
                              ? 0
                              : RowLoss(logits.as<S>() + r * v, teacher.as<T>() + r * v, v, label,
                                        weights, sums);
          if (lse) lse[r] = sums;
        }
      });
    });
  });
  out.Finish(target.rows, factor);
  if (inv.has(6)) *inv[6].as<float>() = factor;
}

// 0 dloss, 1 logits, 2 teacher, 3 labels, 4 lse, 5 scale, 6 dlogits;
// [temperature, alpha, ignoreIndex, shift, reduction]
void Backward(Invocation& inv) {
  const View &logits = inv[1], &teacher = inv[2], &dlogits = inv[6];
  const int64_t v = logits.dim(-1);
  const Targets target = Targets::Of(inv[3], inv.f64(2), inv.flag(3));
  Require(v > 0 && logits.contiguous() && teacher.contiguous() && dlogits.contiguous() &&
              teacher.dim(-1) == v && teacher.numel() == logits.numel() && inv[3].contiguous() &&
              logits.rows() == target.rows && dlogits.numel() == logits.numel() &&
              dlogits.dtype == logits.dtype && inv[4].numel() == 3 * target.rows,
          ErrorCode::kShape,
          "distillationLoss.backward: logits, teacher, labels, lse and dlogits do not fit");
  target.Count(kOp, v);
  const RowGradient gradient = RowGradient::Of(inv[0], inv[5], target.rows, kOp);
  const Weights weights{static_cast<float>(inv.f64(0)), static_cast<float>(inv.f64(1))};
  const LogSums* lse = reinterpret_cast<const LogSums*>(inv[4].as<float>());
  const int64_t group = RowsPerTile(v);
  DispatchFloat(logits.dtype, [&]<class S>() {
    DispatchFloat(teacher.dtype, [&]<class T>() {
      inv.ParallelFor((target.rows + group - 1) / group, [&](int64_t tile, int) noexcept {
        const int64_t end = std::min(target.rows, (tile + 1) * group);
        for (int64_t r = tile * group; r < end; ++r) {
          S* out = dlogits.as<S>() + r * v;
          const int32_t label = target(r);
          if (label == target.ignore)
            std::fill(out, out + v, S(0.0f));
          else
            RowGradients(logits.as<S>() + r * v, teacher.as<T>() + r * v, v, label, weights, lse[r],
                         gradient(r), out);
        }
      });
    });
  });
}

FUSELM_KERNEL(
    "distillation_loss(logits, teacher, labels, scale?) -> (loss, lse?, factor?) "
    "[temperature, alpha, ignoreIndex, shift, reduction]",
    kFloat, Forward);
FUSELM_KERNEL(
    "distillation_loss.backward(dloss, logits, teacher, labels, lse, scale) -> (dlogits) "
    "[temperature, alpha, ignoreIndex, shift, reduction]",
    kFloat, Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
