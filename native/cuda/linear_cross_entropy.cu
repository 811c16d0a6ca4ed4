// Cross-entropy of h W^T + b in chunks of tokens: float32 logits of a chunk (at most 512 MiB, at
// least 128 tokens) are made by the matrix product and read once; logits of all tokens never exist.
// In the backward pass their gradient replaces them in place, in the dtype of h, and goes into
// dW (+)= dlogits^T h and dh = dlogits W while it is there.
//
// Row kernels: a block of 512 threads a row, 16 bytes a thread and step, maximum and sum of
// exponentials in one pass, 70 bytes of shared memory; rows are 16-byte aligned. Target: the copy
// bandwidth; the products as gemm/gemm.cuh says.
//
// A launcher cannot look at data, so what is an error on the CPU poisons the result here: with a
// label outside the vocabulary, its row's loss and gradients are NaN, and with no label to take the
// mean over, or a scale that is not finite, all losses are. Nothing is read out of bounds.

#include <algorithm>

#include "native/cuda/device.cuh"
#include "native/cuda/gemm/operand.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kOneBlock = 1024;
constexpr int64_t kLogitBytes = int64_t{512} << 20;
constexpr int64_t kChunkUnit = 128;

// As lib/ops/cross_entropy.ts numbers them.
enum class Reduction { kMean = 0, kSum = 1, kNone = 2 };

// Which label each row must predict: with `shift` the next one of its sequence, the last nothing.
struct Targets {
  const int32_t* labels;
  int64_t rows, length;
  int32_t ignore;
  bool shift;

  __device__ __forceinline__ int32_t operator()(int64_t row) const {
    if (!shift) return labels[row];
    return row % length + 1 == length ? ignore : labels[row + 1];
  }
};

// Label smoothing and the penalty on log Z squared; the gradient of a logit is
// g (softmax p - label [is it] - uniform).
struct Terms {
  float smoothing, z_loss, vocabulary;
  __device__ __forceinline__ float Softmax(float lse) const { return 1 + 2 * z_loss * lse; }
  __device__ __forceinline__ float Uniform() const { return smoothing / vocabulary; }
};

struct RowArgs {
  Targets target;
  Terms terms;
  float* logits;  // of row `first` on, `stride` apart
  int64_t stride, first;
  int v;
  const void* bias;
  bool bias_bf16;
  float* losses;
  float* lse;  // written by the forward pass when not null, read by the backward
  const float* dloss;
  int64_t dloss_step;
  const float* factor;

  __device__ __forceinline__ float Bias(int j) const {
    if (bias == nullptr) return 0;
    return bias_bf16 ? ToFloat(static_cast<const bf16*>(bias)[j])
                     : static_cast<const float*>(bias)[j];
  }
  __device__ __forceinline__ float Logit(const float* row, int j) const { return row[j] + Bias(j); }
  // Four logits from j on, -infinity past the vocabulary.
  __device__ __forceinline__ void Four(const float* row, int j, float (&x)[4]) const {
    const Pack<float, 4> raw = *reinterpret_cast<const Pack<float, 4>*>(row + j);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = j + i < v ? raw.v[i] + Bias(j + i) : -INFINITY;
  }
};

__device__ __forceinline__ float NaN() { return __uint_as_float(0x7fc00000u); }

__global__ void __launch_bounds__(kThreads) RowLoss(const __grid_constant__ RowArgs args) {
  const int64_t row = args.first + blockIdx.x;
  const int32_t label = args.target(row);
  if (label == args.target.ignore || label < 0 || label >= args.v) {
    if (threadIdx.x != 0) return;
    const bool ignored = label == args.target.ignore;
    args.losses[row] = ignored ? 0.0f : NaN();
    if (args.lse) args.lse[row] = ignored ? 0.0f : NaN();  // an ignored row is read by nobody
    return;
  }
  const float* const logits = args.logits + blockIdx.x * args.stride;
  float most = -INFINITY, sum = 0, total = 0;
  for (int j = static_cast<int>(threadIdx.x) * 4; j < args.v; j += kThreads * 4) {
    float x[4];
    args.Four(logits, j, x);
    const float top = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
    if (top > most) {
      sum *= expf(most - top);
      most = top;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (j + i >= args.v) continue;
      if (x[i] != -INFINITY) sum += expf(x[i] - most);
      total += x[i];
    }
  }
  const float block_most = BlockMax<kThreads>(most);
  const float block_sum =
      BlockSum<kThreads>(most == -INFINITY ? sum : sum * expf(most - block_most));
  if (args.terms.smoothing != 0) total = BlockSum<kThreads>(total);
  if (threadIdx.x != 0) return;
  const float lse = block_most + logf(block_sum);
  const Terms& t = args.terms;
  float loss = lse - (1 - t.smoothing) * args.Logit(logits, label) + t.z_loss * lse * lse;
  if (t.smoothing != 0) loss -= t.smoothing / t.vocabulary * total;
  args.losses[row] = loss;
  if (args.lse) args.lse[row] = lse;
}

