// Small kernels with every property that the runtime has to deal with.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "native/core/kernel.h"
#include "native/test/session.h"

#define FUSELM_LEVEL ::fuselm::Level::kGeneric

namespace fuselm::test {
namespace {

void SameShape(const View& a, const View& b) {
  Require(a.rank == b.rank && std::equal(a.shape, a.shape + a.rank, b.shape), ErrorCode::kShape,
          "x and y must have one shape");
}

// y = s * x, any strides; x and y f32.
void Scale(Invocation& inv) {
  const View &x = inv[0], &y = inv[1];
  SameShape(x, y);
  Require(x.dtype == DType::kF32 && y.dtype == DType::kF32, ErrorCode::kShape, "f32 only");
  const auto s = static_cast<float>(inv.f64(0));
  if (x.numel() == 0) return;
  const int64_t width = x.rank == 0 ? 1 : x.dim(-1);
  const int64_t sx = x.rank == 0 ? 1 : x.step(-1), sy = y.rank == 0 ? 1 : y.step(-1);
  inv.ParallelFor(x.rows(), [&](int64_t row, int) {
    const float* from = x.row<float>(row);
    float* to = y.row<float>(row);
    for (int64_t i = 0; i < width; ++i) to[i * sy] = s * from[i * sx];
  });
}
FUSELM_KERNEL("toy.scale(x) -> (y) [s]", Mask(DType::kF32), Scale);

// y += x, contiguous f32.
void Accumulate(Invocation& inv) {
  const View &y = inv[0], &x = inv[1];
  SameShape(x, y);
  Require(x.contiguous() && y.contiguous(), ErrorCode::kShape, "contiguous only");
  for (int64_t i = 0; i < x.numel(); ++i) y.as<float>()[i] += x.as<float>()[i];
}
FUSELM_KERNEL("toy.accumulate(y!, x)", Mask(DType::kF32), Accumulate);

void FailAlways(Invocation& inv) {
  throw Error(static_cast<ErrorCode>(inv.i64(0)), "the toy failed");
}
FUSELM_KERNEL("toy.fail(x?) -> (y?) [code]", kAnyDType, FailAlways);

void ThrowStandard(Invocation&) { throw std::length_error("not one of ours"); }
FUSELM_KERNEL("toy.throw_standard(x?) -> (y?)", kAnyDType, ThrowStandard);

void Log(Invocation& inv) {
  Toys& toys = TheToys();
  std::lock_guard lock(toys.mutex);
  toys.log.push_back(static_cast<int>(inv.i64(0)));
}
FUSELM_KERNEL("toy.log(x?) -> (y?) [tag]", kAnyDType, Log);

// Tiles that take `us` microseconds each; y[0] = 1 at the end.
void Spin(Invocation& inv) {
  Toys& toys = TheToys();
  const auto each = std::chrono::microseconds(inv.i64(1));
  inv.ParallelFor(inv.i64(0), [&](int64_t, int) {
    toys.spinning = true;
    toys.tiles += 1;
    const auto end = std::chrono::steady_clock::now() + each;
    while (std::chrono::steady_clock::now() < end) {}
  });
  if (inv.has(1)) inv[1].as<float>()[0] = 1;
  std::lock_guard lock(toys.mutex);
  toys.log.push_back(static_cast<int>(inv.i64(2)));
}
FUSELM_KERNEL("toy.spin(x?) -> (y?) [tiles, us, tag]", kAnyDType, Spin);
FUSELM_KERNEL_TRANSACTIONAL("toy.spin_transactional(x?) -> (y?) [tiles, us, tag]", kAnyDType, Spin);

// Short tiles until the test sets `release`: a busy device without a fixed time. At the end
// y[0] = x[0].
void Hold(Invocation& inv) {
  Toys& toys = TheToys();
  while (!toys.release) {
    inv.ParallelFor(8, [&](int64_t, int) {
      toys.spinning = true;
      const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
      while (std::chrono::steady_clock::now() < end) {}
    });
  }
  if (inv.has(0) && inv.has(1)) inv[1].as<float>()[0] = inv[0].as<float>()[0];
}
FUSELM_KERNEL("toy.hold(x?, y!?)", kAnyDType, Hold);

// Fixed chunks into a workspace by way of scratch, then a fixed order: the same bits on any number
// of threads, and not those of a plain sum.
void Sum(Invocation& inv) {
  const View &x = inv[0], &y = inv[1];
  Require(x.contiguous(), ErrorCode::kShape, "contiguous only");
  constexpr int64_t kChunk = 1000;
  const int64_t n = x.numel(), chunks = (n + kChunk - 1) / kChunk;
  auto* partial = inv.Workspace<float>(static_cast<size_t>(chunks));
  inv.ReserveScratch(kChunk * sizeof(float));
  inv.ParallelFor(chunks, [&](int64_t chunk, int worker) {
    auto* square = inv.Scratch<float>(worker, kChunk);
    const int64_t begin = chunk * kChunk, count = std::min(kChunk, n - begin);
    for (int64_t i = 0; i < count; ++i) square[i] = std::sqrt(std::abs(x.as<float>()[begin + i]));
    float sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += square[i];
    partial[chunk] = sum;
  });
  float total = 0;
  for (int64_t c = 0; c < chunks; ++c) total += partial[c];
  y.as<float>()[0] = total;
}
FUSELM_KERNEL("toy.sum(x) -> (y)", Mask(DType::kF32), Sum);

// param += grad for every group, all or none.
void Update(Invocation& inv) {
  for (size_t i = 2; i < inv.size(); i += 3) SameShape(inv[i], inv[i + 2]);
  Require(!inv.flag(0), ErrorCode::kValue, "told to fail");
  inv[1].as<float>()[0] += 1;
  for (size_t i = 2; i < inv.size(); i += 3) {
    for (int64_t k = 0; k < inv[i].numel(); ++k) inv[i].as<float>()[k] += inv[i + 2].as<float>()[k];
    if (inv.has(i + 1)) inv[i + 1].as<float>()[0] = 7;
  }
}
FUSELM_KERNEL_TRANSACTIONAL("toy.update(norm, state!, ...(param!, low!?, grad)) [fail]",
                            Mask(DType::kF32), Update);

// Two variants by dtype: which one ran is written to y.
void WhichGeneric(Invocation& inv) { inv[1].as<int32_t>()[0] = 1; }
void WhichBest(Invocation& inv) { inv[1].as<int32_t>()[0] = 2; }
FUSELM_KERNEL("toy.which(x) -> (y)", kFloat, WhichGeneric);
[[maybe_unused]] const int kBest =
    RegisterKernel({"toy.which(x) -> (y)", Mask(DType::kBF16), WhichBest, Level::kAvx2});

}  // namespace
}  // namespace fuselm::test
