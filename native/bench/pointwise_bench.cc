// Checks rms_norm, rope, swiglu, residual_add and embedding against float64 at every level, then
// prints GB/s beside the bandwidth of a copy. Arguments: [check|bench]
#include "native/bench/runner.h"

using namespace fuselm;
using namespace fuselm::bench;

namespace {

constexpr Level kLevels[] = {Level::kGeneric, Level::kAvx2, Level::kAvx512, Level::kAvx512Bf16};
constexpr DType kDTypes[] = {DType::kF32, DType::kBF16};
const char* const kRmsNorm = "rms_norm(x, w) -> (y, rstd?) [eps]";
const char* const kRmsNormBackward =
    "rms_norm.backward(dy, x, w, rstd, dw!?) -> (dx) [eps, accumulate]";
const char* const kSwiglu = "swiglu(gate, up) -> (y)";
const char* const kSwigluBackward = "swiglu.backward(dy, gate, up) -> (dgate, dup)";
const char* const kRope = "rope(x, positions?) -> (y) [theta, inverse]";
const char* const kAdd = "residual_add(x, y) -> (z)";
const char* const kEmbedding = "embedding(ids, table) -> (out)";
const char* const kEmbeddingBackward = "embedding.backward(dout, ids, dtable!) [accumulate]";

ThreadRunner one(1), two(2);

struct Context {
  Level level;
  DType dtype;
  std::string where;
  double rtol() const { return dtype == DType::kF32 ? 1.3e-6 : 1.6e-2; }
  void Check(const char* what, const Array& actual, const std::vector<double>& expected,
             double atol = 1e-5) const {
    const double worst = WorstRatio(actual, expected, rtol(), atol);
    Expect(worst <= 1, where + " " + what + ": " + std::to_string(worst) + " tolerances");
  }
  void Run(const char* signature, std::vector<View> args, std::vector<double> attributes,
           std::vector<const Array*> outputs) const {
    const KernelInfo* kernel = FindKernel(signature, level, dtype);
    if (!kernel) return Expect(false, where + ": no kernel " + signature);
    Call(*kernel, args, attributes, two);
    std::vector<std::vector<double>> first;
    for (const Array* a : outputs) {
      first.emplace_back();
      for (int64_t i = 0; i < a->view.numel(); ++i) first.back().push_back(a->Get(i));
    }
    if (attributes.size() && attributes.back() == 1) return;  // accumulating: not repeatable
    Call(*kernel, args, attributes, one);
    for (size_t o = 0; o < outputs.size(); ++o)
      for (size_t i = 0; i < first[o].size(); ++i)
        if (outputs[o]->Get(i) != first[o][i])
          return Expect(false, where + " " + signature + ": differs between 1 and 2 threads");
  }
};

void CheckRmsNorm(const Context& c, int64_t rows, int64_t D, int64_t padding) {
  Random random(rows * 1000 + D);
  Array x(c.dtype, {rows, D}, padding), w(DType::kF32, {D}), dy(c.dtype, {rows, D}, padding);
  Array y(c.dtype, {rows, D}), rstd(DType::kF32, {rows}), dx(c.dtype, {rows, D}),
      dw(DType::kF32, {D});
  random.Fill(x), random.Fill(w), random.Fill(dy);
  for (int64_t i = 0; i < D; ++i) dw.Set(i, 3);
  const double eps = 1e-5;
  std::vector<double> ey(rows * D), edx(rows * D), edw(D, 3.0), er(rows);
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0, dot = 0;
    for (int64_t i = 0; i < D; ++i) sum += x.Get(r * D + i) * x.Get(r * D + i);
    const double s = er[r] = 1 / std::sqrt(sum / D + eps);
    for (int64_t i = 0; i < D; ++i) dot += w.Get(i) * dy.Get(r * D + i) * x.Get(r * D + i) / D;
    for (int64_t i = 0; i < D; ++i) {
      const int64_t at = r * D + i;
      ey[at] = x.Get(at) * s * w.Get(i);
      edx[at] = s * (w.Get(i) * dy.Get(at) - x.Get(at) * s * s * dot);
      edw[i] += dy.Get(at) * x.Get(at) * s;
    }
  }
  c.Run(kRmsNorm, {x.view, w.view, y.view, rstd.view}, {eps}, {&y, &rstd});
  c.Check("rms_norm y", y, ey);
  c.Check("rms_norm rstd", rstd, er);
  c.Run(kRmsNormBackward, {dy.view, x.view, w.view, rstd.view, dw.view, dx.view}, {eps, 1},
        {&dx, &dw});
  c.Check("rms_norm dx", dx, edx);
  c.Check("rms_norm dw", dw, edw, 1e-5 * std::sqrt(static_cast<double>(rows) + 1));
  for (double& v : edw) v -= 3;
  c.Run(kRmsNormBackward, {dy.view, x.view, w.view, rstd.view, dw.view, dx.view}, {eps, 0},
        {&dx, &dw});
  c.Check("rms_norm dw written", dw, edw, 1e-5 * std::sqrt(static_cast<double>(rows) + 1));
  c.Run(kRmsNormBackward, {dy.view, x.view, w.view, rstd.view, View{}, dx.view}, {eps, 0}, {&dx});
}

