// int8 weights by instruction level: `int8_bench check` compares both computations with sums in
// double; `int8_bench [level]` prints prefill in GOP/s beside the bf16 GEMM of the same run and
// decode in GB/s beside the read bandwidth of the same run. Contestants take turns; each figure is
// the fastest of its turns. FUSELM_BENCH_CPU=1 times processor seconds of one thread.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "native/bench/peak.h"
#include "native/bench/runner.h"
#include "native/core/runtime.h"

namespace fuselm::bench {
namespace {

constexpr const char* kWeightOnly = "linear_int8(x, values, scales, bias?) -> (y) [group]";
constexpr const char* kDynamic = "linear_int8_dynamic(x, values, scales, bias?) -> (y) [group]";
constexpr const char* kDense = "linear(x, weight, bias?) -> (y)";
constexpr const char* kQuantize = "quantize_int8(w) -> (values, scales) [group]";
constexpr const char* kDequantize = "dequantize_int8(values, scales) -> (w) [group, dtype]";

struct Weights {
  Array values, scales;
  int64_t group;
  Weights(int64_t n, int64_t k, int64_t group_size, uint64_t seed)
      : values(DType::kI8, {n, k}),
        scales(group_size ? Array(DType::kF32, {n, (k + group_size - 1) / group_size})
                          : Array(DType::kF32, {n})),
        group(group_size) {
    Random random(seed);
    auto* q = values.view.as<int8_t>();
    for (int64_t i = 0; i < n * k; i += 8) {
      const uint64_t bits = random.Next();
      for (int64_t j = i; j < std::min(n * k, i + 8); ++j)
        q[j] = static_cast<int8_t>(static_cast<int>(bits >> (8 * (j - i)) & 255) % 255 - 127);
    }
    for (int64_t i = 0; i < scales.view.numel(); ++i)
      scales.Set(i, 0.005 + 0.015 * random.Uniform());
  }
  double At(int64_t n, int64_t k) const {
    const int64_t columns = values.view.dim(1), groups = group ? (columns + group - 1) / group : 1;
    return values.view.as<int8_t>()[n * columns + k] *
           scales.Get(n * groups + (group ? k / group : 0));
  }
};

// x as the dynamic computation sees it: rounded to 127 steps of its row's, or group's, magnitude.
std::vector<double> Quantized(const Array& x, int64_t m, int64_t k, int64_t group) {
  std::vector<double> q(m * k);
  const int64_t size = group ? group : std::max<int64_t>(1, k);
  for (int64_t r = 0; r < m; ++r)
    for (int64_t at = 0; at < k; at += size) {
      const int64_t end = std::min(k, at + size);
      float absmax = 0;
      for (int64_t i = at; i < end; ++i)
        absmax = std::max(absmax, std::abs(static_cast<float>(x.Get(r * k + i))));
      const float scale = absmax == 0 ? 1.0f : absmax / 127.0f;
      for (int64_t i = at; i < end; ++i)
        q[r * k + i] = double{scale} * std::nearbyint(static_cast<float>(x.Get(r * k + i)) / scale);
    }
  return q;
}

void CheckShape(Level level, DType dtype, bool dynamic, int64_t m, int64_t n, int64_t k,
                int64_t group) {
  const std::string name = std::string(LevelName(level)) + " " + DTypeName(dtype) +
                           (dynamic ? " dynamic" : "") + " [" + std::to_string(m) + "," +
                           std::to_string(n) + "," + std::to_string(k) + "] group " +
                           std::to_string(group);
  const KernelInfo* kernel = FindKernel(dynamic ? kDynamic : kWeightOnly, level, dtype);
  if (!kernel) return Expect(false, name + ": no kernel");
  Array x(dtype, {m, k}), bias(DType::kF32, {n}), y(dtype, {m, n}), again(dtype, {m, n});
  const Weights w(n, k, group, 7);
  Random random(1);
  random.Fill(x);
  random.Fill(bias);
  ThreadRunner one(1), three(3);
  const double attribute = static_cast<double>(group);
  Call(*kernel, {x.view, w.values.view, w.scales.view, bias.view, y.view}, {attribute}, one);
  Call(*kernel, {x.view, w.values.view, w.scales.view, bias.view, again.view}, {attribute}, three);
  Expect(std::memcmp(y.view.data, again.view.data, m * n * ItemSize(dtype)) == 0,
         name + ": the number of threads changes bits");
  std::vector<double> seen(m * k);
  for (int64_t i = 0; i < m * k; ++i) seen[i] = x.Get(i);
  if (dynamic) seen = Quantized(x, m, k, group);
  double worst = 0;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias.Get(j), terms = std::abs(sum);
      for (int64_t q = 0; q < k; ++q) {
        const double product = seen[i * k + q] * w.At(j, q);
        sum += product;
        terms += std::abs(product);
      }
      const double allowed =
          std::abs(sum) * (dtype == DType::kF32 ? 6e-8 : 4e-3) + terms * 3e-7 + 1e-30;
      const double e = std::abs(y.Get(i * n + j) - sum) / allowed;
      if (!(e <= worst)) worst = std::isnan(e) ? INFINITY : e;
    }
  Expect(worst <= 1, name + ": error " + std::to_string(worst) + " of what rounding allows");
}

int Check(Level top) {
  const int64_t shapes[][3] = {{1, 1, 1},      {2, 17, 3},     {15, 31, 33},  {17, 33, 65},
                               {33, 63, 127},  {4, 127, 150},  {65, 1, 31},   {127, 65, 300},
                               {130, 40, 777}, {40, 1030, 50}, {9, 33, 4500}, {3, 20, 4500}};
  for (int l = 0; l <= static_cast<int>(top); ++l)
    for (DType dtype : {DType::kF32, DType::kBF16})
      for (const auto& s : shapes)
        for (int64_t group : {0, 32, 64, 128})
          for (bool dynamic : {false, true})
            CheckShape(static_cast<Level>(l), dtype, dynamic, s[0], s[1], s[2], group);
  std::printf("%d checks, %d failures\n", Checks(), Failures());
  return Failures() == 0 ? 0 : 1;
}

struct Contestant {
  std::string name;
  std::function<void()> run;
  double best = INFINITY;
};
void TakeTurns(std::vector<Contestant>& all, double budget) {
  for (auto& c : all) c.run();
  double total = 0;
  for (int round = 0; round < 5 || (total < budget && round < 200); ++round)
    for (auto& c : all) {
      const double start = Now();
      c.run();
      const double seconds = Now() - start;
      c.best = std::min(c.best, seconds);
      total += seconds;
    }
}

[[gnu::target("avx512f,avx512vnni")]] void BurnInt8() {
  __m512i acc[16], x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(2);
  for (auto& a : acc) a = _mm512_setzero_si512();
  for (int64_t i = 0; i < kPeakSteps; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) acc[j] = _mm512_dpbusd_epi32(acc[j], x, y);
    asm volatile("" : "+v"(x), "+v"(y));
  }
  for (auto& a : acc) asm volatile("" ::"v"(a));
}

