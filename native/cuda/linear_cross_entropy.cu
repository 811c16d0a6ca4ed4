// Cross-entropy of h W^T + b in chunks of tokens: float32 logits of a chunk (at most 512 MiB, at
// least 128 tokens) are made by the matrix product and read once; logits of all tokens never exist.
// In the backward pass their gradient replaces them in place, in the dtype of h, and goes into
// dW (+)= dlogits^T h and dh = dlogits W while it is there.
//
// Row kernels: a block of 512 threads a row, 16 bytes a thread and step, maximum and sum of
// exponentials in one pass, 70 bytes of shared memory; rows are 16-byte aligned. Target: the copy
// bandwidth; the products as gemm/gemm.cuh says. Predicted, not measured: at 4.8 TB/s an H200's
// multiprocessor reads 5.3 logits a cycle, which are about 55 of the 128 lanes it can issue.
//
// What is NaN where the CPU throws stands in cross_entropy.cuh.

#include <algorithm>

#include "native/cuda/cross_entropy.cuh"
#include "native/cuda/gemm/operand.cuh"

namespace fuselm::cuda {
namespace {

constexpr const char* kOp = "linearCrossEntropy";
constexpr int kThreads = 512;
constexpr int64_t kLogitBytes = int64_t{512} << 20;
constexpr int64_t kChunkUnit = 128;

struct RowArgs {
  Targets target;
  LossTerms terms;
  float* logits;  // of row `first` on, `stride` apart
  int64_t stride, first;
  int v;
  const void* bias;
  bool bias_bf16;
  float* losses;
  float* lse;            // written by the forward pass when not null, read by the backward
  RowGradient gradient;  // of the backward pass

  __device__ __forceinline__ float Bias(int j) const {
    if (bias == nullptr) return 0;
    return bias_bf16 ? ToFloat(static_cast<const bf16*>(bias)[j])
                     : static_cast<const float*>(bias)[j];
  }
  __device__ __forceinline__ float Logit(const float* row, int j) const { return row[j] + Bias(j); }
  // Four logits from j on, -infinity past the vocabulary.
  __device__ __forceinline__ void Four(const float* row, int j, float (&x)[4]) const {
    const Pack<float, 4> raw = *reinterpret_cast<const Pack<float, 4>*>(row + j);
    if (j + 4 <= v) {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = raw.v[i];
      if (bias == nullptr) return;
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] += Bias(j + i);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = j + i < v ? raw.v[i] + Bias(j + i) : -INFINITY;
    }
  }
};

// e^x for x <= 0 to 2^-22 + |x| 2^-23 of it: what is far below 1 is added to what is not. Three
// instructions of expf's ten.
__device__ __forceinline__ float ExpBelow(float x) {
  constexpr float kLog2E = 1.44269504f;
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * kLog2E));
  return y;
#else
  return std::exp2(x * kLog2E);
#endif
}

__global__ void __launch_bounds__(kThreads) LossRows(const __grid_constant__ RowArgs args) {
  const int64_t row = args.first + blockIdx.x;
  const int32_t label = args.target(row);
  if (label == args.target.ignore || label < 0 || label >= args.v) {
    if (threadIdx.x != 0) return;
    const bool ignored = label == args.target.ignore;
    args.losses[row] = ignored ? 0.0f : QuietNan();
    if (args.lse) args.lse[row] = ignored ? 0.0f : QuietNan();  // an ignored row is read by nobody
    return;
  }
  const float* const logits = args.logits + blockIdx.x * args.stride;
  // What is subtracted is 0, not -infinity, as long as there was nothing else.
  float most = -INFINITY, shift = 0, sum = 0, total = 0;
  for (int j = static_cast<int>(threadIdx.x) * 4; j < args.v; j += kThreads * 4) {
    float x[4];
    args.Four(logits, j, x);
    const float top = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
    if (top > most) {
      sum *= ExpBelow(most - top);
      most = shift = top;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sum += ExpBelow(x[i] - shift);
    if (args.terms.smoothing != 0) {
#pragma unroll
      for (int i = 0; i < 4; ++i) total += j + i < args.v ? x[i] : 0.0f;
    }
  }
  const float block_most = BlockMax<kThreads>(most);
  const float block_sum =
      BlockSum<kThreads>(most == -INFINITY ? sum : sum * ExpBelow(most - block_most));
  if (args.terms.smoothing != 0) total = BlockSum<kThreads>(total);
  if (threadIdx.x != 0) return;
  const float lse = block_most + logf(block_sum);
  args.losses[row] = args.terms.Loss(lse, args.Logit(logits, label), total);
  if (args.lse) args.lse[row] = lse;
}

// The gradient of a row's logits over the logits. bf16 takes the first half of the row, so what is
// written in a step has been read in it or before; the barrier holds the block together.
template <class T>
__global__ void __launch_bounds__(kThreads) GradientRows(const __grid_constant__ RowArgs args) {
  const int64_t row = args.first + blockIdx.x;
  const int32_t label = args.target(row);
  const bool ignored = label == args.target.ignore;
  const bool wrong = !ignored && (label < 0 || label >= args.v);
  float* const logits = args.logits + blockIdx.x * args.stride;
  T* const out = reinterpret_cast<T*>(logits);
  const float lse = ignored ? 0.0f : args.lse[row];
  const float g = ignored ? 0.0f : args.gradient(row);
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
    for (int i = 0; i < 4; ++i) d.v[i] = FromFloat<T>(weight * ExpBelow(x[i] - lse) - uniform);
    if (j + 4 > args.v || static_cast<uint32_t>(label - j) < 4 || wrong) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (wrong)
          d.v[i] = FromFloat<T>(QuietNan());
        else if (j + i >= args.v)
          d.v[i] = FromFloat<T>(0.0f);
        else if (j + i == label && !ignored)
          d.v[i] =
              FromFloat<T>(g * (softmax * ExpBelow(x[i] - lse) - of_label - args.terms.Uniform()));
      }
    }
    *reinterpret_cast<Pack<T, 4>*>(out + j) = d;
  }
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
  Gemm(in, kOp,
       {.dtype = dtype,
        .m = h.rows,
        .n = weight.rows,
        .segments = {&segment, 1},
        .out = {.data = chunks.logits, .stride = chunks.stride, .dtype = DType::kF32}});
}

