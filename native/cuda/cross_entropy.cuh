// What the losses over dense logits share: which label a row must predict, how many rows count,
// what a row's loss and gradient are made of. Everything in float32.
//
// Data cannot be looked at before a launch, so what is an error on the CPU is NaN here: the loss
// and the gradients of a row whose label is outside the vocabulary, the mean of no targets, and all
// losses by a scale that is not finite.
#pragma once

#include "native/cuda/row.cuh"

namespace fuselm::cuda {

// With `shift`, row t of a sequence predicts the label at t + 1 and the last row of each sequence
// predicts nothing: the only place where labels move.
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
  __device__ __forceinline__ int32_t operator()(int64_t row) const {
    if (!shift) return labels[row];
    return row % length + 1 == length ? ignore : labels[row + 1];
  }
};

// As lib/ops/cross_entropy.ts numbers them.
enum class Reduction { kMean = 0, kSum = 1, kNone = 2 };

// Where rows leave their losses, and how these come to the output.
struct LossOutput {
  float* losses;       // one per row
  float* loss;         // null when the losses are the output
  const float* scale;  // null for that of the reduction
  float* factor;       // what the losses are multiplied by; may be null
  bool mean;

  // `op` names the loss in messages.
  static LossOutput Of(const Arguments& in, const char* op, const View& scale, const View& loss,
                       const View& factor, Reduction reduction, int64_t rows) {
    const bool each = reduction == Reduction::kNone;
    if (loss.dtype != DType::kF32 || !loss.contiguous() || loss.numel() != (each ? rows : 1)) {
      throw Error(ErrorCode::kShape,
                  std::string(op) + ": loss must be f32, a scalar or one per label");
    }
    return {each ? loss.as<float>() : in.Workspace<float>(rows), each ? nullptr : loss.as<float>(),
            scale.as<float>(), factor.as<float>(), reduction == Reduction::kMean};
  }
};

// Joins the rows' losses: one block, sums in double in a fixed order.
void FinishLoss(const Arguments& in, const char* op, const LossOutput& out, const Targets& target);

// The gradient of each row's loss, from that of what was returned.
struct RowGradient {
  const float* dloss;
  int64_t step;  // 0 for a scalar
  const float* factor;

  static RowGradient Of(const View& dloss, const View& factor, int64_t rows, const char* op) {
    if (dloss.dtype != DType::kF32 || !dloss.contiguous() ||
        (dloss.rank > 0 && dloss.numel() != rows)) {
      throw Error(ErrorCode::kShape,
                  std::string(op) + ".backward: dloss must be f32, a scalar or one per label");
    }
    return {dloss.as<float>(), dloss.rank == 0 ? 0 : 1, factor.as<float>()};
  }
  __device__ __forceinline__ float operator()(int64_t row) const {
    return dloss[row * step] * *factor;
  }
};

// Beside -log p(label): label smoothing (PyTorch's: that share goes to all classes alike) and a
// penalty on log Z squared. The gradient of a logit is g (softmax p - label [is it] - uniform).
struct LossTerms {
  float smoothing, z_loss, vocabulary;

  __device__ __forceinline__ float Loss(float lse, float label_logit, float sum_of_logits) const {
    const float loss = lse - (1 - smoothing) * label_logit + z_loss * lse * lse;
    return smoothing == 0 ? loss : loss - smoothing / vocabulary * sum_of_logits;
  }
  __device__ __forceinline__ float Softmax(float lse) const { return 1 + 2 * z_loss * lse; }
  __device__ __forceinline__ float Uniform() const { return smoothing / vocabulary; }
};

__device__ __forceinline__ float QuietNan() { return __uint_as_float(0x7fc00000u); }

}  // namespace fuselm::cuda
