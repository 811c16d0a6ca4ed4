// levels: generic avx2 avx512 avx512bf16 amx
// Cross-entropy of h W^T without the logits: blocks of them live in a core's cache, or, in the
// backward pass, as one vocabulary panel of their gradient at a time.
//
// h is T rows of D, W [V, D]. The backward pass per panel of the vocabulary: logits again, their
// gradient, dW of the panel over all T at once (so each dW is touched once), and dh summed in f32.
#include <algorithm>

#include "native/cpu/cross_entropy.h"
#include "native/cpu/gemm/column_sums.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr const char* kOp = "linearCrossEntropy";
// Bytes of one panel of logit gradients; and the rows that share a panel.
constexpr int64_t kPanelBytes = 16 << 20;
constexpr int64_t kChunkRows = 8192;

struct Forward {
  Targets target;
  LogSum* sums;  // [T][slots], one per block of columns
  int64_t slots;
  float* label_logit;  // [T]
  float* totals;       // [T][slots], sums of logits; null when nothing is smoothed

  static void Block(void* context, const GemmBlock& b) {
    const Forward& f = *static_cast<const Forward*>(context);
    for (int64_t i = 0; i < b.rows; ++i) {
      const int64_t row = b.m + i;
      const int32_t label = f.target(row);
      if (label == f.target.ignore) continue;
      const float* logits = b.c + i * b.stride;
      const int64_t slot = row * f.slots + b.n / kGemmBlockColumns;
      f.sums[slot] = LogSumOf(logits, b.cols);
      if (f.totals) f.totals[slot] = SumOf(logits, b.cols);
      if (label >= b.n && label < b.n + b.cols) f.label_logit[row] = logits[label - b.n];
    }
  }
};

LossTerms TermsOf(const Invocation& inv, int64_t vocabulary) {
  return {static_cast<float>(inv.f64(1)), static_cast<float>(inv.f64(2)),
          static_cast<float>(vocabulary)};
}

// 0 h, 1 weight, 2 bias?, 3 labels, 4 scale?, 5 loss, 6 lse?, 7 factor?;
// [ignoreIndex, labelSmoothing, zLoss, shift, reduction]
void LinearCrossEntropy(Invocation& inv) {
  const RowMatrix h = AsRows(inv, inv[0]), weight = AsRows(inv, inv[1]);
  const Targets target = Targets::Of(inv[3], inv.f64(0), inv.flag(3));
  const int64_t t = h.rows, v = weight.rows;
  Require(v > 0 && inv[1].rank == 2 && inv[0].dtype == inv[1].dtype && h.cols == weight.cols &&
              target.rows == t && inv[3].contiguous() && (!inv.has(2) || inv[2].numel() == v) &&
              (!inv.has(6) || inv[6].numel() == t),
          ErrorCode::kShape,
          "linearCrossEntropy: h [.., D], weight [V, D], bias [V] and labels [..] do not fit");
  const LossTerms terms = TermsOf(inv, v);
  const Reduction reduction = static_cast<Reduction>(inv.i64(4));
  const float factor = LossFactor(inv[4], target.Count(kOp, v), reduction, kOp);
  const LossOutput out = LossOutput::Of(inv, inv[5], reduction, t, kOp);

  const int64_t slots = (v + kGemmBlockColumns - 1) / kGemmBlockColumns;
  const size_t blocks = static_cast<size_t>(t * slots);
  Forward forward{target, inv.Workspace<LogSum>(blocks), slots,
                  inv.Workspace<float>(static_cast<size_t>(t)),
                  terms.smoothing == 0 ? nullptr : inv.Workspace<float>(blocks)};
  const GemmSegment segment{h.AlongColumns(), weight.AlongColumns(), h.cols};
  Gemm(inv,
       {.dtype = inv[0].dtype,
        .m = t,
        .n = v,
        .segments = {&segment, 1},
        .out = {.bias = AsFloats(inv, inv[2]), .on_block = Forward::Block, .context = &forward}});

  float* lse = inv.has(6) ? inv[6].as<float>() : nullptr;
  constexpr int64_t kGroup = 256;
  inv.ParallelFor((t + kGroup - 1) / kGroup, [&](int64_t tile, int) noexcept {
    const int64_t end = std::min(t, (tile + 1) * kGroup);
    for (int64_t row = tile * kGroup; row < end; ++row) {
      out.losses[row] = 0;
      if (lse) lse[row] = 0;  // an ignored row is read by nobody
      if (target(row) == target.ignore) continue;
      LogSum sum = forward.sums[row * slots];
      for (int64_t s = 1; s < slots; ++s) sum.Join(forward.sums[row * slots + s]);
      double total = 0;
      if (forward.totals)
        for (int64_t s = 0; s < slots; ++s) total += forward.totals[row * slots + s];
      const float log_sum = sum.Log();
      if (lse) lse[row] = log_sum;
      out.losses[row] = terms.Loss(log_sum, forward.label_logit[row], static_cast<float>(total));
    }
  });
  out.Finish(t, factor);
  if (inv.has(7)) *inv[7].as<float>() = factor;
}

