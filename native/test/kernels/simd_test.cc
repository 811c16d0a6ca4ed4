// The functions of native/cpu/simd.h against the C library in double, in units of the last place of
// float: over bit patterns of the whole range, subnormals and infinities included.
#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>

#include "native/core/runtime.h"
#include "native/test/harness.h"
#include "native/test/levels/simd_functions.h"

namespace fuselm::test {

static std::vector<SimdFunctions>& Levels() {
  static auto* levels = new std::vector<SimdFunctions>;
  return *levels;
}
void RegisterSimd(const SimdFunctions& functions) { Levels().push_back(functions); }

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// One float in 16411, a prime, of all that lie in [from, to], by their bits; both ends, too.
std::vector<float> Floats(float from, float to) {
  std::vector<float> found = {from, to};
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 16411) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (x >= from && x <= to) found.push_back(x);
  }
  return found;
}

double Ulps(float actual, double expected) {
  if (std::isnan(expected)) return std::isnan(actual) ? 0 : kInfinity;
  if (static_cast<double>(actual) == expected) return 0;
  int exponent = 0;
  std::frexp(expected, &exponent);
  return std::abs(actual - expected) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

// At every level the machine has: at most `limit` ulps on `x`.
void Within(double limit, const char* name, MapFloats SimdFunctions::*function,
            double (*exact)(double), const std::vector<float>& x) {
  std::vector<float> y(x.size());
  size_t levels = 0;
  for (const SimdFunctions& f : Levels()) {
    if (f.level > MachineLevel()) continue;
    ++levels;
    (f.*function)(x.data(), y.data(), static_cast<int64_t>(x.size()));
    double worst = 0;
    float at = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double error = Ulps(y[i], exact(x[i]));
      if (!(error <= worst)) worst = error, at = x[i];
    }
    if (std::getenv("FUSELM_TEST_VERBOSE"))
      std::printf("    %s %s: %.3f ulp at %.9g\n", name, LevelName(f.level), worst, at);
    if (!(worst <= limit)) {
      char text[160];
      std::snprintf(text, sizeof text, "%s at %s: %.3f ulp at %.9g, at most %.3f", name,
                    LevelName(f.level), worst, at, limit);
      Fail(__FILE__, __LINE__, text);
    }
  }
  CHECK(levels >= 1);
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double NearestEven(double x) { return std::nearbyint(x); }

constexpr float kLargest = std::numeric_limits<float>::max();

TEST(SimdLog) {
  Within(
      1, "log", &SimdFunctions::log, [](double x) { return std::log(x); },
      Floats(std::numeric_limits<float>::denorm_min(), kLargest));
  // where the result is near zero: only the precision of x - 1 is left
  std::vector<float> near;
  for (int i = -20000; i < 20000; ++i) near.push_back(1.0f + static_cast<float>(i) * 0x1p-24f);
  Within(
      1, "log", &SimdFunctions::log, [](double x) { return std::log(x); }, near);
  Within(0, "log", &SimdFunctions::log, [](double x) { return std::log(x); },
         {0.0f, -0.0f, kInfinity, -kInfinity, kNaN, 1.0f, -1.0f, -1e-40f});
}

TEST(SimdTanh) {
  Within(
      2, "tanh", &SimdFunctions::tanh, [](double x) { return std::tanh(x); },
      Floats(-kLargest, kLargest));
  Within(0, "tanh", &SimdFunctions::tanh, [](double x) { return std::tanh(x); },
         {0.0f, kInfinity, -kInfinity, kNaN});
}

TEST(SimdErf) {
  Within(
      2, "erf", &SimdFunctions::erf, [](double x) { return std::erf(x); },
      Floats(-kLargest, kLargest));
  Within(0, "erf", &SimdFunctions::erf, [](double x) { return std::erf(x); },
         {0.0f, kInfinity, -kInfinity, kNaN});
}

TEST(SimdExp) {
  // documented: 0 below -87.33, clamped above 88
  Within(
      2, "exp", &SimdFunctions::exp, [](double x) { return std::exp(x); }, Floats(-87.0f, 88.0f));
  Within(0, "exp", &SimdFunctions::exp, [](double x) { return x < 0    ? 0.0
                                                              : x == 0 ? 1.0
                                                                       : x; },
         {0.0f, -0.0f, -88.0f, -kLargest, -kInfinity, kNaN});
}

TEST(SimdSigmoid) {
  Within(3, "sigmoid", &SimdFunctions::sigmoid, Sigmoid, Floats(-86.0f, kLargest));
  Within(0, "sigmoid", &SimdFunctions::sigmoid, Sigmoid, {0.0f, kInfinity, kNaN});
}

TEST(SimdRound) {
  std::vector<float> x = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 4194303.5f, -4194303.5f, kNaN};
  for (int i = -3000; i < 3000; ++i) x.push_back(static_cast<float>(i) * 0.0625f);
  Within(0, "round", &SimdFunctions::round, NearestEven, x);
}

}  // namespace
}  // namespace fuselm::test