void CheckSwiglu(const Context& c, int64_t rows, int64_t D, int64_t padding) {
  Random random(rows * 77 + D);
  Array g(c.dtype, {rows, D}, padding), u(c.dtype, {rows, D}), dy(c.dtype, {rows, D});
  Array y(c.dtype, {rows, D}), dg(c.dtype, {rows, D}), du(c.dtype, {rows, D}),
      z(c.dtype, {rows, D});
  random.Fill(g), random.Fill(u), random.Fill(dy);
  if (rows * D > 3) g.Set(1, -120), g.Set(2, 95);
  std::vector<double> ey, edg, edu, ez;
  for (int64_t i = 0; i < rows * D; ++i) {
    const double a = g.Get(i), s = 1 / (1 + std::exp(-a));
    ey.push_back(a * s * u.Get(i));
    edu.push_back(dy.Get(i) * a * s);
    edg.push_back(dy.Get(i) * u.Get(i) * (s + a * s * (1 - s)));
    ez.push_back(g.Get(i) + u.Get(i));
  }
  c.Run(kSwiglu, {g.view, u.view, y.view}, {}, {&y});
  c.Check("swiglu y", y, ey);
  c.Run(kSwigluBackward, {dy.view, g.view, u.view, dg.view, du.view}, {}, {&dg, &du});
  c.Check("swiglu dgate", dg, edg);
  c.Check("swiglu dup", du, edu);
  c.Run(kAdd, {g.view, u.view, z.view}, {}, {&z});
  c.Check("residual_add", z, ez);
}

void CheckRope(const Context& c, int64_t B, int64_t T, int64_t H, int64_t D, int positions_rank) {
  Random random(T * 31 + D);
  Array x(c.dtype, {B, T, H, D}, 8), y(c.dtype, {B, T, H, D}), back(c.dtype, {B, T, H, D});
  Array p(DType::kI32, positions_rank == 2 ? std::vector<int64_t>{B, T} : std::vector<int64_t>{T});
  random.Fill(x);
  for (int64_t i = 0; i < p.view.numel(); ++i)
    p.Set(i, static_cast<double>(random.Next() % 300000));
  std::vector<double> expected(B * T * H * D), original;
  for (int64_t i = 0; i < B * T * H * D; ++i) {
    const int64_t d = i % D, t = i / D / H % T, b = i / D / H / T, j = d % (D / 2);
    const double position = positions_rank == 0 ? t : p.Get(positions_rank == 2 ? b * T + t : t);
    const double f = static_cast<float>(1 / std::pow(10000.0, 2.0 * j / D)), a = position * f;
    const double other = x.Get(d < D / 2 ? i + D / 2 : i - D / 2);
    expected[i] = x.Get(i) * std::cos(a) + (d < D / 2 ? -other : other) * std::sin(a);
    original.push_back(x.Get(i));
  }
  const View positions = positions_rank ? p.view : View{};
  c.Run(kRope, {x.view, positions, y.view}, {10000, 0}, {&y});
  c.Check("rope", y, expected);
  if (c.dtype == DType::kF32) {
    c.Run(kRope, {y.view, positions, back.view}, {10000, 1}, {&back});
    c.Check("rope inverse", back, original);
  }
}

