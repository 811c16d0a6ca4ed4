// Kernels against plain double loops written here, at every level that this machine and this build
// have: the only run of kernels on an architecture that Node's matrix does not reach.
#include <cmath>
#include <functional>
#include <map>
#include <random>

#include "native/core/signature.h"
#include "native/test/harness.h"
#include "native/test/session.h"

namespace fuselm::test {
namespace {

using Values = std::vector<double>;

struct Tensor {
  std::vector<int64_t> shape;
  Values values;  // empty: an output
  DType dtype = DType::kF32;

  size_t size() const {
    size_t n = 1;
    for (const int64_t d : shape) n *= static_cast<size_t>(d);
    return n;
  }
};

double Rounded(double v, DType dtype) {
  const auto f = static_cast<float>(v);
  return dtype == DType::kBF16 ? static_cast<double>(static_cast<float>(bf16(f))) : f;
}

std::vector<std::byte> Encode(const Tensor& t) {
  std::vector<std::byte> bytes(t.size() * ItemSize(t.dtype), std::byte{0xff});
  for (size_t i = 0; i < t.values.size(); ++i) {
    const auto f = static_cast<float>(t.values[i]);
    if (t.dtype == DType::kBF16) {
      const bf16 h(f);
      std::memcpy(&bytes[i * 2], &h, 2);
    } else {
      std::memcpy(&bytes[i * 4], &f, 4);
    }
  }
  return bytes;
}

// Runs one kernel by name: tensors under the names of its signature, the others absent; attributes
// that are not given are 0. Returns the tensor called `result`.
class Kernels {
 public:
  explicit Kernels(Level level) : session_({.max_level = level, .threads = 2, .guard = true}) {}

  Values Run(const std::string& op, const std::map<std::string, Tensor>& tensors,
             const std::map<std::string, double>& attributes, const std::string& result) {
    const Signature signature = Find(op);
    Commands c = session_.Begin();
    std::vector<Arg> args;
    std::map<std::string, uint32_t> ids;
    for (const SignatureArg& formal : signature.fixed) {
      const auto found = tensors.find(formal.name);
      if (found == tensors.end()) {
        CHECK(formal.optional);
        args.push_back({});
        continue;
      }
      const Tensor& t = found->second;
      const uint32_t id = ids[formal.name] = next_++;
      c.Alloc(id, static_cast<int64_t>(t.size() * ItemSize(t.dtype)));
      c.Write(id, 0, Encode(t));
      args.push_back({id, t.shape, {}, 0, t.dtype});
    }
    CHECK_EQ(ids.size(), tensors.size());
    Values scalars;
    size_t known = 0;
    for (const std::string& name : signature.attributes) {
      const auto found = attributes.find(name);
      known += found != attributes.end();
      scalars.push_back(found == attributes.end() ? 0 : found->second);
    }
    CHECK_EQ(known, attributes.size());
    c.Kernel(op, args, scalars);
    session_.Submit(c);
    const Tensor& out = tensors.at(result);
    const size_t bytes = out.size() * ItemSize(out.dtype), words = bytes / 4;
    CHECK_EQ(words * 4, bytes);  // Floats reads whole words: choose another shape
    const std::vector<float> raw = session_.Floats(ids.at(result), words);
    Values values(out.size());
    for (size_t i = 0; i < values.size(); ++i) {
      if (out.dtype == DType::kBF16) {
        bf16 h;
        std::memcpy(&h, reinterpret_cast<const std::byte*>(raw.data()) + i * 2, 2);
        values[i] = static_cast<float>(h);
      } else {
        values[i] = raw[i];
      }
    }
    Commands free = session_.Begin();
    for (const auto& [name, id] : ids) free.Free(id);
    session_.Submit(free);
    return values;
  }

 private:
  Signature Find(const std::string& op) const {
    for (const DeviceKernel& k : session_.device->kernels()) {
      Signature s = ParseSignature(k.signature);
      if (s.op == op) return s;
    }
    Fail(__FILE__, __LINE__, "no kernel " + op);
  }

  Session session_;
  uint32_t next_ = 1;
};

Values Normals(size_t count, DType dtype, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Values values(count);
  for (double& v : values) v = Rounded(normal(random), dtype);
  return values;
}

// bf16 results are rounded once (2^-8 relative); float32 sums of n terms drift by about n eps.
void Close(const Values& actual, const Values& expected, DType dtype, const std::string& what,
           double atol = 2e-5) {
  CHECK_EQ(actual.size(), expected.size());
  const double rtol = dtype == DType::kBF16 ? 1.6e-2 : 1e-5;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!(std::abs(actual[i] - expected[i]) <= atol + rtol * std::abs(expected[i]))) {
      Fail(__FILE__, __LINE__,
           what + "[" + std::to_string(i) + "]: " + std::to_string(actual[i]) + ", expected " +
               std::to_string(expected[i]));
    }
  }
}

// body(kernels, dtype, label) at every level and dtype.
void AtEveryLevel(const std::function<void(Kernels&, DType, const std::string&)>& body) {
  for (int level = 0; level <= static_cast<int>(MachineLevel()); ++level) {
    Kernels kernels(static_cast<Level>(level));
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      body(kernels, dtype,
           std::string(LevelName(static_cast<Level>(level))) + " " + DTypeName(dtype));
    }
  }
}

// y[m, n] = sum over k of a(m, k) b(n, k)
Values Product(int64_t m, int64_t n, int64_t k, const std::function<double(int64_t, int64_t)>& a,
               const std::function<double(int64_t, int64_t)>& b) {
  Values y(static_cast<size_t>(m * n));
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t l = 0; l < k; ++l) y[i * n + j] += a(i, l) * b(j, l);
  return y;
}

