// GEMM by instruction level: `gemm_bench check` compares every registered linear kernel with
// sums in double, and one thread with three bitwise; `gemm_bench [level [cpu]]` prints GFLOP/s on
// the training shapes beside the machine's own multiply-add peak.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include "native/bench/peak.h"
#include "native/bench/runner.h"
#include "native/core/runtime.h"

namespace fuselm::bench {
namespace {

constexpr const char* kForward = "linear(x, weight, bias?) -> (y)";
constexpr const char* kDx = "linear.dx(dy, weight) -> (dx)";
constexpr const char* kDw = "linear.dw(dy, x, dw!, dbias!?) [accumulate]";

struct Linear {
  Array x, w, bias, y, dy, dx, dw, dbias;
  // Inputs and gradients start from the same values each time; `padding` widens their rows.
  Linear(DType dtype, int64_t t, int64_t n, int64_t k, int64_t padding)
      : x(dtype, {t, k}, padding),
        w(dtype, {n, k}, padding),
        bias(DType::kF32, {n}),
        y(dtype, {t, n}),
        dy(dtype, {t, n}, padding),
        dx(dtype, {t, k}),
        dw(DType::kF32, {n, k}),
        dbias(DType::kF32, {n}) {
    Random random(1);
    for (Array* a : {&x, &w, &bias, &dy, &dw, &dbias}) random.Fill(*a);
  }
};

std::vector<double> Values(const Array& a) {
  std::vector<double> v(a.view.numel());
  for (size_t i = 0; i < v.size(); ++i) v[i] = a.Get(static_cast<int64_t>(i));
  return v;
}

// Error as a share of what rounding allows: the stored result's, and that of a float32 sum of
// terms with this total magnitude.
struct Worst {
  double share = 0;
  void Add(double got, double want, double terms, DType stored) {
    const double allowed =
        std::abs(want) * (stored == DType::kF32 ? 6e-8 : 4e-3) + terms * 3e-7 + 1e-30;
    const double e = std::abs(got - want) / allowed;
    if (!(e <= share)) share = std::isnan(e) ? INFINITY : e;
  }
};

// out[i, j] = start[i, j] + sum over k of a(i, k) b(j, k), compared in double.
template <class A, class B>
void Compare(Worst& worst, const Array& out, const std::vector<double>& start, int64_t m, int64_t n,
             int64_t k, A a, B b) {
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = start.empty() ? 0 : start[start.size() == size_t(n) ? j : i * n + j];
      double terms = std::abs(sum);
      for (int64_t q = 0; q < k; ++q) {
        const double product = a(i, q) * b(j, q);
        sum += product;
        terms += std::abs(product);
      }
      worst.Add(out.Get(i * n + j), sum, terms, out.view.dtype);
    }
}

void CheckShape(Level level, DType dtype, int64_t t, int64_t n, int64_t k) {
  const std::string name = std::string(LevelName(level)) + " " + DTypeName(dtype) + " [" +
                           std::to_string(t) + "," + std::to_string(n) + "," + std::to_string(k) +
                           "]";
  const KernelInfo* kernels[] = {FindKernel(kForward, level, dtype), FindKernel(kDx, level, dtype),
                                 FindKernel(kDw, level, dtype)};
  for (const KernelInfo* kernel : kernels)
    if (!kernel) return Expect(false, name + ": no kernel");
  const Linear before(dtype, t, n, k, 3);
  Linear one(dtype, t, n, k, 3), three(dtype, t, n, k, 3);
  for (Linear* l : {&one, &three}) {
    ThreadRunner runner(l == &one ? 1 : 3);
    Call(*kernels[0], {l->x.view, l->w.view, l->bias.view, l->y.view}, {}, runner);
    Call(*kernels[1], {l->dy.view, l->w.view, l->dx.view}, {}, runner);
    Call(*kernels[2], {l->dy.view, l->x.view, l->dw.view, l->dbias.view}, {1.0}, runner);
  }
  for (Array Linear::*out : {&Linear::y, &Linear::dx, &Linear::dw, &Linear::dbias}) {
    const View &a = (one.*out).view, &b = (three.*out).view;
    Expect(std::memcmp(a.data, b.data, a.numel() * ItemSize(a.dtype)) == 0,
           name + ": the number of threads changes bits");
  }
  const auto x = Values(one.x), w = Values(one.w), dy = Values(one.dy);
  Worst worst;
  Compare(
      worst, one.y, Values(one.bias), t, n, k, [&](int64_t i, int64_t q) { return x[i * k + q]; },
      [&](int64_t j, int64_t q) { return w[j * k + q]; });
  Compare(
      worst, one.dx, {}, t, k, n, [&](int64_t i, int64_t q) { return dy[i * n + q]; },
      [&](int64_t j, int64_t q) { return w[q * k + j]; });
  Compare(
      worst, one.dw, Values(before.dw), n, k, t,
      [&](int64_t i, int64_t q) { return dy[q * n + i]; },
      [&](int64_t j, int64_t q) { return x[q * k + j]; });
  Compare(
      worst, one.dbias, Values(before.dbias), 1, n, t, [](int64_t, int64_t) { return 1.0; },
      [&](int64_t j, int64_t q) { return dy[q * n + j]; });
  Expect(worst.share <= 1,
         name + ": error " + std::to_string(worst.share) + " of what rounding allows");
}

int Check(Level top) {
  const int64_t shapes[][3] = {
      {1, 1, 1},     {1, 17, 3},    {15, 31, 33},   {17, 33, 65},   {33, 63, 127},  {63, 127, 15},
      {65, 1, 31},   {127, 65, 17}, {130, 40, 777}, {300, 70, 200}, {40, 1030, 50}, {4500, 9, 20},
      {20, 9, 4500}, {9, 4500, 20}, {0, 5, 7},      {5, 7, 0},      {115, 97, 385}, {1, 300, 130},
      {2, 70, 300},  {3, 33, 1000}, {4, 200, 77}};
  int checks = 0;
  for (int l = 0; l <= static_cast<int>(top); ++l)
    for (DType dtype : {DType::kF32, DType::kBF16})
      for (const auto& s : shapes) {
        CheckShape(static_cast<Level>(l), dtype, s[0], s[1], s[2]);
        ++checks;
      }
  std::printf("%d shapes checked, %d failures\n", checks, Failures());
  return Failures() == 0 ? 0 : 1;
}

// Shortest CPU time of one call on one thread: fair on a machine that others load.
template <class F>
double CpuSeconds(F&& f) {
  const auto now = [] {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  f();
  double best = INFINITY, total = 0;
  for (int i = 0; i < 5 || (total < 0.4 && i < 400); ++i) {
    const double start = now();
    f();
    best = std::min(best, now() - start);
    total += best;
  }
  return best;
}

// `threads` 1 is timed by CPU time, more by the clock.
void Bench(Level level, int threads) {
  const auto seconds = [&](auto&& f) { return threads == 1 ? CpuSeconds(f) : MedianSeconds(f); };
  ThreadRunner runner(threads);
  const double f32_peak = PeakGflops(runner, level, Arithmetic::kF32);
  const double bf16_peak = PeakGflops(runner, level, Arithmetic::kBf16);
  std::printf("%s, %d threads; peak f32 %.0f, bf16 %.0f GFLOP/s\n", LevelName(level), threads,
              f32_peak, bf16_peak);
  std::printf("%-5s %-18s %8s %8s %8s   share of peak\n", "dtype", "tokens,out,in", "y", "dx",
              "dw");
  const int64_t shapes[][3] = {
      {4096, 128, 128},  {4096, 384, 128},   {4096, 128, 384},  {4096, 512, 128}, {4096, 256, 256},
      {4096, 768, 256},  {4096, 256, 768},   {4096, 4096, 256}, {4096, 768, 768}, {4096, 2048, 768},
      {4096, 768, 2048}, {2048, 2048, 2048}, {512, 50304, 768}};
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (const auto& s : shapes) {
      if (level == Level::kGeneric && s[1] * s[2] > 100000) continue;
      Linear l(dtype, s[0], s[1], s[2], 0);
      const View none;
      const double flop = 2.0 * s[0] * s[1] * s[2] * 1e-9;
      const double peak = dtype == DType::kF32 ? f32_peak : bf16_peak;
      const KernelInfo &forward = *FindKernel(kForward, level, dtype),
                       &dx_kernel = *FindKernel(kDx, level, dtype),
                       &dw_kernel = *FindKernel(kDw, level, dtype);
      const double y = flop / seconds([&] {
                         Call(forward, {l.x.view, l.w.view, none, l.y.view}, {}, runner);
                       });
      const double dx = flop / seconds([&] {
                          Call(dx_kernel, {l.dy.view, l.w.view, l.dx.view}, {}, runner);
                        });
      const double dw = flop / seconds([&] {
                          Call(dw_kernel, {l.dy.view, l.x.view, l.dw.view, none}, {1.0}, runner);
                        });
      char name[64];
      std::snprintf(name, sizeof name, "%ld,%ld,%ld", long(s[0]), long(s[1]), long(s[2]));
      std::printf("%-5s %-18s %8.1f %8.1f %8.1f   %.2f %.2f %.2f\n", DTypeName(dtype), name, y, dx,
                  dw, y / peak, dx / peak, dw / peak);
      std::fflush(stdout);
    }
}

}  // namespace
}  // namespace fuselm::bench

int main(int argc, char** argv) {
  using namespace fuselm;
  using namespace fuselm::bench;
  Level top = MachineLevel();
#if FUSELM_EMULATE_AMX
  top = Level::kAmx;
#endif
  if (argc > 1 && std::string_view(argv[1]) == "check") return Check(top);
  const int threads = argc > 2 && std::string_view(argv[2]) == "cpu" ? 1 : 2;
  for (int l = static_cast<int>(top); l >= 0; --l)
    if (argc < 2 || std::string_view(argv[1]) == LevelName(static_cast<Level>(l)))
      Bench(static_cast<Level>(l), threads);
  return 0;
}