[[gnu::target("avx2")]] void ReadAll(const char* p, int64_t bytes) {
  __m256i a[4] = {};
  for (int64_t i = 0; i < bytes; i += 128)
    for (int j = 0; j < 4; ++j)
      a[j] = _mm256_xor_si256(a[j],
                              _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i + 32 * j)));
  for (auto& v : a) asm volatile("" ::"x"(v));
}

void Prefill(Level level, ThreadRunner& runner) {
  double peak = 0;
  if (level >= Level::kAvx512) {
    for (int repeat = 0; repeat < 3; ++repeat) {
      const double start = Now();
      runner.Run(
          runner.workers() * 8, [](void*, int64_t, int) { BurnInt8(); }, nullptr);
      peak =
          std::max(peak, 16.0 * 128 * kPeakSteps * 8 * runner.workers() / (Now() - start) * 1e-9);
    }
  }
  std::printf("%s prefill, bf16 x; GOP/s, and as a multiple of the bf16 GEMM", LevelName(level));
  if (peak > 0) std::printf("; VPDPBUSD in registers %.0f", peak);
  std::printf("\n%-16s %8s", "rows,out,in", "bf16");
  for (const char* what : {"float", "float128", "int8", "int8/32", "int8/64", "int8/128"})
    std::printf(" %15s", what);
  std::printf("\n");
  const int64_t shapes[][3] = {{8, 2048, 2048},  {32, 2048, 2048}, {128, 2048, 2048},
                               {512, 768, 768},  {512, 2048, 768}, {512, 768, 2048},
                               {512, 4096, 4096}};
  for (const auto& s : shapes) {
    if (level == Level::kGeneric && s[0] > 128) continue;
    const int64_t m = s[0], n = s[1], k = s[2];
    Array x(DType::kBF16, {m, k}), dense(DType::kBF16, {n, k}), y(DType::kBF16, {m, n});
    Random random(3);
    random.Fill(x);
    for (int64_t i = 0; i < n * k; ++i) dense.Set(i, random.Uniform() - 0.5);
    const Weights w0(n, k, 0, 1), w32(n, k, 32, 1), w64(n, k, 64, 1), w128(n, k, 128, 1);
    const View none;
    std::vector<Contestant> all;
    all.push_back({"bf16", [&] {
                     Call(*FindKernel(kDense, level, DType::kBF16),
                          {x.view, dense.view, none, y.view}, {}, runner);
                   }});
    const auto add = [&](const char* signature, const Weights& w) {
      const KernelInfo* kernel = FindKernel(signature, level, DType::kBF16);
      all.push_back({"", [&, kernel] {
                       Call(*kernel, {x.view, w.values.view, w.scales.view, none, y.view},
                            {static_cast<double>(w.group)}, runner);
                     }});
    };
    add(kWeightOnly, w0);
    add(kWeightOnly, w128);
    add(kDynamic, w0);
    add(kDynamic, w32);
    add(kDynamic, w64);
    add(kDynamic, w128);
    TakeTurns(all, 1.5);
    const double ops = 2e-9 * static_cast<double>(m * n * k);
    std::printf("%4ld,%5ld,%5ld %8.0f", long(m), long(n), long(k), ops / all[0].best);
    for (size_t i = 1; i < all.size(); ++i)
      std::printf(" %7.0f (%5.2f)", ops / all[i].best, all[0].best / all[i].best);
    std::printf("\n");
    std::fflush(stdout);
  }
}