RowArgs ArgsOf(const Arguments& in, const Targets& target, int64_t v, const View& bias,
               const Chunks& chunks) {
  RowArgs args{};
  args.target = target;
  args.terms = {static_cast<float>(in.f64(1)), static_cast<float>(in.f64(2)),
                static_cast<float>(v)};
  args.logits = chunks.logits, args.stride = chunks.stride;
  args.v = static_cast<int>(v);
  args.bias = bias.data;
  args.bias_bf16 = bias.data && bias.dtype == DType::kBF16;
  return args;
}

Grid Rows(int64_t rows) { return {dim3(static_cast<unsigned>(rows)), kThreads}; }

// 0 h, 1 weight, 2 bias?, 3 labels, 4 scale?, 5 loss, 6 lse?, 7 factor?;
// [ignoreIndex, labelSmoothing, zLoss, shift, reduction]
void LinearCrossEntropy(const Arguments& in) {
  constexpr const char* kFit =
      "linearCrossEntropy: h [.., D], weight [V, D], bias [V] and labels [..] do not fit";
  const RowMatrix h = AsRows(in, in[0]), weight = AsRows(in, in[1]);
  const Targets target = Targets::Of(in[3], in.f64(0), in.flag(3));
  const int64_t t = h.rows, v = weight.rows;
  Require(v > 0 && v < (int64_t{1} << 31) - kThreads * 4 && in[1].rank == 2 &&
              in[0].dtype == in[1].dtype && h.cols == weight.cols && target.rows == t &&
              in[3].contiguous() && (!in.has(2) || in[2].numel() == v) &&
              (!in.has(6) || in[6].numel() == t),
          ErrorCode::kShape, kFit);
  CheckBias(in[2], kFit);
  const LossOutput out =
      LossOutput::Of(in, kOp, in[4], in[5], in[7], static_cast<Reduction>(in.i64(4)), t);
  const Chunks chunks(in, t, v);
  RowArgs args = ArgsOf(in, target, v, in[2], chunks);
  args.losses = out.losses;
  args.lse = in.has(6) ? in[6].as<float>() : nullptr;
  for (int64_t first = 0; first < t; first += chunks.rows) {
    const int64_t rows = std::min(chunks.rows, t - first);
    Logits(in, in[0].dtype, RowsFrom(h, in[0].dtype, first, rows), weight, chunks);
    args.first = first;
    Launch(in, kOp, Rows(rows), LossRows, args);
  }
  FinishLoss(in, kOp, out, target);
}

// 0 dloss, 1 h, 2 weight, 3 bias?, 4 labels, 5 lse, 6 scale, 7 dweight!?, 8 dbias!?, 9 dh;
// [ignoreIndex, labelSmoothing, zLoss, shift, reduction, accumulate]
void LinearCrossEntropyBackward(const Arguments& in) {
  constexpr const char* kFit =
      "linearCrossEntropy.backward: h, weight, labels, lse and dh do not fit";
  const RowMatrix h = AsRows(in, in[1]), weight = AsRows(in, in[2]);
  const Targets target = Targets::Of(in[4], in.f64(0), in.flag(3));
  const View &dweight = in[7], &dbias = in[8], &dh = in[9];
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
  const Chunks chunks(in, t, v);
  RowArgs args = ArgsOf(in, target, v, in[3], chunks);
  args.lse = in[5].as<float>();
  args.gradient = RowGradient::Of(in[0], in[6], t, kOp);
  const int64_t of_item = 4 / static_cast<int64_t>(ItemSize(dtype));
  const bool accumulate = in.flag(5);
  for (int64_t first = 0; first < std::max<int64_t>(t, 1); first += chunks.rows) {
    const int64_t rows = std::min(chunks.rows, t - first);
    const RowMatrix part = RowsFrom(h, dtype, first, rows);
    if (rows > 0) {
      Logits(in, dtype, part, weight, chunks);
      args.first = first;
      DispatchFloat(dtype, [&]<class T>() { Launch(in, kOp, Rows(rows), GradientRows<T>, args); });
    }
    const RowMatrix dlogits{chunks.logits, rows, v, chunks.stride * of_item};
    const bool add = accumulate || first > 0;
    if (dweight.data) {
      const GemmSegment over_rows{dlogits.AlongRows(), part.AlongRows(), rows};
      Gemm(in, kOp,
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
    Gemm(in, kOp,
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
