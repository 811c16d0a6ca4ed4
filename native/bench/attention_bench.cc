// Checks attention and its backward against float64 at every level, then prints GFLOP/s
// (causal: half of the square is counted). Arguments: [check|bench] [level]
#include "native/bench/runner.h"

using namespace fuselm;
using namespace fuselm::bench;

namespace {

const char* const kForward =
    "attention(q, k, v, first?, last?) -> (out, lse?) [scale, causal, window]";
const char* const kBackward =
    "attention.backward(dout, q, k, v, out, lse, first?, last?) -> (dq, dk, dv) [scale, causal, "
    "window]";
constexpr Level kLevels[] = {Level::kGeneric, Level::kAvx2, Level::kAvx512, Level::kAvx512Bf16,
                             Level::kAmx};

ThreadRunner one(1), two(2);

struct Shape {
  int64_t B, T, S, H, Hkv, D;
  bool causal;
  int intervals;  // 0: none; 1: documents in `first`; 2: random first and last, some empty
  int64_t window = 0;
  std::vector<double> Attributes(double scale) const {
    return {scale, causal ? 1.0 : 0.0, static_cast<double>(window)};
  }
};

struct Tensors {
  Array q, k, v, dout, out, lse, dq, dk, dv, first, last;
  double scale;

  Tensors(const Shape& s, DType t, double spread)
      : q(t, {s.B, s.T, s.H, s.D}, 3),
        k(t, {s.B, s.S, s.Hkv, s.D}),
        v(t, {s.B, s.S, s.Hkv, s.D}, 1),
        dout(t, {s.B, s.T, s.H, s.D}),
        out(t, {s.B, s.T, s.H, s.D}),
        lse(DType::kF32, {s.B, s.H, s.T}),
        dq(t, {s.B, s.T, s.H, s.D}),
        dk(t, {s.B, s.S, s.Hkv, s.D}),
        dv(t, {s.B, s.S, s.Hkv, s.D}),
        first(DType::kI32, {s.B, s.T}),
        last(DType::kI32, {s.B, s.T}),
        scale(1 / std::sqrt(s.D)) {
    Random random(s.T * 131 + s.D);
    for (Array* a : {&q, &k, &v, &dout})
      for (int64_t i = 0; i < a->view.numel(); ++i)
        a->Set(i, random.Normal() * (a == &q ? spread : 1));
    for (int64_t i = 0; i < s.B * s.T; ++i) {
      const int64_t t = i % s.T;
      first.Set(
          i, s.intervals == 1 ? t / 37 * 37 : static_cast<double>(random.Next() % (s.S + 3)) - 2);
      last.Set(i, static_cast<double>(random.Next() % (s.S + 4)) - 2);
    }
  }
  std::vector<View> ForwardArgs(const Shape& s) const {
    return {q.view,
            k.view,
            v.view,
            s.intervals ? first.view : View{},
            s.intervals == 2 ? last.view : View{},
            out.view,
            lse.view};
  }
  std::vector<View> BackwardArgs(const Shape& s) const {
    return {dout.view,
            q.view,
            k.view,
            v.view,
            out.view,
            lse.view,
            s.intervals ? first.view : View{},
            s.intervals == 2 ? last.view : View{},
            dq.view,
            dk.view,
            dv.view};
  }
};

struct Expected {
  std::vector<double> out, lse, dq, dk, dv;
};

Expected Naive(const Shape& s, const Tensors& x) {
  Expected e{std::vector<double>(s.B * s.T * s.H * s.D), std::vector<double>(s.B * s.H * s.T),
             std::vector<double>(s.B * s.T * s.H * s.D),
             std::vector<double>(s.B * s.S * s.Hkv * s.D),
             std::vector<double>(s.B * s.S * s.Hkv * s.D)};
  std::vector<double> p(s.S);
  for (int64_t b = 0; b < s.B; ++b)
    for (int64_t h = 0; h < s.H; ++h)
      for (int64_t t = 0; t < s.T; ++t) {
        const int64_t qi = ((b * s.T + t) * s.H + h) * s.D;
        const auto ki = [&](int64_t j) {
          return ((b * s.S + j) * s.Hkv + h / (s.H / s.Hkv)) * s.D;
        };
        int64_t low = 0, high = s.S - 1;
        if (s.causal) high = std::min(high, t + s.S - s.T);
        if (s.window) low = std::max(low, t + s.S - s.T + 1 - s.window);
        if (s.intervals)
          low = std::max<int64_t>(low, static_cast<int64_t>(x.first.Get(b * s.T + t)));
        if (s.intervals == 2)
          high = std::min<int64_t>(high, static_cast<int64_t>(x.last.Get(b * s.T + t)));
        double top = -INFINITY, sum = 0, delta = 0;
        for (int64_t j = low; j <= high; ++j) {
          p[j] = 0;
          for (int64_t d = 0; d < s.D; ++d) p[j] += x.scale * x.q.Get(qi + d) * x.k.Get(ki(j) + d);
          top = std::max(top, p[j]);
        }
        for (int64_t j = low; j <= high; ++j) sum += p[j] = std::exp(p[j] - top);
        e.lse[(b * s.H + h) * s.T + t] = low > high ? -INFINITY : top + std::log(sum);
        for (int64_t j = low; j <= high; ++j)
          for (int64_t d = 0; d < s.D; ++d) e.out[qi + d] += p[j] / sum * x.v.Get(ki(j) + d);
        for (int64_t d = 0; d < s.D; ++d) delta += e.out[qi + d] * x.dout.Get(qi + d);
        for (int64_t j = low; j <= high; ++j) {
          double dp = 0;
          for (int64_t d = 0; d < s.D; ++d) dp += x.dout.Get(qi + d) * x.v.Get(ki(j) + d);
          const double ds = p[j] / sum * (dp - delta) * x.scale;
          for (int64_t d = 0; d < s.D; ++d) {
            e.dv[ki(j) + d] += p[j] / sum * x.dout.Get(qi + d);
            e.dk[ki(j) + d] += ds * x.q.Get(qi + d);
            e.dq[qi + d] += ds * x.k.Get(ki(j) + d);
          }
        }
      }
  return e;
}

void CheckShape(const Shape& s, DType dtype, double spread, const char* only) {
  Tensors x(s, dtype, spread);
  const Expected e = Naive(s, x);
  for (const Level level : kLevels) {
    const KernelInfo *forward = FindKernel(kForward, level, dtype),
                     *backward = FindKernel(kBackward, level, dtype);
    if (!forward || !backward || !MachineHas(level) ||
        (only && std::strcmp(only, LevelName(level))))
      continue;
    char where[200];
    std::snprintf(where, sizeof where,
                  "%s %s B%d T%d S%d H%d/%d D%d causal %d intervals %d window %d spread %g",
                  LevelName(level), DTypeName(dtype), int(s.B), int(s.T), int(s.S), int(s.H),
                  int(s.Hkv), int(s.D), s.causal, s.intervals, int(s.window), spread);
    // Errors of scores grow with their size, so float32 tolerances follow the spread.
    // bf16: P, dS and the saved output are rounded to 8 bits, so errors follow the size of what is
    // summed rather than of each result
    const double rtol = dtype == DType::kF32 ? 1e-5 : 1.6e-2;
    const double atol = (dtype == DType::kF32 ? 2e-5 : 4e-2) * std::max(1.0, spread * spread / 40);
    const auto check = [&](const char* what, const Array& actual,
                           const std::vector<double>& expected) {
      double worst = 0, size = 0, error = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        const double a = actual.Get(static_cast<int64_t>(i)), b = expected[i];
        if (a == b) continue;
        const double ratio = std::abs(a - b) / (atol + rtol * std::abs(b));
        worst = ratio <= worst ? worst : std::isnan(ratio) ? INFINITY : ratio;
        size += b * b, error += (a - b) * (a - b);
      }
      // relative L2 error is the sharper test
      const double relative = size > 0 ? std::sqrt(error / size) : 0;
      Expect(worst <= 1 && relative <= (dtype == DType::kF32 ? 3e-6 * std::max(1.0, spread) : 8e-3),
             std::string(where) + " " + what + ": " + std::to_string(worst) +
                 " tolerances, relative L2 " + std::to_string(relative));
    };
    std::vector<double> before;
    for (ThreadRunner* runner : {&two, &one}) {
      Call(*forward, x.ForwardArgs(s), s.Attributes(x.scale), *runner);
      Call(*backward, x.BackwardArgs(s), s.Attributes(x.scale), *runner);
      std::vector<double> now;
      for (const Array* a : {&x.out, &x.lse, &x.dq, &x.dk, &x.dv})
        for (int64_t i = 0; i < a->view.numel(); ++i) now.push_back(a->Get(i));
      Expect(before.empty() || before == now,
             std::string(where) + ": differs between 1 and 2 threads");
      before = now;
    }
    check("out", x.out, e.out);
    check("lse", x.lse, e.lse);
    check("dq", x.dq, e.dq);
    check("dk", x.dk, e.dk);
    check("dv", x.dv, e.dv);
  }
}