// One panel's gradient of the logits, rows without a target zero.
template <class T>
struct LogitGradient {
  Targets target;
  const float* lse;  // [T]
  RowGradient gradient;
  LossTerms terms;
  T* out;  // [rows of the chunk][stride]
  int64_t stride;
  int64_t row0, n0;  // of the chunk and the panel

  static void Block(void* context, const GemmBlock& b) {
    const LogitGradient& d = *static_cast<const LogitGradient*>(context);
    for (int64_t i = 0; i < b.rows; ++i) {
      const int64_t row = d.row0 + b.m + i;
      const float* logits = b.c + i * b.stride;
      T* out = d.out + (b.m + i) * d.stride + b.n;
      const int32_t label = d.target(row);
      if (label == d.target.ignore) {
        std::fill(out, out + b.cols, T(0.0f));
        continue;
      }
      const float log_sum = d.lse[row], g = d.gradient(row);
      const Vec lse = Set(log_sum), weight = Set(g * d.terms.softmax(log_sum)),
                uniform = Set(g * d.terms.uniform());
      for (int64_t j = 0; j < b.cols; j += kLanes)
        StoreN(out + j, weight * Exp(LoadN(logits + j, b.cols - j) - lse) - uniform, b.cols - j);
      const int64_t at = label - d.n0 - b.n;
      if (at >= 0 && at < b.cols)
        out[at] = T(g * d.terms.OfLabel(std::exp(logits[at] - log_sum), log_sum));
    }
  }
};

struct Gradients {
  RowMatrix h, weight;
  const float* bias;
  View dh;
  float* dweight;  // null when not wanted
  float* dbias;
  bool accumulate;
};

RowMatrix RowsFrom(const RowMatrix& m, DType dtype, int64_t first, int64_t rows) {
  const auto* data = static_cast<const std::byte*>(m.data);
  return {data + first * m.stride * static_cast<int64_t>(ItemSize(dtype)), rows, m.cols, m.stride};
}

template <class T>
void Backward(Invocation& inv, const Targets& target, const float* lse, RowGradient row_gradient,
              const LossTerms& terms, const Gradients& o) {
  const int64_t t = o.h.rows, d = o.h.cols, v = o.weight.rows;
  const DType dtype = o.dh.dtype;
  const int64_t chunk = std::min(t, kChunkRows);
  const int64_t panel = std::min(
      v, std::max<int64_t>(kGemmBlockColumns, kPanelBytes / static_cast<int64_t>(sizeof(T)) /
                                                  std::max<int64_t>(chunk, 1) / kGemmBlockColumns *
                                                  kGemmBlockColumns));
  T* dlogits = inv.Workspace<T>(static_cast<size_t>(chunk * panel));
  float* dh_sum = nullptr;
  if (dtype == DType::kBF16 && panel < v)
    dh_sum = inv.Workspace<float>(static_cast<size_t>(chunk * d));
  GemmBuffers buffers;

  for (int64_t r0 = 0; r0 < t; r0 += chunk) {
    const int64_t rows = std::min(chunk, t - r0);
    const RowMatrix h = RowsFrom(o.h, dtype, r0, rows);
    T* const dh = o.dh.as<T>() + r0 * d;
    float* const sum = dh_sum ? dh_sum : reinterpret_cast<float*>(dh);
    for (int64_t n0 = 0; n0 < v; n0 += panel) {
      const int64_t n = std::min(panel, v - n0);
      const RowMatrix weight = RowsFrom(o.weight, dtype, n0, n);
      LogitGradient<T> gradient{target, lse, row_gradient, terms, dlogits, n, r0, n0};
      const GemmSegment logits{h.AlongColumns(), weight.AlongColumns(), d};
      Gemm(inv,
           {.dtype = dtype,
            .m = rows,
            .n = n,
            .segments = {&logits, 1},
            .out = {.bias = o.bias ? o.bias + n0 : nullptr,
                    .on_block = LogitGradient<T>::Block,
                    .context = &gradient}},
           buffers);

      const RowMatrix dl{dlogits, rows, n, n};
      const bool add = o.accumulate || r0 > 0;
      if (o.dweight) {
        float* const dw = o.dweight + n0 * d;
        const GemmSegment over_rows{dl.AlongRows(), h.AlongRows(), rows};
        Gemm(inv,
             {.dtype = dtype,
              .m = n,
              .n = d,
              .segments = {&over_rows, 1},
              .out = {.data = dw, .stride = d, .addend = add ? dw : nullptr, .addend_stride = d}},
             buffers);
      }
      if (o.dbias) ColumnSums<T>(inv, dl, o.dbias + n0, add);

      const bool last = n0 + n == v;
      const GemmSegment over_vocabulary{dl.AlongColumns(), weight.AlongRows(), n};
      Gemm(inv,
           {.dtype = dtype,
            .m = rows,
            .n = d,
            .segments = {&over_vocabulary, 1},
            .out = {.data = last ? static_cast<void*>(dh) : sum,
                    .stride = d,
                    .dtype = last ? dtype : DType::kF32,
                    .addend = n0 > 0 ? sum : nullptr,
                    .addend_stride = d}},
           buffers);
    }
  }
}