// The gradient of a row's logits over the logits. bf16 takes the first half of the row, so what is
// written in a step has been read in it or before; the barrier holds the block together.
template <class T>
__global__ void __launch_bounds__(kThreads) RowGradient(const __grid_constant__ RowArgs args) {
  const int64_t row = args.first + blockIdx.x;
  const int32_t label = args.target(row);
  const bool ignored = label == args.target.ignore;
  const bool wrong = !ignored && (label < 0 || label >= args.v);
  float* const logits = args.logits + blockIdx.x * args.stride;
  T* const out = reinterpret_cast<T*>(logits);
  const float lse = ignored ? 0.0f : args.lse[row];
  const float g = ignored ? 0.0f : args.dloss[row * args.dloss_step] * *args.factor;
  const float softmax = args.terms.Softmax(lse);
  const float weight = g * softmax, uniform = g * args.terms.Uniform();
  const float of_label = 1 - args.terms.smoothing;
  for (int base = 0; base < args.v; base += kThreads * 4) {
    const int j = base + static_cast<int>(threadIdx.x) * 4;
    float x[4] = {};
    if (j < args.v && !ignored) args.Four(logits, j, x);
    __syncthreads();
    if (j >= args.v) continue;
    Pack<T, 4> d;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float v = 0;
      if (wrong) {
        v = NaN();
      } else if (!ignored && j + i < args.v) {
        const float p = expf(x[i] - lse);
        v = j + i == label ? g * (softmax * p - of_label - args.terms.Uniform())
                           : weight * p - uniform;
      }
      d.v[i] = FromFloat<T>(v);
    }
    *reinterpret_cast<Pack<T, 4>*>(out + j) = d;
  }
}

// What losses are multiplied by: `scale` when given, else 1, or for the mean 1 / count of targets.
__global__ void __launch_bounds__(kOneBlock)
    LossFactor(const __grid_constant__ Targets target, const float* scale, bool mean, float* factor,
               float* out) {
  __shared__ int counts[kOneBlock / kWarp];
  int count = 0;
  if (scale == nullptr && mean) {
    for (int64_t r = threadIdx.x; r < target.rows; r += kOneBlock)
      count += target(r) != target.ignore;
  }
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) count += __shfl_xor_sync(kFullMask, count, d);
  if (threadIdx.x % kWarp == 0) counts[threadIdx.x / kWarp] = count;
  __syncthreads();
  if (threadIdx.x != 0) return;
  count = 0;
  for (int w = 0; w < kOneBlock / kWarp; ++w) count += counts[w];
  float f = 1;
  if (scale != nullptr) {
    f = isfinite(*scale) ? *scale : NaN();
  } else if (mean) {
    f = count == 0 ? NaN() : 1.0f / static_cast<float>(count);
  }
  *factor = f;
  if (out != nullptr) *out = f;
}

// loss = factor * sum of losses, in double and in a fixed order.
__global__ void __launch_bounds__(kOneBlock)
    SumLosses(const float* losses, int64_t rows, const float* factor, float* loss) {
  __shared__ double parts[kOneBlock];
  double sum = 0;
  for (int64_t r = threadIdx.x; r < rows; r += kOneBlock) sum += losses[r];
  parts[threadIdx.x] = sum;
  for (int half = kOneBlock / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *loss = static_cast<float>(parts[0] * *factor);
}

__global__ void __launch_bounds__(kThreads)
    ScaleLosses(float* losses, int64_t rows, const float* factor) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row < rows) losses[row] *= *factor;
}

Targets TargetsOf(const View& labels, double ignore, bool shift) {
  return {labels.as<int32_t>(), labels.numel(), labels.rank == 0 ? 1 : labels.dim(-1),
          static_cast<int32_t>(ignore), shift};
}

// The chunks of tokens, and room for the logits of one.
struct Chunks {
  int64_t rows, stride;
  float* logits;

  Chunks(const Arguments& in, int64_t t, int64_t v) : stride(CeilDiv(v, 4) * 4) {
    const int64_t fit = kLogitBytes / 4 / stride / kChunkUnit * kChunkUnit;
    rows = std::min(t, std::max(fit, kChunkUnit));
    logits = in.Workspace<float>(std::max<int64_t>(1, rows * stride));
  }
};

