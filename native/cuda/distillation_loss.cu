// alpha T^2 KL(teacher || student) at temperature T + (1 - alpha) cross-entropy of the labels, and
// its gradient alpha T (p_T - q_T) + (1 - alpha) (p - onehot), in float32. row.cuh spreads the
// work: two reads of both rows forward (maxima, sums; the second from cache), one backward. What is
// NaN where the CPU throws stands in cross_entropy.cuh.
#include "native/cuda/cross_entropy.cuh"

namespace fuselm::cuda {
namespace {

constexpr const char* kOp = "distillationLoss";
// In place of -inf: its exponential is 0, and so is 0 times it.
constexpr float kLowest = -3.4028234664e38f / 4;

__device__ __forceinline__ float Finite(float x) { return x < kLowest ? kLowest : x; }

struct Problem {
  Targets target;
  int64_t v;
  const void *logits, *teacher;
  float temperature, alpha;
  float* lse;     // [rows][3]: of the student, and of both at the temperature; null when not asked
  float* losses;  // forward
  void* dlogits;  // backward
  RowGradient gradient;
  int lanes;
};

template <class S, class T>
__global__ void __launch_bounds__(kRowThreads) ForwardRows(const __grid_constant__ Problem p) {
  const RowPlace at = RowPlace::Of(p.lanes);
  if (at.row >= p.target.rows) return;
  const int32_t label = p.target(at.row);
  float* const lse = at.lane == 0 && p.lse != nullptr ? p.lse + 3 * at.row : nullptr;
  if (label == p.target.ignore) {  // its sums are read by nobody
    if (at.lane == 0) p.losses[at.row] = 0;
    if (lse != nullptr) lse[0] = lse[1] = lse[2] = 0;
    return;
  }
  const S* const s = static_cast<const S*>(p.logits) + at.row * p.v;
  const T* const t = static_cast<const T*>(p.teacher) + at.row * p.v;
  float max_s = kLowest, max_t = kLowest;
  ReadRow(
      at, p.v,
      [&](int64_t, float a, float b) {
        max_s = fmaxf(max_s, a);
        max_t = fmaxf(max_t, b);
      },
      s, t);
  max_s = RowMax(at, max_s);
  max_t = RowMax(at, max_t);
  const float inverse = 1 / p.temperature;
  float hard = 0, soft = 0, teacher = 0, cross = 0;
  ReadRow(
      at, p.v,
      [&](int64_t, float x, float y) {
        const float a = Finite(x) - max_s, b = Finite(y) - max_t;
        const float q = expf(b * inverse);
        hard += expf(a);
        soft += expf(a * inverse);
        teacher += q;
        cross = fmaf(q, (b - a) * inverse, cross);
      },
      s, t);
  hard = RowSum(at, hard);
  soft = RowSum(at, soft);
  teacher = RowSum(at, teacher);
  cross = RowSum(at, cross);
  if (at.lane != 0) return;
  const float log_hard = logf(hard), log_soft = logf(soft), log_teacher = logf(teacher);
  // sum q (log q - log p): the maxima cancel
  const float divergence = cross / teacher - log_teacher + log_soft;
  float loss = QuietNan();
  if (label >= 0 && label < p.v) {
    const float entropy = log_hard - (ToFloat(s[label]) - max_s);
    loss = p.alpha * p.temperature * p.temperature * divergence + (1 - p.alpha) * entropy;
  }
  p.losses[at.row] = loss;
  if (lse != nullptr) {
    lse[0] = max_s + log_hard;
    lse[1] = max_s / p.temperature + log_soft;
    lse[2] = max_t / p.temperature + log_teacher;
  }
}

template <class S, class T>
__global__ void __launch_bounds__(kRowThreads) BackwardRows(const __grid_constant__ Problem p) {
  const RowPlace at = RowPlace::Of(p.lanes);
  if (at.row >= p.target.rows) return;
  const int32_t label = p.target(at.row);
  S* const out = static_cast<S*>(p.dlogits) + at.row * p.v;
  if (label == p.target.ignore) {
    MapRow(at, p.v, out, [](int64_t) { return 0.0f; });
    return;
  }
  const S* const s = static_cast<const S*>(p.logits) + at.row * p.v;
  const T* const t = static_cast<const T*>(p.teacher) + at.row * p.v;
  const float* const lse = p.lse + 3 * at.row;
  const float of_student = lse[0], of_soft = lse[1], of_teacher = lse[2];
  const float g = label >= 0 && label < p.v ? p.gradient(at.row) : QuietNan();
  const float inverse = 1 / p.temperature, soft = p.alpha * p.temperature, hard = 1 - p.alpha;
  MapRow(
      at, p.v, out,
      [&](int64_t i, float x, float y) {
        const float a = Finite(x), b = Finite(y);
        const float away = expf(fmaf(a, inverse, -of_soft)) - expf(fmaf(b, inverse, -of_teacher));
        const float p_hard = expf(a - of_student) - (i == label ? 1.0f : 0.0f);
        return g * fmaf(soft, away, hard * p_hard);
      },
      s, t);
}

// 0 logits, 1 teacher, 2 labels, 3 scale?, 4 loss, 5 lse?, 6 factor?;
// [temperature, alpha, ignoreIndex, shift, reduction]
void Forward(const Arguments& in) {
  const View &logits = in[0], &teacher = in[1];
  const int64_t v = logits.dim(-1);
  const Targets target = Targets::Of(in[2], in.f64(2), in.flag(3));
  Require(v > 0 && logits.contiguous() && teacher.contiguous() && teacher.dim(-1) == v &&
              teacher.numel() == logits.numel() && in[2].contiguous() &&
              logits.rows() == target.rows && (!in.has(5) || in[5].numel() == 3 * target.rows),
          ErrorCode::kShape, "distillationLoss: logits, teacher, labels and lse do not fit");
  const LossOutput out =
      LossOutput::Of(in, kOp, in[3], in[4], in[6], static_cast<Reduction>(in.i64(4)), target.rows);
  const Problem p{target,
                  v,
                  logits.data,
                  teacher.data,
                  static_cast<float>(in.f64(0)),
                  static_cast<float>(in.f64(1)),
                  in[5].as<float>(),
                  out.losses,
                  nullptr,
                  {},
                  RowLanes(v)};
  if (target.rows > 0) {
    DispatchFloat(logits.dtype, [&]<class S>() {
      DispatchFloat(teacher.dtype, [&]<class T>() {
        Launch(in, kOp, RowGrid(target.rows, p.lanes), ForwardRows<S, T>, p);
      });
    });
  }
  FinishLoss(in, kOp, out, target);
}

// 0 dloss, 1 logits, 2 teacher, 3 labels, 4 lse, 5 scale, 6 dlogits;
// [temperature, alpha, ignoreIndex, shift, reduction]
void Backward(const Arguments& in) {
  const View &logits = in[1], &teacher = in[2], &dlogits = in[6];
  const int64_t v = logits.dim(-1);
  const Targets target = Targets::Of(in[3], in.f64(2), in.flag(3));
  Require(v > 0 && logits.contiguous() && teacher.contiguous() && dlogits.contiguous() &&
              teacher.dim(-1) == v && teacher.numel() == logits.numel() && in[3].contiguous() &&
              logits.rows() == target.rows && dlogits.numel() == logits.numel() &&
              dlogits.dtype == logits.dtype && in[4].numel() == 3 * target.rows,
          ErrorCode::kShape,
          "distillationLoss.backward: logits, teacher, labels, lse and dlogits do not fit");
  const Problem p{target,
                  v,
                  logits.data,
                  teacher.data,
                  static_cast<float>(in.f64(0)),
                  static_cast<float>(in.f64(1)),
                  in[4].as<float>(),
                  nullptr,
                  dlogits.data,
                  RowGradient::Of(in[0], in[5], target.rows, kOp),
                  RowLanes(v)};
  if (target.rows == 0) return;
  DispatchFloat(logits.dtype, [&]<class S>() {
    DispatchFloat(teacher.dtype, [&]<class T>() {
      Launch(in, kOp, RowGrid(target.rows, p.lanes), BackwardRows<S, T>, p);
    });
  });
}

FUSELM_CUDA_KERNEL(
    "distillation_loss(logits, teacher, labels, scale?) -> (loss, lse?, factor?) "
    "[temperature, alpha, ignoreIndex, shift, reduction]",
    kFloat, Forward);
FUSELM_CUDA_KERNEL(
    "distillation_loss.backward(dloss, logits, teacher, labels, lse, scale) -> (dlogits) "
    "[temperature, alpha, ignoreIndex, shift, reduction]",
    kFloat, Backward);

}  // namespace
}  // namespace fuselm::cuda
