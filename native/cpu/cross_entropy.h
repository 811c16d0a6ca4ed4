// What the losses share: which token a row must predict, how many rows count, what a row's loss and
// gradient are made of, and the rows of softmax themselves. Everything in float32.
#pragma once

#include <cmath>
#include <cstdint>

#include "native/core/kernel.h"
#include "native/cpu/fail.h"
#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// The label of each row. With `shift`, row t of a sequence predicts the label at t + 1 and the last
// row of each sequence predicts nothing: the only place where labels move.
struct Targets {
  const int32_t* labels;
  int64_t rows, length;  // length: of a sequence, the last axis of labels
  int32_t ignore;
  bool shift;

  static Targets Of(const View& labels, double ignore, bool shift) {
    const int64_t length = labels.rank == 0 ? 1 : labels.dim(-1);
    return {labels.as<int32_t>(), labels.numel(), length, static_cast<int32_t>(ignore), shift};
  }
  // `ignore` for a row without a target.
  int32_t operator()(int64_t row) const {
    if (!shift) return labels[row];
    return row % length + 1 == length ? ignore : labels[row + 1];
  }
  // Rows that have a target. Throws Error(kValue) for a target outside the vocabulary.
  int64_t Count(const char* op, int64_t vocabulary) const {
    int64_t count = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const int32_t target = (*this)(r);
      if (target == ignore) continue;
      if (target < 0 || target >= vocabulary)
        FailRange(op, "labels", shift ? r + 1 : r, target, vocabulary);
      ++count;
    }
    return count;
  }
};

// As lib/ops/cross_entropy.ts numbers them.
enum class Reduction { kMean = 0, kSum = 1, kNone = 2 };

// What a row's loss is multiplied by: `scale` when given, else 1, or for the mean 1 / count of
// targets.
inline float LossFactor(const View& scale, int64_t count, Reduction reduction, const char* op) {
  if (!scale.data) {
    if (reduction != Reduction::kMean) return 1.0f;
    if (count == 0)
      Throw(ErrorCode::kValue, "%s: every label is ignored, so the mean loss is undefined", op);
    return 1.0f / static_cast<float>(count);
  }
  const float factor = *scale.as<float>();
  if (!std::isfinite(factor))
    Throw(ErrorCode::kValue, "%s: scale is not finite; it must be 1 / the number of targets", op);
  return factor;
}

// The loss that all rows come to, or one per row; `losses` has a value per row.
struct LossOutput {
  float* losses;
  float* loss;  // null when the losses are the output

  static LossOutput Of(Invocation& inv, const View& loss, Reduction reduction, int64_t rows,
                       const char* op) {
    const bool each = reduction == Reduction::kNone;
    if (loss.dtype != DType::kF32 || !loss.contiguous() || loss.numel() != (each ? rows : 1))
      Throw(ErrorCode::kShape, "%s: loss must be f32, a scalar or one per label", op);
    if (each) return {loss.as<float>(), nullptr};
    return {inv.Workspace<float>(static_cast<size_t>(rows)), loss.as<float>()};
  }
  void Finish(int64_t rows, float factor) const {
    if (!loss) {
      for (int64_t r = 0; r < rows; ++r) losses[r] *= factor;
      return;
    }
    double total = 0;
    for (int64_t r = 0; r < rows; ++r) total += losses[r];
    *loss = static_cast<float>(total * factor);
  }
};

// The gradient of each row's loss, from that of what was returned.
struct RowGradient {
  const float* dloss;
  int64_t step;  // 0 for a scalar
  float factor;

  static RowGradient Of(const View& dloss, const View& scale, int64_t rows, const char* op) {
    if (dloss.dtype != DType::kF32 || !dloss.contiguous() ||
        (dloss.rank > 0 && dloss.numel() != rows))
      Throw(ErrorCode::kShape, "%s.backward: dloss must be f32, a scalar or one per label", op);
    return {dloss.as<float>(), dloss.rank == 0 ? 0 : 1, *scale.as<float>()};
  }
  float operator()(int64_t row) const { return dloss[row * step] * factor; }
};

// Beside -log p(label): label smoothing (PyTorch's: that share goes to all classes alike) and a
// penalty on log Z squared. The gradient of a logit is g (softmax p - label [is it] - uniform).
struct LossTerms {
  float smoothing, z_loss, vocabulary;

  float Loss(float lse, float label_logit, float sum_of_logits) const {
    const float loss = lse - (1 - smoothing) * label_logit + z_loss * lse * lse;
    return smoothing == 0 ? loss : loss - smoothing / vocabulary * sum_of_logits;
  }
  float softmax(float lse) const { return 1 + 2 * z_loss * lse; }
  float uniform() const { return smoothing / vocabulary; }
  float OfLabel(float p, float lse) const { return softmax(lse) * p - (1 - smoothing) - uniform(); }
};

// log of a sum of exponentials, kept as maximum and sum of exp(x - maximum).
struct LogSum {
  float max = -INFINITY;
  float sum = 0;

  void Join(LogSum other) {
    if (other.max == -INFINITY) return;
    if (max == -INFINITY) {
      *this = other;
      return;
    }
    const float top = other.max > max ? other.max : max;
    sum = sum * std::exp(max - top) + other.sum * std::exp(other.max - top);
    max = top;
  }
  float Log() const { return max + std::log(sum); }
};

template <class T>
inline LogSum LogSumOf(const T* x, int64_t n) {
  Vec top = Set(-INFINITY);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) top = Max(top, Load(x + i));
  float max = MaxOf(top);
  for (; i < n; ++i) {
    const float v = x[i];
    max = v > max ? v : max;
  }
  Vec sum = Zero();
  for (i = 0; i + kLanes <= n; i += kLanes) sum = sum + Exp(Load(x + i) - Set(max));
  float total = Sum(sum);
  for (; i < n; ++i) total += std::exp(static_cast<float>(x[i]) - max);
  return {max, total};
}

template <class T>
inline float SumOf(const T* x, int64_t n) {
  Vec sum = Zero();
  for (int64_t i = 0; i < n; i += kLanes) sum = sum + LoadN(x + i, n - i);
  return Sum(sum);
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