void CheckEmbedding(const Context& c, int64_t n, int64_t V, int64_t D) {
  Random random(n + V + D);
  Array ids(DType::kI32, {1, n}), table(c.dtype, {V, D}, 8), out(c.dtype, {1, n, D});
  Array dout(c.dtype, {1, n, D}), dtable(DType::kF32, {V, D});
  random.Fill(table), random.Fill(dout);
  std::vector<double> expected, gradient(V * D, 0.0);
  for (int64_t i = 0; i < n; ++i) {
    ids.Set(i, static_cast<double>(random.Next() % 3 ? random.Next() % V : V - 1));
    for (int64_t d = 0; d < D; ++d) {
      expected.push_back(table.Get(static_cast<int64_t>(ids.Get(i)) * D + d));
      gradient[static_cast<int64_t>(ids.Get(i)) * D + d] += dout.Get(i * D + d);
    }
  }
  c.Run(kEmbedding, {ids.view, table.view, out.view}, {}, {&out});
  Expect(WorstRatio(out, expected, 0, 1e-300) == 0,
         c.where + " embedding: not the rows of the table");
  c.Run(kEmbeddingBackward, {dout.view, ids.view, dtable.view}, {0}, {&dtable});
  c.Check("embedding dtable", dtable, gradient, 1e-4);
  for (double& v : gradient) v *= 2;
  c.Run(kEmbeddingBackward, {dout.view, ids.view, dtable.view}, {1}, {&dtable});
  c.Check("embedding dtable added", dtable, gradient, 2e-4);
  for (const int64_t bad : {int64_t{-1}, V}) {
    ids.Set(n - 1, static_cast<double>(bad));
    try {
      Call(*FindKernel(kEmbedding, c.level, c.dtype), {ids.view, table.view, out.view}, {}, one);
      Expect(false, c.where + " embedding: a bad id was taken");
    } catch (const Error& e) {
      Expect(e.code() == ErrorCode::kValue, c.where + " embedding: wrong code");
    }
  }
}

void CheckAll() {
  for (const Level level : kLevels)
    for (const DType dtype : kDTypes) {
      if (!MachineHas(level)) continue;
      const Context c{level, dtype, std::string(LevelName(level)) + " " + DTypeName(dtype)};
      for (const int64_t D : {1, 15, 17, 31, 33, 63, 65, 127, 768}) {
        for (const int64_t rows : {1, 3, 70}) {
          CheckRmsNorm(c, rows, D, D % 2 ? 5 : 0);
          CheckSwiglu(c, rows, D, D % 2 ? 5 : 0);
        }
        CheckEmbedding(c, 33, 17, D);
      }
      CheckRmsNorm(c, 1000, 257, 3);
      CheckSwiglu(c, 1, 100001, 0);
      CheckEmbedding(c, 3000, 5000, 40);
      for (const int64_t D : {2, 30, 34, 64, 66, 126, 128})
        for (const int rank : {0, 1, 2}) CheckRope(c, 2, 33, 3, D, rank);
      CheckRmsNorm(c, 0, 8, 0);
      CheckSwiglu(c, 0, 8, 0);
    }
}