void CheckAll(const char* only) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t T : {1, 15, 17, 31, 33, 63, 65, 127})
      for (const int intervals : {0, 1, 2}) {
        CheckShape({1, T, T, 2, 1, 40, true, intervals}, dtype, 1, only);
        CheckShape({2, T, T + 9, 2, 2, 64, intervals != 1, intervals}, dtype, 1, only);
      }
    for (const int64_t D : {1, 7, 8, 32, 33, 80, 96, 127, 128, 256})
      CheckShape({1, 70, 130, 2, 1, D, true, 0}, dtype, 1, only);
    CheckShape({1, 700, 700, 6, 2, 64, true, 1}, dtype, 1, only);
    CheckShape({1, 300, 900, 4, 1, 32, true, 2}, dtype, 1, only);
    CheckShape({1, 900, 300, 1, 1, 32, false, 0}, dtype, 1, only);
    CheckShape({1, 900, 300, 1, 1, 32, true, 0}, dtype, 1,
               only);  // the first 600 queries see nothing
    CheckShape({1, 1, 1000, 4, 2, 64, true, 0}, dtype, 1, only);
    for (const int intervals : {0, 1}) {
      CheckShape({1, 700, 700, 6, 2, 64, true, intervals, 100}, dtype, 1, only);
      CheckShape({1, 300, 900, 2, 1, 32, true, intervals, 333}, dtype, 1, only);
    }
    // so many keys that the work is cut along them, too (at the generic level most are)
    CheckShape({1, 40, 9000, 2, 1, 128, true, 0}, dtype, 1, only);
    CheckShape({1, 40, 4000, 2, 1, 256, true, 2}, dtype, 1, only);
    CheckShape({1, 0, 8, 1, 1, 8, true, 0}, dtype, 1, only);
    CheckShape({1, 8, 0, 1, 1, 8, false, 0}, dtype, 1, only);
    if (dtype == DType::kF32) CheckShape({1, 130, 130, 2, 2, 64, true, 0}, dtype, 20, only);
  }
}

