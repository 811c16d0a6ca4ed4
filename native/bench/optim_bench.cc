// adam_w, grad_norm, dropout and sample: checks against double arithmetic written here, one thread
// against three bitwise, and bandwidth beside that of a plain copy.
#include <functional>

#include "native/bench/runner.h"

namespace fuselm::bench {
namespace {

constexpr const char* kAdamW =
    "adam_w(norm, hyper, decay, state!, ...(param!, low!?, grad, m!, v!)) "
    "[beta1, beta2, eps, clipNorm]";
constexpr const char* kGradNorm = "grad_norm(...(grad)) -> (norm)";
constexpr const char* kDropout = "dropout(x, key) -> (y) [p]";
constexpr const char* kSample =
    "sample(logits, key, history?) -> (ids, logprobs) "
    "[temperature, topK, topP, minP, repetitionPenalty]";
constexpr const char* kTopK = "top_k(x) -> (values, indices) [k]";
constexpr Level kLevels[] = {Level::kGeneric, Level::kAvx2, Level::kAvx512};

float Join(uint16_t high, uint16_t low) {
  return std::bit_cast<float>(
      ((static_cast<uint32_t>(high) - (static_cast<uint32_t>(low) >> 15)) << 16) | low);
}

// One parameter with its state; bf16 has a low half.
struct Parameter {
  Array param, low, grad, m, v;
  bool split;
  Parameter(std::vector<int64_t> shape, bool bf16, Random& random)
      : param(bf16 ? DType::kBF16 : DType::kF32, shape),
        low(DType::kU16, shape),
        grad(DType::kF32, shape),
        m(DType::kF32, shape),
        v(DType::kF32, shape),
        split(bf16) {
    random.Fill(param);
    random.Fill(grad);
    for (int64_t i = 0; i < size(); ++i) {
      m.view.as<float>()[i] = 0;
      v.view.as<float>()[i] = 0;
      low.view.as<uint16_t>()[i] = 0;
    }
  }
  int64_t size() const { return param.view.numel(); }
  float Master(int64_t i) const {
    return split ? Join(param.view.as<uint16_t>()[i], low.view.as<uint16_t>()[i])
                 : param.view.as<float>()[i];
  }
};

struct Optimizer {
  Array norm{DType::kF32, {}}, hyper{DType::kF32, {2}}, decay, state{DType::kI32, {2}};
  std::vector<Parameter> parameters;
  Optimizer(const std::vector<std::vector<int64_t>>& shapes, bool bf16, uint64_t seed)
      : decay(DType::kF32, {static_cast<int64_t>(shapes.size())}) {
    Random random(seed);
    for (size_t i = 0; i < shapes.size(); ++i) {
      const bool matrix = shapes[i].size() > 1;
      parameters.emplace_back(shapes[i], bf16 && matrix, random);
      decay.Set(static_cast<int64_t>(i), matrix ? 0.1 : 0);
    }
    hyper.Set(0, 1e-2);
    hyper.Set(1, 1);
    state.Set(0, 0);
    state.Set(1, 0);
  }
  void Norm(Level level, ThreadRunner& runner) {
    std::vector<View> args = {norm.view};
    for (auto& p : parameters) args.push_back(p.grad.view);
    Call(*FindKernel(kGradNorm, level, DType::kF32), args, {}, runner);
  }
  void Update(Level level, double clip, ThreadRunner& runner) {
    std::vector<View> args = {norm.view, hyper.view, decay.view, state.view};
    for (auto& p : parameters) {
      for (const View& view :
           {p.param.view, p.split ? p.low.view : View{}, p.grad.view, p.m.view, p.v.view}) {
        args.push_back(view);
      }
    }
    Call(*FindKernel(kAdamW, level, DType::kF32), args, {0.9, 0.95, 1e-8, clip}, runner);
  }
};

const std::vector<std::vector<int64_t>> kShapes = {{33, 65}, {17}, {0}, {300, 257}, {1}, {127}};

void CheckAdamW(Level level, bool bf16) {
  const std::string name = std::string("adam_w ") + LevelName(level) + (bf16 ? " bf16" : " f32");
  ThreadRunner one(1), three(3);
  Optimizer a(kShapes, bf16, 1), b(kShapes, bf16, 1);
  std::vector<std::vector<double>> master, m, v;
  for (auto& p : a.parameters) {
    master.emplace_back(p.size());
    for (int64_t i = 0; i < p.size(); ++i) master.back()[i] = p.Master(i);
    m.emplace_back(p.size(), 0.0);
    v.emplace_back(p.size(), 0.0);
  }
  Random random(2);
  double worst = 0;
  for (int step = 1; step <= 5; ++step) {
    double square = 0;
    for (size_t t = 0; t < a.parameters.size(); ++t) {
      random.Fill(a.parameters[t].grad);
      for (int64_t i = 0; i < a.parameters[t].size(); ++i) {
        const double g = a.parameters[t].grad.Get(i);
        b.parameters[t].grad.Set(i, g);
        square += g * g;
      }
    }
    const double clip = step % 2 ? 1.0 : 0.0;
    a.Norm(level, one);
    b.Norm(level, three);
    a.Update(level, clip, one);
    b.Update(level, clip, three);
    Expect(std::abs(a.norm.Get(0) / std::sqrt(square) - 1) < 1e-6, name + " norm");
    const double factor = clip > 0 ? std::min(1.0, clip / (std::sqrt(square) + 1e-6)) : 1;
    for (size_t t = 0; t < a.parameters.size(); ++t) {
      const Parameter &p = a.parameters[t], &q = b.parameters[t];
      const double decay = a.decay.Get(static_cast<int64_t>(t));
      for (int64_t i = 0; i < p.size(); ++i) {
        const double g = p.grad.Get(i) * factor;
        double &mi = m[t][i], &vi = v[t][i], &w = master[t][i];
        w *= 1 - 1e-2 * decay;
        mi += 0.1 * (g - mi);
        vi = 0.95 * vi + 0.05 * g * g;
        w -= 1e-2 / (1 - std::pow(0.9, step)) * mi /
             (std::sqrt(vi) / std::sqrt(1 - std::pow(0.95, step)) + 1e-8);
        worst = std::max(worst, std::abs(p.Master(i) - w) / (std::abs(w) + 1e-2));
        Expect(p.Master(i) == q.Master(i), name + " depends on threads");
      }
    }
  }
  Expect(worst < 2e-6, name + " differs by " + std::to_string(worst));
  // rounded to nearest: the visible weight is the master's nearest bf16 (ties away from zero)
  const Parameter& p = a.parameters[0];
  for (int64_t i = 0; bf16 && i < p.size(); ++i) {
    const float up = std::abs(p.Master(i) - static_cast<float>(p.param.view.as<fuselm::bf16>()[i]));
    const float best = std::abs(p.Master(i) - static_cast<float>(fuselm::bf16(p.Master(i))));
    Expect(up == best, name + " weight is not the nearest");
  }
  Expect(a.state.Get(0) == 5 && a.state.Get(1) == 0, name + " step count");

  const std::vector<float> before(p.m.view.as<float>(), p.m.view.as<float>() + p.size());
  const float weight = p.Master(0);
  for (const float bad : {NAN, INFINITY}) {
    a.norm.Set(0, bad);
    a.Update(level, 1, one);
  }
  Expect(a.state.Get(0) == 5 && a.state.Get(1) == 2 && p.Master(0) == weight &&
             std::equal(before.begin(), before.end(), p.m.view.as<float>()),
         name + " writes on a non-finite norm");
}

void CheckDropout(Level level, DType dtype) {
  const std::string name = std::string("dropout ") + LevelName(level);
  const KernelInfo& kernel = *FindKernel(kDropout, level, dtype);
  ThreadRunner one(1), three(3);
  Random random(3);
  const int64_t n = 100'003;
  Array x(dtype, {n}), y(dtype, {n}), z(dtype, {n}), key(DType::kU32, {4});
  random.Fill(x);
  for (int i = 0; i < 4; ++i) key.view.as<uint32_t>()[i] = 7u * i + 1;
  Call(kernel, {x.view, key.view, y.view}, {0.3}, one);
  Call(kernel, {x.view, key.view, z.view}, {0.3}, three);
  int64_t dropped = 0;
  for (int64_t i = 0; i < n; ++i) {
    Expect(y.Get(i) == z.Get(i), name + " depends on threads");
    if (y.Get(i) == 0) {
      ++dropped;
    } else {
      Expect(std::abs(y.Get(i) * 0.7 / x.Get(i) - 1) < (dtype == DType::kF32 ? 1e-6 : 8e-3),
             name + " scale");
    }
  }
  // 5 standard deviations of a binomial
  Expect(std::abs(dropped - 0.3 * n) < 5 * std::sqrt(n * 0.3 * 0.7), name + " drop rate");
  key.view.as<uint32_t>()[3]++;
  Call(kernel, {x.view, key.view, z.view}, {0.3}, one);
  int64_t same = 0;
  for (int64_t i = 0; i < n; ++i) same += (y.Get(i) == 0) == (z.Get(i) == 0);
  Expect(std::abs(same - 0.58 * n) < 5 * std::sqrt(n * 0.58 * 0.42), name + " calls correlate");
}

void CheckSample(Level level) {
  const std::string name = std::string("sample ") + LevelName(level);
  const KernelInfo& kernel = *FindKernel(kSample, level, DType::kF32);
  ThreadRunner runner(2);
  const int64_t rows = 20'000, size = 5;
  const double p[size] = {0.4, 0.3, 0.15, 0.1, 0.05};
  Array logits(DType::kF32, {rows, size}), key(DType::kU32, {rows, 4}), ids(DType::kI32, {rows}),
      logprobs(DType::kF32, {rows});
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < size; ++i) logits.Set(r * size + i, std::log(p[i]));
    for (int64_t i = 0; i < 4; ++i)
      key.view.as<uint32_t>()[r * 4 + i] = static_cast<uint32_t>(r * i + i);
  }
  struct Case {
    double temperature, top_k, top_p;
    std::vector<double> expected;
  };
  for (const Case& c :
       {Case{1, 0, 1, {0.4, 0.3, 0.15, 0.1, 0.05}}, Case{0, 0, 1, {1, 0, 0, 0, 0}},
        Case{1, 2, 1, {4. / 7, 3. / 7, 0, 0, 0}},
        Case{1, 0, 0.71, {8. / 17, 6. / 17, 3. / 17, 0, 0}}, Case{1, 2, 0.5, {1, 0, 0, 0, 0}},
        Case{0.5, 3, 1, {.16 / .2725, .09 / .2725, .0225 / .2725, 0, 0}}}) {
    Call(kernel, {logits.view, key.view, View{}, ids.view, logprobs.view},
         {c.temperature, c.top_k, c.top_p, 0, 1}, runner);
    const double given = std::log(p[static_cast<size_t>(ids.Get(0))]);
    Expect(std::abs(logprobs.Get(0) - given) < 1e-6, name + " log-probability");
    std::vector<double> count(size, 0);
    for (int64_t r = 0; r < rows; ++r) count[static_cast<size_t>(ids.Get(r))] += 1;
    for (int64_t i = 0; i < size; ++i) {
      const double e = c.expected[static_cast<size_t>(i)];
      Expect(
          std::abs(count[static_cast<size_t>(i)] - e * rows) <= 5 * std::sqrt(rows * e * (1 - e)),
          name + " frequency of " + std::to_string(i));
    }
  }
}