TEST(kernel_elementwise) {
  const std::map<std::string, double (*)(double)> functions = {
      {"exp", [](double x) { return std::exp(x); }},
      {"tanh", [](double x) { return std::tanh(x); }},
      {"neg", [](double x) { return -x; }},
  };
  AtEveryLevel([&](Kernels& kernels, DType dtype, const std::string& label) {
    const Values x = Normals(34 * 7, dtype, 1), b = Normals(34 * 7, dtype, 2);
    for (const auto& [op, f] : functions) {
      Values expected;
      for (const double v : x) expected.push_back(f(v));
      Close(kernels.Run(op, {{"x", {{34, 7}, x, dtype}}, {"y", {{34, 7}, {}, dtype}}}, {}, "y"),
            expected, dtype, label + " " + op);
    }
    Values sum;
    for (size_t i = 0; i < x.size(); ++i) sum.push_back(x[i] + b[i]);
    Close(kernels.Run(
              "add",
              {{"a", {{34, 7}, x, dtype}}, {"b", {{34, 7}, b, dtype}}, {"y", {{34, 7}, {}, dtype}}},
              {}, "y"),
          sum, dtype, label + " add");
  });
}

TEST(kernel_linear_and_its_gradients) {
  constexpr int64_t M = 34, N = 70, K = 65;
  AtEveryLevel([&](Kernels& kernels, DType dtype, const std::string& label) {
    const Tensor x{{M, K}, Normals(M * K, dtype, 3), dtype},
        w{{N, K}, Normals(N * K, dtype, 4), dtype}, dy{{M, N}, Normals(M * N, dtype, 5), dtype},
        bias{{N}, Normals(N, dtype, 6), dtype};
    Values y = Product(
        M, N, K, [&](int64_t i, int64_t l) { return x.values[i * K + l]; },
        [&](int64_t j, int64_t l) { return w.values[j * K + l]; });
    for (int64_t i = 0; i < M * N; ++i) y[i] += bias.values[i % N];
    Close(
        kernels.Run("linear", {{"x", x}, {"weight", w}, {"bias", bias}, {"y", {{M, N}, {}, dtype}}},
                    {}, "y"),
        y, dtype, label + " linear");
    const Values dx = Product(
        M, K, N, [&](int64_t i, int64_t l) { return dy.values[i * N + l]; },
        [&](int64_t j, int64_t l) { return w.values[l * K + j]; });
    Close(kernels.Run("linear.dx", {{"dy", dy}, {"weight", w}, {"dx", {{M, K}, {}, dtype}}}, {},
                      "dx"),
          dx, dtype, label + " linear.dx");
    const Values dw = Product(
        N, K, M, [&](int64_t i, int64_t l) { return dy.values[l * N + i]; },
        [&](int64_t j, int64_t l) { return x.values[l * K + j]; });
    Close(kernels.Run("linear.dw", {{"dy", dy}, {"x", x}, {"dw", {{N, K}, {}}}}, {}, "dw"), dw,
          DType::kF32, label + " linear.dw");
  });
}

TEST(kernel_rms_norm) {
  constexpr int64_t R = 6, D = 67;
  AtEveryLevel([&](Kernels& kernels, DType dtype, const std::string& label) {
    const Tensor x{{R, D}, Normals(R * D, dtype, 7), dtype}, w{{D}, Normals(D, DType::kF32, 8)};
    Values y;
    for (int64_t r = 0; r < R; ++r) {
      double square = 0;
      for (int64_t i = 0; i < D; ++i) square += x.values[r * D + i] * x.values[r * D + i];
      const double scale = 1 / std::sqrt(square / D + 1e-5);
      for (int64_t i = 0; i < D; ++i) y.push_back(x.values[r * D + i] * scale * w.values[i]);
    }
    Close(kernels.Run("rms_norm", {{"x", x}, {"w", w}, {"y", {{R, D}, {}, dtype}}}, {{"eps", 1e-5}},
                      "y"),
          y, dtype, label + " rms_norm");
  });
}

TEST(kernel_attention) {
  constexpr int64_t T = 33, H = 4, G = 2, D = 32;
  AtEveryLevel([&](Kernels& kernels, DType dtype, const std::string& label) {
    const Tensor q{{1, T, H, D}, Normals(T * H * D, dtype, 9), dtype},
        k{{1, T, G, D}, Normals(T * G * D, dtype, 10), dtype},
        v{{1, T, G, D}, Normals(T * G * D, dtype, 11), dtype};
    const double scale = 1 / std::sqrt(static_cast<double>(D));
    Values out(T * H * D);
    for (int64_t h = 0; h < H; ++h) {
      const int64_t g = h / (H / G);
      for (int64_t t = 0; t < T; ++t) {
        Values p;
        double total = 0;
        for (int64_t s = 0; s <= t; ++s) {
          double score = 0;
          for (int64_t d = 0; d < D; ++d)
            score += q.values[(t * H + h) * D + d] * k.values[(s * G + g) * D + d];
          p.push_back(std::exp(score * scale));
          total += p.back();
        }
        for (int64_t s = 0; s <= t; ++s)
          for (int64_t d = 0; d < D; ++d)
            out[(t * H + h) * D + d] += p[s] / total * v.values[(s * G + g) * D + d];
      }
    }
    Close(
        kernels.Run("attention", {{"q", q}, {"k", k}, {"v", v}, {"out", {{1, T, H, D}, {}, dtype}}},
                    {{"scale", scale}, {"causal", 1}}, "out"),
        // probabilities in bf16: 2^-9 of each, in sums of terms up to 3
        out, dtype, label + " attention", dtype == DType::kBF16 ? 6e-3 : 2e-5);
  });
}

}  // namespace
}  // namespace fuselm::test