void Bench(const char* only) {
  for (const Shape& s :
       {Shape{4, 1024, 1024, 12, 12, 64, true, 0}, Shape{16, 256, 256, 4, 4, 64, true, 0},
        Shape{32, 128, 128, 4, 4, 32, true, 0}, Shape{1, 4096, 4096, 4, 4, 128, true, 0}})
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      Tensors x(s, dtype, 1);
      for (const Level level : kLevels) {
        const KernelInfo *forward = FindKernel(kForward, level, dtype),
                         *backward = FindKernel(kBackward, level, dtype);
        if (!forward || !backward || !MachineHas(level) ||
            (only && std::strcmp(only, LevelName(level))))
          continue;
        const double work =
            2.0 * s.B * s.H * s.T * s.S * s.D;  // causal: two products, half the square
        const double f = MedianSeconds([&] {
          Call(*forward, x.ForwardArgs(s), s.Attributes(x.scale), CpuTime() ? one : two);
        });
        const double b = MedianSeconds([&] {
          Call(*backward, x.BackwardArgs(s), s.Attributes(x.scale), CpuTime() ? one : two);
        });
        std::printf(
            "B%-2d H%-2d T%-4d D%-3d %-4s %-10s forward %8.3f ms %7.1f GFLOP/s  backward %8.3f ms "
            "%7.1f GFLOP/s\n",
            int(s.B), int(s.H), int(s.T), int(s.D), DTypeName(dtype), LevelName(level), f * 1e3,
            work / f * 1e-9, b * 1e3, 2.5 * work / b * 1e-9);
        std::fflush(stdout);
      }
    }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "check";
  const char* only = argc > 2 ? argv[2] : nullptr;
  if (mode == "check") CheckAll(only);
  if (mode == "bench") Bench(only);
  std::printf("%d checks, %d failed\n", Checks(), Failures());
  return Failures() ? 1 : 0;
}
