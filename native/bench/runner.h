// A small TileRunner over plain threads, and what the native benches share: finding a kernel by
// signature and level, timing it, comparing with a float64 result. No Node, no queue.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "native/core/kernel.h"

namespace fuselm::bench {

struct AlignedFree {
  void operator()(std::byte* p) const { std::free(p); }
};
using Block = std::unique_ptr<std::byte, AlignedFree>;
inline Block Allocate(size_t bytes) {
  return Block(static_cast<std::byte*>(std::aligned_alloc(64, (bytes + 127) / 64 * 64)));
}

class ThreadRunner final : public TileRunner {
 public:
  explicit ThreadRunner(int workers) : scratch_(workers), scratch_bytes_(workers, 0) {
    for (int w = 1; w < workers; ++w) threads_.emplace_back([this, w] { Work(w); });
  }
  ~ThreadRunner() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& t : threads_) t.join();
  }
  void Run(int64_t tiles, TileFn fn, void* closure) override {
    if (threads_.empty() || tiles <= 1) {
      for (int64_t t = 0; t < tiles; ++t) fn(closure, t, 0);
      return;
    }
    {
      std::lock_guard lock(mutex_);
      fn_ = fn, closure_ = closure, tiles_ = tiles, next_ = 0;
      busy_ = static_cast<int>(threads_.size());
      ++round_;
    }
    wake_.notify_all();
    Claim(0);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
  }
  int workers() const override { return static_cast<int>(scratch_.size()); }
  std::byte* Scratch(int worker, size_t bytes) override {
    if (scratch_bytes_[worker] < bytes) {
      scratch_[worker] = Allocate(bytes);
      scratch_bytes_[worker] = bytes;
    }
    return scratch_[worker].get();
  }
  void ReserveScratch(size_t bytes) override {
    for (int w = 0; w < workers(); ++w) Scratch(w, bytes);
  }
  // Kept between calls, as the device's allocator does: first touch of a page is slow.
  std::byte* Workspace(size_t bytes) override {
    if (used_ == spaces_.size()) spaces_.emplace_back();
    auto& [block, size] = spaces_[used_++];
    if (size < bytes) block = Allocate(bytes), size = bytes;
    return block.get();
  }
  bool cancelled() const override { return false; }
  // Call between commands: workspaces may be handed out again.
  void EndCommand() { used_ = 0; }

 private:
  void Claim(int worker) {
    for (int64_t t; (t = next_.fetch_add(1)) < tiles_;) fn_(closure_, t, worker);
  }
  void Work(int worker) {
    uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stop_ || round_ != seen; });
      if (stop_) return;
      seen = round_;
      lock.unlock();
      Claim(worker);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::vector<Block> scratch_;
  std::vector<size_t> scratch_bytes_;
  std::vector<std::pair<Block, size_t>> spaces_;
  size_t used_ = 0;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  uint64_t round_ = 0;
  int busy_ = 0;
  bool stop_ = false;
  TileFn fn_ = nullptr;
  void* closure_ = nullptr;
  int64_t tiles_ = 0;
  std::atomic<int64_t> next_{0};
};

inline bool MachineHas(Level level) {
  __builtin_cpu_init();
  switch (level) {
    case Level::kGeneric: return true;
    case Level::kAvx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Level::kAvx512:
      return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    case Level::kAvx512Bf16: return __builtin_cpu_supports("avx512bf16");
    case Level::kAmx:
#ifdef FUSELM_EMULATE_AMX
      return __builtin_cpu_supports("avx512bf16");
#else
      return false;  // asking the kernel for tile state is the device's work: run through Node
#endif
  }
  return false;
}

// The kernel registered at exactly this level for this dtype; null when there is none.
inline const KernelInfo* FindKernel(const char* signature, Level level, DType dtype) {
  for (const KernelInfo& k : RegisteredKernels())
    if (k.level == level && (k.dtypes & Mask(dtype)) && std::strcmp(k.signature, signature) == 0)
      return &k;
  return nullptr;
}