void Print(const char* what, Level level, double bytes, double seconds, double copy) {
  std::printf("%-24s %-8s %8.2f ms  %6.2f GB/s  %5.2f of copy\n", what, LevelName(level),
              seconds * 1e3, bytes / seconds * 1e-9, bytes / seconds * 1e-9 / copy);
}

// GB/s read plus written by memcpy on the same threads, over arrays far larger than the cache.
double CopyBandwidth(ThreadRunner& runner) {
  const int64_t bytes = int64_t{512} << 20, chunk = 1 << 20;
  Block from = Allocate(bytes), to = Allocate(bytes);
  std::memset(from.get(), 1, bytes);
  std::memset(to.get(), 2, bytes);
  auto copy = [&](int64_t tile) {
    std::memcpy(to.get() + tile * chunk, from.get() + tile * chunk, chunk);
  };
  const double seconds = MedianSeconds(
      [&] {
        runner.Run(
            bytes / chunk,
            [](void* f, int64_t tile, int) { (*static_cast<decltype(copy)*>(f))(tile); }, &copy);
      },
      1.0);
  return 2.0 * static_cast<double>(bytes) / seconds * 1e-9;
}

void Bench() {
  ThreadRunner runner(2);
  const double copy = CopyBandwidth(runner);
  std::printf("copy %.1f GB/s (read + written, 2 threads)\n", copy);
  Optimizer optimizer({{50304, 768}, {12 * 2048, 768}, {12 * 768, 2048}, {25 * 768}}, true, 5);
  double parameters = 0;
  for (auto& p : optimizer.parameters) parameters += static_cast<double>(p.size());
  for (const Level level : kLevels) {
    if (!MachineHas(level)) continue;
    Print("grad_norm 76M", level, 4 * parameters,
          MedianSeconds([&] { optimizer.Norm(level, runner); }), copy);
    Print("adam_w 76M bf16", level, 28 * parameters,
          MedianSeconds([&] { optimizer.Update(level, 1, runner); }, 1.0), copy);
  }
  const int64_t n = 1 << 24;
  Array x(DType::kBF16, {n}), y(DType::kBF16, {n}), key(DType::kU32, {4});
  std::memset(x.view.data, 0x3f, n * 2);
  for (const Level level : kLevels) {
    if (!MachineHas(level)) continue;
    Print("dropout 16M bf16", level, 4.0 * n, MedianSeconds([&] {
            Call(*FindKernel(kDropout, level, DType::kBF16), {x.view, key.view, y.view}, {0.1},
                 runner);
          }),
          copy);
  }
  const int64_t vocabulary = 50304;
  Random random(9);
  constexpr int64_t kTop = 50;
  Array logits(DType::kF32, {8, vocabulary}), keys(DType::kU32, {8, 4}), ids(DType::kI32, {8}),
      logprobs(DType::kF32, {8}), values(DType::kF32, {8, kTop}), indices(DType::kI32, {8, kTop});
  random.Fill(logits);
  for (const Level level : kLevels) {
    if (!MachineHas(level)) continue;
    Print("sample 8 x 50304 k50 p.9", level, 4.0 * 8 * vocabulary, MedianSeconds([&] {
            Call(*FindKernel(kSample, level, DType::kF32),
                 {logits.view, keys.view, View{}, ids.view, logprobs.view}, {0.7, 50, 0.9, 0, 1},
                 runner);
          }),
          copy);
    Print("sample 8 x 50304 p.9", level, 4.0 * 8 * vocabulary, MedianSeconds([&] {
            Call(*FindKernel(kSample, level, DType::kF32),
                 {logits.view, keys.view, View{}, ids.view, logprobs.view}, {0.7, 0, 0.9, 0, 1},
                 runner);
          }),
          copy);
    Print("top_k 8 x 50304 k50", level, 4.0 * 8 * vocabulary, MedianSeconds([&] {
            Call(*FindKernel(kTopK, level, DType::kF32), {logits.view, values.view, indices.view},
                 {kTop}, runner);
          }),
          copy);
  }
}

}  // namespace
}  // namespace fuselm::bench

int main() {
  using namespace fuselm;
  using namespace fuselm::bench;
  for (const Level level : kLevels) {
    if (!MachineHas(level)) continue;
    CheckAdamW(level, false);
    CheckAdamW(level, true);
    CheckDropout(level, DType::kF32);
    CheckDropout(level, DType::kBF16);
    CheckSample(level);
  }
  if (Failures() == 0) std::printf("checks passed\n");
  Bench();
  return Failures() == 0 ? 0 : 1;
}
