// Cross-entropy of dense logits, and its gradient. row.cuh spreads the work: the forward reads the
// logits once, the backward once more and writes as much; target: the copy bandwidth. What is NaN
// where the CPU throws stands in cross_entropy.cuh.
#include "native/cuda/cross_entropy.cuh"

namespace fuselm::cuda {
namespace {

constexpr const char* kOp = "crossEntropy";
constexpr int kJoinThreads = 1024;

__device__ __forceinline__ double BlockSumOfDoubles(double x) {
  __shared__ double parts[kJoinThreads / kWarp];
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) x += __shfl_xor_sync(kFullMask, x, d);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  double sum = 0;
  for (int w = 0; w < kJoinThreads / kWarp; ++w) sum += parts[w];
  return sum;
}

__global__ void __launch_bounds__(kJoinThreads) Finish(const LossOutput out, const Targets target) {
  double total = 0, count = 0;  // counts are exact below 2^53
  for (int64_t r = threadIdx.x; r < target.rows; r += kJoinThreads) {
    total += out.losses[r];
    count += target(r) != target.ignore;
  }
  total = BlockSumOfDoubles(total);
  count = BlockSumOfDoubles(count);
  float factor = 1;
  if (out.scale != nullptr) {
    factor = isfinite(*out.scale) ? *out.scale : QuietNan();
  } else if (out.mean) {
    factor = count > 0 ? 1.0f / static_cast<float>(count) : QuietNan();
  }
  if (out.loss == nullptr) {
    for (int64_t r = threadIdx.x; r < target.rows; r += kJoinThreads) out.losses[r] *= factor;
  } else if (threadIdx.x == 0) {
    *out.loss = static_cast<float>(total * factor);
  }
  if (out.factor != nullptr && threadIdx.x == 0) *out.factor = factor;
}

template <class T>
__global__ void __launch_bounds__(kRowThreads)
    ForwardRows(const T* logits, const Targets target, const LossTerms terms, int64_t v,
                float* losses, float* lse, int lanes) {
  const RowPlace at = RowPlace::Of(lanes);
  if (at.row >= target.rows) return;
  const int32_t label = target(at.row);
  const T* const row = logits + at.row * v;
  float loss = 0, log_sum = 0;   // an ignored row's are read by nobody
  if (label != target.ignore) {  // the same for all lanes of a row
    log_sum = ExpSumOf<T>(at, v, row).Log();
    float sum = 0;
    if (terms.smoothing != 0) {
      ReadRow(
          at, v, [&](int64_t, float x) { sum += x; }, row);
      sum = RowSum(at, sum);
    }
    loss = label >= 0 && label < v ? terms.Loss(log_sum, ToFloat(row[label]), sum) : QuietNan();
  }
  if (at.lane != 0) return;
  losses[at.row] = loss;
  if (lse != nullptr) lse[at.row] = log_sum;
}

template <class T>
__global__ void __launch_bounds__(kRowThreads)
    BackwardRows(const T* logits, const Targets target, const LossTerms terms, int64_t v,
                 const float* lse, const RowGradient gradient, T* dlogits, int lanes) {
  const RowPlace at = RowPlace::Of(lanes);
  if (at.row >= target.rows) return;
  const int32_t label = target(at.row);
  const T* const row = logits + at.row * v;
  T* const out = dlogits + at.row * v;
  if (label == target.ignore) {
    MapRow(at, v, out, [](int64_t) { return 0.0f; });
    return;
  }
  const bool known = label >= 0 && label < v;
  const float log_sum = lse[at.row], g = known ? gradient(at.row) : QuietNan();
  const float softmax = terms.Softmax(log_sum), uniform = terms.Uniform();
  MapRow(
      at, v, out,
      [&](int64_t i, float x) {
        const float rest = softmax * ExpOf<T>(x - log_sum) - uniform;
        return g * (i == label ? rest - (1 - terms.smoothing) : rest);
      },
      row);
}

LossTerms TermsOf(const Arguments& in, int64_t vocabulary) {
  return {static_cast<float>(in.f64(1)), static_cast<float>(in.f64(2)),
          static_cast<float>(vocabulary)};
}

// 0 logits, 1 labels, 2 scale?, 3 loss, 4 lse?, 5 factor?;
// [ignoreIndex, labelSmoothing, zLoss, shift, reduction]
void CrossEntropy(const Arguments& in) {
  const View& logits = in[0];
  const int64_t v = logits.dim(-1);
  const Targets target = Targets::Of(in[1], in.f64(0), in.flag(3));
  Require(v > 0 && logits.contiguous() && in[1].contiguous() && logits.rows() == target.rows &&
              (!in.has(4) || in[4].numel() == target.rows),
          ErrorCode::kShape, "crossEntropy: logits [.., V], labels [..] and lse [..] do not fit");
  const LossOutput out =
      LossOutput::Of(in, kOp, in[2], in[3], in[5], static_cast<Reduction>(in.i64(4)), target.rows);
  const int lanes = RowLanes(v);
  if (target.rows > 0) {
    DispatchFloat(logits.dtype, [&]<class T>() {
      Launch(in, kOp, RowGrid(target.rows, lanes), ForwardRows<T>, logits.as<T>(), target,
             TermsOf(in, v), v, out.losses, in[4].as<float>(), lanes);
    });
  }
  FinishLoss(in, kOp, out, target);
}

// 0 dloss, 1 logits, 2 labels, 3 lse, 4 scale, 5 dlogits;
// [ignoreIndex, labelSmoothing, zLoss, shift, reduction]
void CrossEntropyBackward(const Arguments& in) {
  const View &logits = in[1], &dlogits = in[5];
  const int64_t v = logits.dim(-1);
  const Targets target = Targets::Of(in[2], in.f64(0), in.flag(3));
  Require(v > 0 && logits.contiguous() && dlogits.contiguous() && in[2].contiguous() &&
              logits.rows() == target.rows && dlogits.numel() == logits.numel() &&
              dlogits.dtype == logits.dtype && in[3].numel() == target.rows,
          ErrorCode::kShape, "crossEntropy.backward: logits, labels, lse and dlogits do not fit");
  const RowGradient gradient = RowGradient::Of(in[0], in[4], target.rows, kOp);
  if (target.rows == 0) return;
  const int lanes = RowLanes(v);
  DispatchFloat(logits.dtype, [&]<class T>() {
    Launch(in, kOp, RowGrid(target.rows, lanes), BackwardRows<T>, logits.as<T>(), target,
           TermsOf(in, v), v, in[3].as<float>(), gradient, dlogits.as<T>(), lanes);
  });
}

FUSELM_CUDA_KERNEL(
    "cross_entropy(logits, labels, scale?) -> (loss, lse?, factor?) "
    "[ignoreIndex, labelSmoothing, zLoss, shift, reduction]",
    kFloat, CrossEntropy);
FUSELM_CUDA_KERNEL(
    "cross_entropy.backward(dloss, logits, labels, lse, scale) -> (dlogits) "
    "[ignoreIndex, labelSmoothing, zLoss, shift, reduction]",
    kFloat, CrossEntropyBackward);

}  // namespace

void FinishLoss(const Arguments& in, const char* op, const LossOutput& out, const Targets& target) {
  Launch(in, op, {dim3(1), kJoinThreads}, Finish, out, target);
}

}  // namespace fuselm::cuda