// An owned contiguous tensor whose rows may be padded.
struct Array {
  View view;
  Block block;
  Array() = default;
  Array(DType dtype, std::vector<int64_t> shape, int64_t row_padding = 0) {
    view.dtype = dtype;
    view.rank = static_cast<int32_t>(shape.size());
    int64_t stride = 1;
    for (int i = view.rank - 1; i >= 0; --i) {
      view.shape[i] = shape[i];
      view.stride[i] = stride;
      stride *= shape[i] + (i == view.rank - 1 ? row_padding : 0);
    }
    const size_t bytes = std::max<int64_t>(stride, 1) * ItemSize(dtype);
    block = Allocate(bytes);
    std::memset(block.get(), 0xff, bytes);  // NaN: what is read must have been written
    view.data = block.get();
  }
  int64_t Index(int64_t i) const {
    int64_t at = 0;
    for (int a = view.rank - 1; a >= 0; --a) {
      at += (i % view.shape[a]) * view.stride[a];
      i /= view.shape[a];
    }
    return at;
  }
  double Get(int64_t i) const {
    const int64_t at = Index(i);
    if (view.dtype == DType::kBF16) return view.as<bf16>()[at];
    if (view.dtype == DType::kI32) return view.as<int32_t>()[at];
    return view.as<float>()[at];
  }
  void Set(int64_t i, double v) {
    const int64_t at = Index(i);
    if (view.dtype == DType::kBF16)
      view.as<bf16>()[at] = bf16(static_cast<float>(v));
    else if (view.dtype == DType::kI32)
      view.as<int32_t>()[at] = static_cast<int32_t>(v);
    else
      view.as<float>()[at] = static_cast<float>(v);
  }
};

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  double Normal() {
    return std::sqrt(-2 * std::log(1 - Uniform())) * std::cos(6.283185307179586 * Uniform());
  }
  void Fill(Array& a) {
    for (int64_t i = 0; i < a.view.numel(); ++i) a.Set(i, Normal());
  }

 private:
  uint64_t state_;
};

// Runs a kernel once on views in signature order; an absent optional is a default View.
inline void Call(const KernelInfo& kernel, std::vector<View> args, std::vector<double> attributes,
                 ThreadRunner& runner) {
  Invocation invocation(args, attributes, runner);
  kernel.fn(invocation);
  runner.EndCommand();
}

// FUSELM_BENCH_CPU=1 times processor seconds of one thread instead of wall seconds of two: steadier
// on a machine that others load.
inline bool CpuTime() {
  static const bool on = std::getenv("FUSELM_BENCH_CPU") != nullptr;
  return on;
}
inline double Now() {
  timespec t;
  clock_gettime(CpuTime() ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Median seconds of one call, over about `budget` seconds after warming up.
template <class F>
double MedianSeconds(F&& f, double budget = 0.4) {
  for (int i = 0; i < 2; ++i) f();
  std::vector<double> times;
  for (double total = 0; times.size() < 3 || (total < budget && times.size() < 400);) {
    const double start = Now();
    f();
    times.push_back(Now() - start);
    total += times.back();
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

// Largest |a - e| / (atol + rtol |e|); NaN counts as infinite. At most 1 passes.
inline double WorstRatio(const Array& actual, const std::vector<double>& expected, double rtol,
                         double atol) {
  double worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(actual.Get(static_cast<int64_t>(i)) - expected[i]);
    const double ratio = error / (atol + rtol * std::abs(expected[i]));
    if (!(ratio <= worst)) worst = std::isnan(ratio) ? INFINITY : ratio;
  }
  return worst;
}

inline int& Failures() {
  static int failures = 0;
  return failures;
}
inline int& Checks() {
  static int checks = 0;
  return checks;
}
inline void Expect(bool ok, const std::string& what) {
  ++Checks();
  if (ok) return;
  ++Failures();
  std::printf("FAIL %s\n", what.c_str());
}

}  // namespace fuselm::bench
