// Checks attention over a cache against float64 at every level, then prints the bytes of keys and
// values it reads per second beside what plain reading reaches. Arguments: [check|bench] [level]
#include "native/bench/runner.h"

using namespace fuselm;
using namespace fuselm::bench;

namespace {

const char* const kSignature = "cached_attention(q, k, v, start, first?) -> (out) [scale, window]";
constexpr Level kLevels[] = {Level::kGeneric, Level::kAvx2, Level::kAvx512, Level::kAvx512Bf16,
                             Level::kAmx};

ThreadRunner one(1), two(2);

struct Shape {
  int64_t B, T, S, H, G, D, start, window;
  bool padded = false;
};

// Keys and values with heads before slots, as KvCache lays them out, seen as [B, S, G, D].
struct Cache {
  Array array;
  View view;
  Cache(DType t, const Shape& s) : array(t, {s.B, s.G, s.S, s.D}), view(array.view) {
    std::swap(view.shape[1], view.shape[2]);
    std::swap(view.stride[1], view.stride[2]);
  }
  double At(const Shape& s, int64_t b, int64_t slot, int64_t g, int64_t d) const {
    return array.Get(((b * s.G + g) * s.S + slot) * s.D + d);
  }
};

struct Tensors {
  Array q, out, start, first;
  Cache k, v;
  double scale;
  Tensors(const Shape& s, DType t)
      : q(t, {s.B, s.T, s.H, s.D}),
        out(t, {s.B, s.T, s.H, s.D}),
        start(DType::kI32, {s.B}),
        first(DType::kI32, {s.B}),
        k(t, s),
        v(t, s),
        scale(1 / std::sqrt(s.D)) {
    Random random(s.S + s.D);
    for (Array* a : {&q, &k.array, &v.array}) random.Fill(*a);
    for (int64_t b = 0; b < s.B; ++b) {
      start.Set(b, static_cast<double>(std::max<int64_t>(0, s.start - 7 * b)));
      first.Set(b, static_cast<double>(5 * b));
    }
  }
  std::vector<View> Args(const Shape& s) const {
    return {q.view, k.view, v.view, start.view, s.padded ? first.view : View{}, out.view};
  }
};

std::vector<double> Naive(const Shape& s, const Tensors& x) {
  std::vector<double> out(s.B * s.T * s.H * s.D), p;
  for (int64_t b = 0; b < s.B; ++b)
    for (int64_t t = 0; t < s.T; ++t)
      for (int64_t h = 0; h < s.H; ++h) {
        const int64_t own = static_cast<int64_t>(x.start.Get(b)) + t, g = h / (s.H / s.G);
        int64_t low = s.window ? std::max<int64_t>(0, own + 1 - s.window) : 0;
        if (s.padded) low = std::max<int64_t>(low, static_cast<int64_t>(x.first.Get(b)));
        const int64_t at = ((b * s.T + t) * s.H + h) * s.D;
        double top = -INFINITY, sum = 0;
        p.assign(std::max<int64_t>(0, own + 1 - low), 0);
        for (int64_t i = low; i <= own; ++i) {
          for (int64_t d = 0; d < s.D; ++d)
            p[i - low] += x.scale * x.q.Get(at + d) * x.k.At(s, b, i % s.S, g, d);
          top = std::max(top, p[i - low]);
        }
        for (double& e : p) sum += e = std::exp(e - top);
        for (int64_t i = low; i <= own; ++i)
          for (int64_t d = 0; d < s.D; ++d)
            out[at + d] += p[i - low] / sum * x.v.At(s, b, i % s.S, g, d);
      }
  return out;
}

template <class F>
void ForLevels(DType dtype, const char* only, F&& f) {
  for (const Level level : kLevels) {
    const KernelInfo* kernel = FindKernel(kSignature, level, dtype);
    if (kernel && MachineHas(level) && !(only && std::strcmp(only, LevelName(level))))
      f(*kernel, LevelName(level));
  }
}

void CheckShape(const Shape& s, DType dtype, const char* only) {
  Tensors x(s, dtype);
  const std::vector<double> expected = Naive(s, x);
  ForLevels(dtype, only, [&](const KernelInfo& kernel, const char* level) {
    const std::vector<double> attributes = {x.scale, static_cast<double>(s.window)};
    std::vector<double> before;
    for (ThreadRunner* runner : {&two, &one}) {
      Call(kernel, x.Args(s), attributes, *runner);
      std::vector<double> now;
      for (int64_t i = 0; i < x.out.view.numel(); ++i) now.push_back(x.out.Get(i));
      Expect(before.empty() || before == now, std::string(level) + ": differs between threads");
      before = now;
    }
    const double worst = dtype == DType::kF32 ? WorstRatio(x.out, expected, 1e-5, 1e-5)
                                              : WorstRatio(x.out, expected, 1.6e-2, 1e-2);
    char where[160];
    std::snprintf(where, sizeof where, "%s %s B%d T%d S%d H%d/%d D%d start %d window %d: %g", level,
                  DTypeName(dtype), int(s.B), int(s.T), int(s.S), int(s.H), int(s.G), int(s.D),
                  int(s.start), int(s.window), worst);
    Expect(worst <= 1, where);
  });
}

void CheckAll(const char* only) {
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const int64_t T : {1, 2, 5, 9, 33, 70})
      for (const bool padded : {false, true}) {
        for (const int64_t D : {8, 32, 33, 80, 96, 128, 256})
          CheckShape({2, T, 300, 4, 2, D, 200, 0, padded}, dtype, only);
        CheckShape({2, T, 600, 6, 1, 64, 520, 0, padded}, dtype, only);
        CheckShape({2, T, 350, 6, 2, 64, 999, 270, padded}, dtype, only);
        CheckShape({2, T, 100, 2, 2, 40, 260, 20, padded}, dtype, only);
        // cut along the keys at the generic level
        CheckShape({2, T, 350, 2, 2, 256, 999, 270, padded}, dtype, only);
      }
}

