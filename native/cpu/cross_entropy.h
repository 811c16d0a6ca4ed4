// What the two cross-entropy kernels share: which token a row must predict, how many rows count,
// and the rows of softmax themselves. Everything in float32.
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

// What a row's loss is multiplied by: `scale` when given, else 1 / count of targets.
inline float LossFactor(const View& scale, int64_t count, const char* op) {
  if (!scale.data) {
    if (count == 0)
      Throw(ErrorCode::kValue, "%s: every label is ignored, so the mean loss is undefined", op);
    return 1.0f / static_cast<float>(count);
  }
  const float factor = *scale.as<float>();
  if (!std::isfinite(factor))
    Throw(ErrorCode::kValue, "%s: scale is not finite; it must be 1 / the number of targets", op);
  return factor;
}

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

// Sum of per-row losses: fixed chunks joined in order, so it does not depend on threads.
inline double SumOf(const float* rows, int64_t n) {
  double total = 0;
  for (int64_t r = 0; r < n; ++r) total += rows[r];
  return total;
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