// Inputs rotate over sets larger than the cache.
void Bench() {
  constexpr int64_t kRows = 4096, kSets = 8;
  const auto line = [](const char* what, Level level, DType dtype, double bytes, auto&& run) {
    int set = 0;
    const double seconds = MedianSeconds([&] { run(set++ % kSets); });
    std::printf("%-22s %-10s %-5s %8.3f ms %7.1f GB/s\n", what, LevelName(level), DTypeName(dtype),
                seconds * 1e3, bytes / seconds * 1e-9);
  };
  for (const DType dtype : kDTypes) {
    const double item = static_cast<double>(ItemSize(dtype));
    struct Set {
      Array a, b, c, d, e;
    };
    std::vector<Set> wide, narrow;
    Random random(5);
    for (int s = 0; s < kSets; ++s) {
      wide.push_back({Array(dtype, {kRows, 2048}), Array(dtype, {kRows, 2048}),
                      Array(dtype, {kRows, 2048}), Array(dtype, {kRows, 2048}),
                      Array(dtype, {kRows, 2048})});
      narrow.push_back({Array(dtype, {4, 1024, 12, 64}), Array(dtype, {4, 1024, 12, 64}),
                        Array(dtype, {4, 1024, 12, 64}), Array(), Array()});
      if (s == 0) {
        random.Fill(wide[0].a), random.Fill(wide[0].b), random.Fill(wide[0].c);
        random.Fill(narrow[0].a), random.Fill(narrow[0].b);
      }
      const size_t w = kRows * 2048 * ItemSize(dtype), n = kRows * 768 * ItemSize(dtype);
      std::memcpy(wide[s].a.view.data, wide[0].a.view.data, w);
      std::memcpy(wide[s].b.view.data, wide[0].b.view.data, w);
      std::memcpy(wide[s].c.view.data, wide[0].c.view.data, w);
      std::memcpy(narrow[s].a.view.data, narrow[0].a.view.data, n);
      std::memcpy(narrow[s].b.view.data, narrow[0].b.view.data, n);
    }
    Array w(DType::kF32, {768}), rstd(DType::kF32, {kRows}), dw(DType::kF32, {768});
    Array ids(DType::kI32, {kRows}), table(dtype, {50304, 768}), dtable(DType::kF32, {50304, 768});
    random.Fill(w), random.Fill(rstd), random.Fill(table);
    for (int64_t i = 0; i < kRows; ++i) ids.Set(i, static_cast<double>(random.Next() % 50304));
    const auto flat = [](const Array& a) {
      View v = a.view;
      v.rank = 2, v.shape[0] = kRows, v.shape[1] = 768, v.stride[0] = 768, v.stride[1] = 1;
      return v;
    };
    const double narrow_bytes = kRows * 768.0 * item, wide_bytes = kRows * 2048.0 * item;
    line("memcpy (1 thread)", Level::kGeneric, dtype, 2 * wide_bytes, [&](int s) {
      std::memcpy(wide[s].b.view.data, wide[s].a.view.data, kRows * 2048 * ItemSize(dtype));
    });
    for (const Level level : kLevels) {
      if (!MachineHas(level)) continue;
      const auto run = [&](const char* signature, std::vector<View> args,
                           std::vector<double> attributes) {
        Call(*FindKernel(signature, level, dtype), std::move(args), std::move(attributes),
             CpuTime() ? one : two);
      };
      line("rms_norm", level, dtype, 2 * narrow_bytes, [&](int s) {
        run(kRmsNorm, {flat(narrow[s].a), w.view, flat(narrow[s].c), rstd.view}, {1e-6});
      });
      line("rms_norm.backward", level, dtype, 3 * narrow_bytes, [&](int s) {
        run(kRmsNormBackward,
            {flat(narrow[s].a), flat(narrow[s].b), w.view, rstd.view, dw.view, flat(narrow[s].c)},
            {1e-6, 1});
      });
      line("rope", level, dtype, 2 * narrow_bytes, [&](int s) {
        run(kRope, {narrow[s].a.view, View{}, narrow[s].c.view}, {10000, 0});
      });
      line("residual_add", level, dtype, 3 * narrow_bytes, [&](int s) {
        run(kAdd, {narrow[s].a.view, narrow[s].b.view, narrow[s].c.view}, {});
      });
      line("swiglu", level, dtype, 3 * wide_bytes, [&](int s) {
        run(kSwiglu, {wide[s].a.view, wide[s].b.view, wide[s].c.view}, {});
      });
      line("swiglu.backward", level, dtype, 5 * wide_bytes, [&](int s) {
        run(kSwigluBackward,
            {wide[s].a.view, wide[s].b.view, wide[s].c.view, wide[s].d.view, wide[s].e.view}, {});
      });
      line("embedding", level, dtype, 2 * narrow_bytes, [&](int s) {
        run(kEmbedding, {ids.view, table.view, flat(narrow[s].c)}, {});
      });
      line("embedding.backward", level, dtype, narrow_bytes + kRows * 768.0 * 8, [&](int s) {
        run(kEmbeddingBackward, {flat(narrow[s].a), ids.view, dtable.view}, {1});
      });
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "check";
  if (mode == "check") CheckAll();
  if (mode == "bench") Bench();
  std::printf("%d checks, %d failed\n", Checks(), Failures());
  return Failures() ? 1 : 0;
}