void Decode(Level level, ThreadRunner& runner) {
  constexpr int kSets = 3;  // more than the caches hold
  const int64_t n = 11008, k = 4096;
  std::vector<Weights> sets0, sets128;
  for (int i = 0; i < kSets; ++i) {
    sets0.emplace_back(n, k, 0, i + 1);
    sets128.emplace_back(n, k, 128, i + 1);
  }
  int turn = 0;
  std::vector<Contestant> all;
  all.push_back({"read", [&] {
                   const char* data = sets0[turn++ % kSets].values.view.as<char>();
                   static constexpr int64_t kTile = 64 << 10;
                   struct Job {
                     const char* data;
                     int64_t bytes;
                   } job{data, n * k};
                   runner.Run((n * k + kTile - 1) / kTile,
                              [](void* c, int64_t t, int) {
                                const Job& j = *static_cast<Job*>(c);
                                ReadAll(j.data + t * kTile, std::min(kTile, j.bytes - t * kTile));
                              },
                              &job);
                 }});
  std::vector<std::unique_ptr<Array>> xs, ys;
  for (const char* signature : {kWeightOnly, kDynamic})
    for (auto* sets : {&sets0, &sets128})
      for (int64_t m : {1, 2, 4}) {
        xs.push_back(std::make_unique<Array>(DType::kBF16, std::vector<int64_t>{m, k}));
        ys.push_back(std::make_unique<Array>(DType::kBF16, std::vector<int64_t>{m, n}));
        Random(5).Fill(*xs.back());
        const View x = xs.back()->view, y = ys.back()->view;
        const KernelInfo* kernel = FindKernel(signature, level, DType::kBF16);
        const std::string name = std::string(signature == kWeightOnly ? "float" : "int8 ") +
                                 " group " + std::to_string((*sets)[0].group) + ", rows " +
                                 std::to_string(m);
        all.push_back({name, [&, kernel, sets, x, y] {
                         const Weights& w = (*sets)[turn++ % kSets];
                         Call(*kernel, {x, w.values.view, w.scales.view, View(), y},
                              {static_cast<double>(w.group)}, runner);
                       }});
      }
  TakeTurns(all, 3.0);
  std::printf("%s decode, weights %ldx%ld; GB/s of weights and scales, share of reading alone\n",
              LevelName(level), long(n), long(k));
  for (auto& c : all) {
    const double bytes =
        static_cast<double>(n * k) + (c.name.find("128") != std::string::npos ? n * k / 32.0 : 0);
    std::printf("%-24s %6.1f GB/s  %.2f\n", c.name.c_str(), bytes / c.best * 1e-9,
                bytes / (n * k) * all[0].best / c.best);
  }
}

void Codec(Level level, ThreadRunner& runner) {
  const int64_t n = 8192, k = 4096;
  const KernelInfo *quantize = FindKernel(kQuantize, level, DType::kBF16),
                   *dequantize = FindKernel(kDequantize, level, DType::kF32);
  if (!quantize || !dequantize) return;  // served by a lower level
  Array dense(DType::kBF16, {n, k});
  Random random(3);
  for (int64_t i = 0; i < n * k; ++i) dense.Set(i, random.Uniform() - 0.5);
  Weights w0(n, k, 0, 1), w128(n, k, 128, 1);
  std::vector<Contestant> all;
  for (Weights* w : {&w0, &w128}) {
    const double group = static_cast<double>(w->group);
    all.push_back({"quantize, group " + std::to_string(w->group), [&, w, group] {
                     Call(*quantize, {dense.view, w->values.view, w->scales.view}, {group}, runner);
                   }});
    all.push_back(
        {"dequantize, group " + std::to_string(w->group), [&, w, group] {
           Call(*dequantize, {w->values.view, w->scales.view, dense.view}, {group, 2}, runner);
         }});
  }
  TakeTurns(all, 1.5);
  std::printf("%s codec, bf16 %ldx%ld; GB/s read and written\n", LevelName(level), long(n),
              long(k));
  for (auto& c : all)
    std::printf("%-24s %6.1f GB/s\n", c.name.c_str(), 3e-9 * static_cast<double>(n * k) / c.best);
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
  ThreadRunner runner(CpuTime() ? 1 : 2);
  for (int l = static_cast<int>(top); l >= 0; --l) {
    const Level level = static_cast<Level>(l);
    if (argc >= 2 && std::string_view(argv[1]) != LevelName(level)) continue;
    Prefill(level, runner);
    Decode(level, runner);
    Codec(level, runner);
  }
  return 0;
}