// Seconds to read `bytes` once with both workers: the limit of a decoding step.
double ReadSeconds(const std::byte* data, int64_t bytes) {
  constexpr int64_t kPart = 1 << 20;
  volatile uint64_t sink = 0;
  const auto read = [&](int64_t tile, int) {
    const auto* p = reinterpret_cast<const uint64_t*>(data + tile * kPart);
    uint64_t a[16] = {};
    for (int64_t i = 0; i < kPart / 8; i += 16)
      for (int j = 0; j < 16; ++j) a[j] ^= p[i + j];
    uint64_t all = 0;
    for (const uint64_t x : a) all ^= x;
    sink = sink ^ all;
  };
  using Read = decltype(read);
  return MedianSeconds([&] {
    (CpuTime() ? one : two)
        .Run(
            bytes / kPart,
            [](void* c, int64_t tile, int w) { (*static_cast<const Read*>(c))(tile, w); },
            const_cast<void*>(static_cast<const void*>(&read)));
  });
}

void Bench(const char* only) {
  for (const DType dtype : {DType::kBF16, DType::kF32})
    for (const Shape& s :
         {Shape{1, 1, 8192, 32, 32, 128, 8191, 0}, Shape{1, 1, 32768, 32, 8, 128, 32767, 0},
          Shape{16, 1, 4096, 12, 12, 64, 4095, 0}, Shape{1, 1, 65536, 8, 1, 128, 65535, 0},
          Shape{1, 4, 8192, 32, 8, 128, 8188, 0}, Shape{1, 1, 512, 12, 12, 64, 500, 0}}) {
      Tensors x(s, dtype);
      const int64_t bytes = x.k.view.numel() * static_cast<int64_t>(ItemSize(dtype));
      ForLevels(dtype, only, [&](const KernelInfo& kernel, const char* level) {
        const double attention = MedianSeconds([&] {
          Call(kernel, x.Args(s), {x.scale, 0}, CpuTime() ? one : two);
        });
        // both of k and v
        const double limit = ReadSeconds(static_cast<const std::byte*>(x.k.view.data), bytes) * 2;
        std::printf(
            "B%-2d T%d S%-5d H%d/%-2d D%-3d %-4s %-10s %8.3f ms %6.1f GB/s, %5.1f%% of %5.1f "
            "GB/s\n",
            int(s.B), int(s.T), int(s.S), int(s.H), int(s.G), int(s.D), DTypeName(dtype), level,
            attention * 1e3, 2e-9 * bytes / attention, 100 * limit / attention,
            2e-9 * bytes / limit);
        std::fflush(stdout);
      });
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