// 0 dloss, 1 h, 2 weight, 3 bias?, 4 labels, 5 lse, 6 scale, 7 dweight!?, 8 dbias!?, 9 dh;
// [ignoreIndex, labelSmoothing, zLoss, shift, reduction, accumulate]
void LinearCrossEntropyBackward(Invocation& inv) {
  const RowMatrix h = AsRows(inv, inv[1]), weight = AsRows(inv, inv[2]);
  const Targets target = Targets::Of(inv[4], inv.f64(0), inv.flag(3));
  const View &dweight = inv[7], &dbias = inv[8], &dh = inv[9];
  const int64_t v = weight.rows;
  Require(v > 0 && inv[2].rank == 2 && inv[1].dtype == inv[2].dtype && h.cols == weight.cols &&
              target.rows == h.rows && inv[4].contiguous() && inv[5].numel() == h.rows &&
              (!inv.has(3) || inv[3].numel() == v) && dh.contiguous() &&
              dh.numel() == inv[1].numel() && dh.dtype == inv[1].dtype,
          ErrorCode::kShape,
          "linearCrossEntropy.backward: h, weight, labels, lse and dh do not fit");
  Require(!dweight.data || (dweight.dtype == DType::kF32 && dweight.contiguous() &&
                            dweight.numel() == inv[2].numel()),
          ErrorCode::kShape, "linearCrossEntropy.backward: dweight must be f32 [V, D]");
  Require(!dbias.data || (dbias.dtype == DType::kF32 && dbias.contiguous() && dbias.numel() == v),
          ErrorCode::kShape, "linearCrossEntropy.backward: dbias must be f32 [V]");
  target.Count(kOp, v);
  const RowGradient gradient = RowGradient::Of(inv[0], inv[6], target.rows, kOp);
  const Gradients out{h,
                      weight,
                      AsFloats(inv, inv[3]),
                      dh,
                      dweight.data ? dweight.as<float>() : nullptr,
                      dbias.data ? dbias.as<float>() : nullptr,
                      inv.flag(5)};
  DispatchFloat(dh.dtype, [&]<class T>() {
    Backward<T>(inv, target, inv[5].as<float>(), gradient, TermsOf(inv, v), out);
  });
}

FUSELM_KERNEL(
    "linear_cross_entropy(h, weight, bias?, labels, scale?) -> (loss, lse?, factor?) "
    "[ignoreIndex, labelSmoothing, zLoss, shift, reduction]",
    kFloat, LinearCrossEntropy);
FUSELM_KERNEL(
    "linear_cross_entropy.backward(dloss, h, weight, bias?, labels, lse, scale, dweight!?, "
    "dbias!?) -> (dh) [ignoreIndex, labelSmoothing, zLoss, shift, reduction, accumulate]",
    kFloat, LinearCrossEntropyBackward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