RowMatrix RowsFrom(const RowMatrix& m, DType dtype, int64_t first, int64_t rows) {
  const auto* data = static_cast<const char*>(m.data);
  return {data + first * m.stride * static_cast<int64_t>(ItemSize(dtype)), rows, m.cols, m.stride};
}

// Logits of one chunk, without the bias: the row kernels add it.
void Logits(const Arguments& in, DType dtype, const RowMatrix& h, const RowMatrix& weight,
            const Chunks& chunks) {
  const GemmSegment segment{h.AlongColumns(), weight.AlongColumns(), h.cols};
  Gemm(in, "linear_cross_entropy",
       {.dtype = dtype,
        .m = h.rows,
        .n = weight.rows,
        .segments = {&segment, 1},
        .out = {.data = chunks.logits, .stride = chunks.stride, .dtype = DType::kF32}});
}

void SetBias(RowArgs& args, const View& bias) {
  args.bias = bias.data;
  args.bias_bf16 = bias.data && bias.dtype == DType::kBF16;
}

Grid Rows(int64_t rows) { return {dim3(static_cast<unsigned>(rows)), kThreads}; }

// 0 h, 1 weight, 2 bias?, 3 labels, 4 scale?, 5 loss, 6 lse?, 7 factor?;
// [ignoreIndex, labelSmoothing, zLoss, shift, reduction]
void LinearCrossEntropy(const Arguments& in) {
  constexpr const char* kWhat = "linear_cross_entropy";
  constexpr const char* kFit =
      "linearCrossEntropy: h [.., D], weight [V, D], bias [V] and labels [..] do not fit";
  const RowMatrix h = AsRows(in, in[0]), weight = AsRows(in, in[1]);
  const Targets target = TargetsOf(in[3], in.f64(0), in.flag(3));
  const int64_t t = h.rows, v = weight.rows;
  Require(v > 0 && v < (int64_t{1} << 31) - kThreads * 4 && in[1].rank == 2 &&
              in[0].dtype == in[1].dtype && h.cols == weight.cols && target.rows == t &&
              in[3].contiguous() && (!in.has(2) || in[2].numel() == v) &&
              (!in.has(6) || in[6].numel() == t),
          ErrorCode::kShape, kFit);
  CheckBias(in[2], kFit);
  const Reduction reduction = static_cast<Reduction>(in.i64(4));
  const bool each = reduction == Reduction::kNone;
  Require(in[5].dtype == DType::kF32 && in[5].contiguous() && in[5].numel() == (each ? t : 1),
          ErrorCode::kShape, "linearCrossEntropy: loss must be f32, a scalar or one per label");

  float* const factor = in.Workspace<float>(1);
  Launch(in, kWhat, {dim3(1), kOneBlock}, LossFactor, target,
         in.has(4) ? in[4].as<float>() : nullptr, reduction == Reduction::kMean, factor,
         in.has(7) ? in[7].as<float>() : nullptr);
  RowArgs args{};
  args.target = target;
  args.terms = {static_cast<float>(in.f64(1)), static_cast<float>(in.f64(2)),
                static_cast<float>(v)};
  args.v = static_cast<int>(v);
  SetBias(args, in[2]);
  args.losses = each ? in[5].as<float>() : in.Workspace<float>(std::max<int64_t>(1, t));
  args.lse = in.has(6) ? in[6].as<float>() : nullptr;
  const Chunks chunks(in, t, v);
  args.logits = chunks.logits, args.stride = chunks.stride;
  for (int64_t first = 0; first < t; first += chunks.rows) {
    const int64_t rows = std::min(chunks.rows, t - first);
    Logits(in, in[0].dtype, RowsFrom(h, in[0].dtype, first, rows), weight, chunks);
    args.first = first;
    Launch(in, kWhat, Rows(rows), RowLoss, args);
  }
  if (!each) {
    Launch(in, kWhat, {dim3(1), kOneBlock}, SumLosses, args.losses, t, factor, in[5].as<float>());
  } else if (t > 0) {
    Launch(in, kWhat, Rows(CeilDiv(t, kThreads)), ScaleLosses, args.losses, t, factor);
  }
}

