// Losses by instruction level: `loss_bench check` compares both cross-entropy kernels and their
// gradients with sums in double, and one thread with three bitwise; `loss_bench [level [tokens D
// V]]` times linear_cross_entropy on the training shapes, or on one.
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "native/bench/peak.h"
#include "native/bench/runner.h"
#include "native/core/runtime.h"

namespace fuselm::bench {
namespace {

constexpr const char* kDense =
    "cross_entropy(logits, labels, scale?) -> (loss, lse?, factor?) "
    "[ignoreIndex, labelSmoothing, zLoss, shift, reduction]";
constexpr const char* kDenseBackward =
    "cross_entropy.backward(dloss, logits, labels, lse, scale) -> (dlogits) "
    "[ignoreIndex, labelSmoothing, zLoss, shift, reduction]";
constexpr const char* kFused =
    "linear_cross_entropy(h, weight, bias?, labels, scale?) -> (loss, lse?, factor?) "
    "[ignoreIndex, labelSmoothing, zLoss, shift, reduction]";
constexpr const char* kFusedBackward =
    "linear_cross_entropy.backward(dloss, h, weight, bias?, labels, lse, scale, dweight!?, "
    "dbias!?) -> (dh) [ignoreIndex, labelSmoothing, zLoss, shift, reduction, accumulate]";

struct Shape {
  int64_t b, t, d, v;
  int64_t rows() const { return b * t; }
};

struct Problem {
  Shape s;
  Array h, weight, bias, labels, loss, lse, factor, dloss, dh, dweight, dbias, logits, dlogits;
  Problem(DType dtype, Shape s)
      : s(s),
        h(dtype, {s.b, s.t, s.d}),
        weight(dtype, {s.v, s.d}),
        bias(DType::kF32, {s.v}),
        labels(DType::kI32, {s.b, s.t}),
        loss(DType::kF32, {}),
        lse(DType::kF32, {s.b, s.t}),
        factor(DType::kF32, {}),
        dloss(DType::kF32, {}),
        dh(dtype, {s.b, s.t, s.d}),
        dweight(DType::kF32, {s.v, s.d}),
        dbias(DType::kF32, {s.v}),
        logits(dtype, {s.b, s.t, s.v}),
        dlogits(dtype, {s.b, s.t, s.v}) {
    Random random(7);
    for (Array* a : {&h, &weight, &bias, &dweight, &dbias, &logits}) random.Fill(*a);
    for (int64_t i = 0; i < s.rows(); ++i)
      labels.Set(i, random.Uniform() < 0.2 ? -100 : std::floor(random.Uniform() * s.v));
    labels.Set(s.t > 1 ? 1 : 0, 0);  // at least one target
    dloss.Set(0, 1.5);
  }
  void Fused(Level level, ThreadRunner& runner, bool shift, double smoothing, double accumulate) {
    const DType dtype = h.view.dtype;
    Call(*FindKernel(kFused, level, dtype),
         {h.view, weight.view, bias.view, labels.view, View{}, loss.view, lse.view, factor.view},
         {-100, smoothing, 0, double(shift), 0}, runner);
    Call(*FindKernel(kFusedBackward, level, dtype),
         {dloss.view, h.view, weight.view, bias.view, labels.view, lse.view, factor.view,
          dweight.view, dbias.view, dh.view},
         {-100, smoothing, 0, double(shift), 0, accumulate}, runner);
  }
  void Dense(Level level, ThreadRunner& runner, bool shift, double smoothing) {
    const DType dtype = h.view.dtype;
    Call(*FindKernel(kDense, level, dtype),
         {logits.view, labels.view, View{}, loss.view, lse.view, factor.view},
         {-100, smoothing, 0, double(shift), 0}, runner);
    Call(*FindKernel(kDenseBackward, level, dtype),
         {dloss.view, logits.view, labels.view, lse.view, factor.view, dlogits.view},
         {-100, smoothing, 0, double(shift), 0}, runner);
  }
};

struct Expected {
  double loss = 0;
  std::vector<double> dlogits;  // [rows, V]
};

// From the definition (PyTorch's, label smoothing included), in double.
Expected Softmax(const Problem& p, const std::vector<double>& logits, bool shift,
                 double smoothing) {
  const int64_t v = p.s.v;
  Expected e{0, std::vector<double>(logits.size())};
  std::vector<int64_t> targets;
  int64_t count = 0;
  for (int64_t b = 0; b < p.s.b; ++b)
    for (int64_t t = 0; t < p.s.t; ++t) {
      const int64_t at = shift ? t + 1 : t;
      targets.push_back(at < p.s.t ? static_cast<int64_t>(p.labels.Get(b * p.s.t + at)) : -100);
      count += targets.back() != -100;
    }
  for (size_t r = 0; r < targets.size(); ++r) {
    if (targets[r] == -100) continue;
    const double* row = logits.data() + r * v;
    double sum = 0, total = 0;
    for (int64_t j = 0; j < v; ++j) sum += std::exp(row[j]), total += row[j];
    e.loss += (std::log(sum) - (1 - smoothing) * row[targets[r]] - smoothing * total / v) / count;
    for (int64_t j = 0; j < v; ++j)
      e.dlogits[r * v + j] =
          1.5 / count *
          (std::exp(row[j]) / sum - smoothing / v - (j == targets[r] ? 1 - smoothing : 0));
  }
  return e;
}

std::vector<double> Values(const Array& a) {
  std::vector<double> v(a.view.numel());
  for (size_t i = 0; i < v.size(); ++i) v[i] = a.Get(static_cast<int64_t>(i));
  return v;
}

void CheckFused(Level level, DType dtype, Shape s, bool shift, double smoothing,
                const std::string& name) {
  Problem start(dtype, s), one(dtype, s), three(dtype, s);
  ThreadRunner r1(1), r3(3);
  one.Fused(level, r1, shift, smoothing, 1);
  three.Fused(level, r3, shift, smoothing, 1);
  for (Array Problem::*out : {&Problem::loss, &Problem::dh, &Problem::dweight, &Problem::dbias})
    Expect(std::memcmp((one.*out).view.data, (three.*out).view.data,
                       (one.*out).view.numel() * ItemSize((one.*out).view.dtype)) == 0,
           name + ": the number of threads changes bits");
  const auto h = Values(one.h), w = Values(one.weight), bias = Values(one.bias);
  std::vector<double> logits(s.rows() * s.v);
  for (int64_t r = 0; r < s.rows(); ++r)
    for (int64_t j = 0; j < s.v; ++j) {
      double x = bias[j];
      for (int64_t q = 0; q < s.d; ++q) x += h[r * s.d + q] * w[j * s.d + q];
      logits[r * s.v + j] = x;
    }
  const Expected e = Softmax(one, logits, shift, smoothing);
  std::vector<double> dh(h.size()), dw = Values(start.dweight), db = Values(start.dbias);
  for (int64_t r = 0; r < s.rows(); ++r)
    for (int64_t j = 0; j < s.v; ++j) {
      const double g = e.dlogits[r * s.v + j];
      db[j] += g;
      for (int64_t q = 0; q < s.d; ++q) {
        dh[r * s.d + q] += g * w[j * s.d + q];
        dw[j * s.d + q] += g * h[r * s.d + q];
      }
    }
  // bf16 gradients of logits carry 2^-9 each, and dh is stored in bf16
  const double rtol = dtype == DType::kF32 ? 2e-5 : 1.6e-2,
               atol = dtype == DType::kF32 ? 2e-6 : 4e-3;
  Expect(WorstRatio(one.loss, {e.loss}, 2e-6, 1e-6) <= 1, name + ": loss");
  Expect(WorstRatio(one.dh, dh, rtol, atol) <= 1,
         name + ": dh " + std::to_string(WorstRatio(one.dh, dh, rtol, atol)));
  Expect(WorstRatio(one.dweight, dw, rtol, atol) <= 1,
         name + ": dweight " + std::to_string(WorstRatio(one.dweight, dw, rtol, atol)));
  Expect(WorstRatio(one.dbias, db, rtol, atol) <= 1, name + ": dbias");
}

void CheckDense(Level level, DType dtype, Shape s, bool shift, double smoothing,
                const std::string& name) {
  Problem one(dtype, s), three(dtype, s);
  ThreadRunner r1(1), r3(3);
  one.Dense(level, r1, shift, smoothing);
  three.Dense(level, r3, shift, smoothing);
  Expect(one.loss.Get(0) == three.loss.Get(0), name + ": dense loss differs by threads");
  const Expected e = Softmax(one, Values(one.logits), shift, smoothing);
  Expect(WorstRatio(one.loss, {e.loss}, 2e-6, 1e-6) <= 1, name + ": dense loss");
  Expect(WorstRatio(one.dlogits, e.dlogits, dtype == DType::kF32 ? 5e-6 : 8e-3, 1e-7) <= 1,
         name + ": dlogits");
}

// Data that must be refused with ErrorCode::kValue.
void CheckErrors(Level level) {
  const auto refused = [&](Problem& p, const char* what) {
    ThreadRunner runner(1);
    try {
      p.Fused(level, runner, true, 0, 0);
      Expect(false, std::string(what) + ": accepted");
    } catch (const Error& e) {
      Expect(e.code() == ErrorCode::kValue, std::string(what) + ": " + e.what());
    }
  };
  Problem none(DType::kF32, {1, 4, 8, 10}), outside(DType::kF32, {1, 4, 8, 10});
  for (int i = 0; i < 4; ++i) none.labels.Set(i, -100);
  outside.labels.Set(2, 10);
  refused(none, "all labels ignored");
  refused(outside, "label outside the vocabulary");
}

int Check(Level top) {
  const Shape shapes[] = {{1, 2, 1, 1},      {2, 5, 17, 31},   {3, 15, 33, 513},
                          {2, 65, 40, 1030}, {1, 300, 16, 63}, {2, 31, 129, 127}};
  for (int l = 0; l <= static_cast<int>(top); ++l) {
    const Level level = static_cast<Level>(l);
    for (DType dtype : {DType::kF32, DType::kBF16})
      for (const Shape& s : shapes)
        for (bool shift : {true, false}) {
          const std::string name = std::string(LevelName(level)) + " " + DTypeName(dtype) + " [" +
                                   std::to_string(s.b) + "," + std::to_string(s.t) + "," +
                                   std::to_string(s.d) + "," + std::to_string(s.v) + "]";
          for (double smoothing : {0.0, 0.1}) {
            CheckFused(level, dtype, s, shift, smoothing, name);
            if (FindKernel(kDense, level, dtype))
              CheckDense(level, dtype, s, shift, smoothing, name);
          }
        }
    CheckErrors(level);
  }
  std::printf("losses checked, %d failures\n", Failures());
  return Failures() == 0 ? 0 : 1;
}

void Bench(Level level, const std::vector<Shape>& shapes) {
  ThreadRunner runner(CpuTime() ? 1 : 2);
  std::printf("%s, %d threads\n%-5s %-16s %10s %10s %12s\n", LevelName(level), "dtype",
              "tokens,D,V", "forward ms", "fwd+bwd ms", "GFLOP/s");
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (const Shape& s : shapes) {
      if (level == Level::kGeneric && s.v > 512) continue;
      if (level < Level::kAvx512 && s.v > 4096) continue;
      Problem p(dtype, {s.b, s.t, s.d, s.v > 4096 ? 1 : s.v});
      if (s.v > 4096) {  // no dense logits at this size
        p.s = s;
        Random random(3);
        p.weight = Array(dtype, {s.v, s.d});
        p.bias = Array(DType::kF32, {s.v});
        p.dweight = Array(DType::kF32, {s.v, s.d});
        p.dbias = Array(DType::kF32, {s.v});
        for (Array* a : {&p.weight, &p.bias, &p.dweight, &p.dbias}) random.Fill(*a);
        for (int64_t i = 0; i < s.rows(); ++i) p.labels.Set(i, std::floor(random.Uniform() * s.v));
      }
      const double forward = MedianSeconds([&] {
        Call(*FindKernel(kFused, level, dtype),
             {p.h.view, p.weight.view, View{}, p.labels.view, View{}, p.loss.view, p.lse.view,
              p.factor.view},
             {-100, 0, 0, 1, 0}, runner);
      });
      const double both = MedianSeconds([&] { p.Fused(level, runner, true, 0, 1); });
      // forward, logits again, dW, dh
      const double flop = 4 * 2e-9 * static_cast<double>(s.rows() * s.d) * static_cast<double>(s.v);
      std::printf("%-5s %ld,%ld,%-8ld %10.2f %10.2f %12.0f\n", DTypeName(dtype), long(s.rows()),
                  long(s.d), long(s.v), forward * 1e3, both * 1e3, flop / both);
      std::fflush(stdout);
    }
}

}  // namespace
}  // namespace fuselm::bench

int main(int argc, char** argv) {
  using namespace fuselm;
  Level top = MachineLevel();
#if FUSELM_EMULATE_AMX
  top = Level::kAmx;
#endif
  if (argc > 1 && std::string_view(argv[1]) == "check") return bench::Check(top);
  std::vector<bench::Shape> shapes = {
      {32, 128, 128, 512}, {16, 256, 256, 4096}, {4, 1024, 768, 50304}};
  if (argc > 4) shapes = {{1, std::atol(argv[2]), std::atol(argv[3]), std::atol(argv[4])}};
  for (int l = static_cast<int>(top); l >= 0; --l)
    if (argc < 2 || std::string_view(argv[1]) == LevelName(static_cast<Level>(l)))
      bench::Bench(static_cast<Level>(l), shapes);
  return 0;
}