// 0 dloss, 1 h, 2 weight, 3 bias?, 4 labels, 5 lse, 6 scale, 7 dweight!?, 8 dbias!?, 9 dh;
// [ignoreIndex, labelSmoothing, zLoss, shift, reduction, accumulate]
void LinearCrossEntropyBackward(const Arguments& in) {
  constexpr const char* kWhat = "linear_cross_entropy.backward";
  constexpr const char* kFit =
      "linearCrossEntropy.backward: h, weight, labels, lse and dh do not fit";
  const RowMatrix h = AsRows(in, in[1]), weight = AsRows(in, in[2]);
  const Targets target = TargetsOf(in[4], in.f64(0), in.flag(3));
  const View &dloss = in[0], &dweight = in[7], &dbias = in[8], &dh = in[9];
  const int64_t t = h.rows, v = weight.rows, d = h.cols;
  const DType dtype = in[1].dtype;
  Require(v > 0 && v < (int64_t{1} << 31) - kThreads * 4 && in[2].rank == 2 &&
              dtype == in[2].dtype && d == weight.cols && target.rows == t && in[4].contiguous() &&
              in[5].numel() == t && (!in.has(3) || in[3].numel() == v) && dh.contiguous() &&
              dh.numel() == in[1].numel() && dh.dtype == dtype,
          ErrorCode::kShape, kFit);
  CheckBias(in[3], kFit);
  Require(!dweight.data || (dweight.dtype == DType::kF32 && dweight.contiguous() &&
                            dweight.numel() == in[2].numel()),
          ErrorCode::kShape, "linearCrossEntropy.backward: dweight must be f32 [V, D]");
  Require(!dbias.data || (dbias.dtype == DType::kF32 && dbias.contiguous() && dbias.numel() == v),
          ErrorCode::kShape, "linearCrossEntropy.backward: dbias must be f32 [V]");
  Require(dloss.dtype == DType::kF32 && dloss.contiguous() &&
              (dloss.rank == 0 || dloss.numel() == t),
          ErrorCode::kShape,
          "linearCrossEntropy.backward: dloss must be f32, a scalar or one per label");

  RowArgs args{};
  args.target = target;
  args.terms = {static_cast<float>(in.f64(1)), static_cast<float>(in.f64(2)),
                static_cast<float>(v)};
  args.v = static_cast<int>(v);
  SetBias(args, in[3]);
  args.lse = in[5].as<float>();
  args.dloss = dloss.as<float>(), args.dloss_step = dloss.rank == 0 ? 0 : 1;
  args.factor = in[6].as<float>();
  const Chunks chunks(in, t, v);
  args.logits = chunks.logits, args.stride = chunks.stride;
  const int64_t of_item = 4 / static_cast<int64_t>(ItemSize(dtype));
  const bool accumulate = in.flag(5);
  for (int64_t first = 0; first < std::max<int64_t>(t, 1); first += chunks.rows) {
    const int64_t rows = std::min(chunks.rows, t - first);
    const RowMatrix part = RowsFrom(h, dtype, first, rows);
    if (rows > 0) {
      Logits(in, dtype, part, weight, chunks);
      args.first = first;
      DispatchFloat(dtype, [&]<class T>() { Launch(in, kWhat, Rows(rows), RowGradient<T>, args); });
    }
    const RowMatrix dlogits{chunks.logits, rows, v, chunks.stride * of_item};
    const bool add = accumulate || first > 0;
    if (dweight.data) {
      const GemmSegment over_rows{dlogits.AlongRows(), part.AlongRows(), rows};
      Gemm(in, kWhat,
           {.dtype = dtype,
            .m = v,
            .n = d,
            .segments = {&over_rows, 1},
            .out = {.data = dweight.data,
                    .stride = d,
                    .dtype = DType::kF32,
                    .addend = add ? dweight.as<float>() : nullptr,
                    .addend_stride = d}});
    }
    if (dbias.data) ColumnSums(in, dlogits, dtype, dbias.as<float>(), add);
    const GemmSegment over_vocabulary{dlogits.AlongColumns(), weight.AlongRows(), v};
    Gemm(in, kWhat,
         {.dtype = dtype,
          .m = rows,
          .n = d,
          .segments = {&over_vocabulary, 1},
          .out = {.data = static_cast<char*>(dh.data) +
                          first * d * static_cast<int64_t>(ItemSize(dtype)),
                  .stride = d,
                  .dtype = dtype}});
    if (rows == 0) break;
  }
}

FUSELM_CUDA_KERNEL(
    "linear_cross_entropy(h, weight, bias?, labels, scale?) -> (loss, lse?, factor?) "
    "[ignoreIndex, labelSmoothing, zLoss, shift, reduction]",
    kFloat, LinearCrossEntropy);
FUSELM_CUDA_KERNEL(
    "linear_cross_entropy.backward(dloss, h, weight, bias?, labels, lse, scale, dweight!?, "
    "dbias!?) -> (dh) [ignoreIndex, labelSmoothing, zLoss, shift, reduction, accumulate]",
    kFloat, LinearCrossEntropyBackward);

}  // namespace
}  // namespace fuselm::cuda
