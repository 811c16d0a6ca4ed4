// What a kernel file needs: registering under a signature, and the Invocation it is called with.
//
// A signature is the contract between lib/ops/<op>.ts and every backend, compared as text:
//
//   rms_norm(x, w) -> (y, rstd?) [eps]
//   rms_norm.backward(dy, x, w, rstd, dw!) -> (dx) [eps, accumulate]
//   adam_w(norm, state!, ...(param!, low!?, grad, m!, v!)) [beta1, beta2]
//
// Tensors arrive in the order written: inputs, then outputs, then any number of repeats of the
// group. `!` is read and written in place, `?` may be absent. Attributes follow in [..], all f64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "native/core/view.h"

namespace fuselm {

// Instruction levels, each containing those before it. The order is the order of preference.
enum class Level : uint8_t { kGeneric = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3, kAmx = 4 };
inline constexpr int kLevelCount = 5;
const char* LevelName(Level level);

// Runs tiles for a kernel. The CPU device implements it over its thread pool; between tiles it may
// run commands of a higher-priority queue on worker 0, which have scratch of their own.
class TileRunner {
 public:
  using TileFn = void (*)(void* closure, int64_t tile, int worker);
  virtual ~TileRunner() = default;
  // Calls fn for every tile in [0, tiles), each once, in any order, on any worker in [0, workers).
  // Returns when all are done. fn must not throw. A tile should last at most 1 ms. A tile that uses
  // AMX loads its own tile configuration: another command may have run on this thread before it.
  // Throws Error(kAborted) once the command is cancelled (then some tiles did not run), so a
  // launcher must be exception-safe around it.
  virtual void Run(int64_t tiles, TileFn fn, void* closure) = 0;
  virtual int workers() const = 0;
  // At least `bytes` of uninitialised memory for this worker, 64-byte aligned; valid until the
  // worker's next Scratch call in this command. Throws Error(kOutOfMemory); so call it once per
  // worker from the launcher (ReserveScratch), then from tiles, where it cannot throw.
  virtual std::byte* Scratch(int worker, size_t bytes) = 0;
  virtual void ReserveScratch(size_t bytes_per_worker) = 0;
  // `bytes` of uninitialised memory shared by all tiles, freed when the command ends.
  // For the launcher, not for tiles. Throws Error(kOutOfMemory).
  virtual std::byte* Workspace(size_t bytes) = 0;
  // True once the command's owner is cancelled: remaining tiles may be skipped.
  virtual bool cancelled() const = 0;
};

// One command as its kernel sees it. Views are decoded and inside their buffers; whether their
// shapes fit each other is for the kernel's launcher to check (Require, or throw Error(kShape)).
class Invocation {
 public:
  Invocation(std::span<const View> args, std::span<const double> attributes, TileRunner& runner)
      : args_(args), attributes_(attributes), runner_(runner) {}

  size_t size() const { return args_.size(); }
  const View& operator[](size_t i) const { return args_[i]; }
  bool has(size_t i) const { return args_[i].data != nullptr; }
  double f64(size_t i) const { return attributes_[i]; }
  int64_t i64(size_t i) const { return static_cast<int64_t>(attributes_[i]); }
  bool flag(size_t i) const { return attributes_[i] != 0; }

  // f(int64_t tile, int worker) noexcept. How work is cut into tiles must depend on shapes only,
  // never on workers(): results are bitwise equal on any number of threads.
  template <class F>
  void ParallelFor(int64_t tiles, F&& f) {
    using Fn = std::remove_reference_t<F>;
    runner_.Run(
        tiles, [](void* c, int64_t tile, int worker) { (*static_cast<Fn*>(c))(tile, worker); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }
  int workers() const { return runner_.workers(); }
  void ReserveScratch(size_t bytes_per_worker) { runner_.ReserveScratch(bytes_per_worker); }
  template <class T>
  T* Scratch(int worker, size_t count) {
    return reinterpret_cast<T*>(runner_.Scratch(worker, count * sizeof(T)));
  }
  template <class T>
  T* Workspace(size_t count) {
    return reinterpret_cast<T*>(runner_.Workspace(count * sizeof(T)));
  }
  bool cancelled() const { return runner_.cancelled(); }

 private:
  std::span<const View> args_;
  std::span<const double> attributes_;
  TileRunner& runner_;
};

using KernelFn = void (*)(Invocation&);

struct KernelInfo {
  const char* signature;  // static storage
  uint32_t dtypes;        // Mask() of the dtypes taken for the first floating argument
  KernelFn fn;
  Level level;
  bool transactional = false;  // a poisoned input stops it whole and leaves its targets valid
  int32_t plugin_kernel = -1;  // its place in a plugin's list, which then launches it
};

// Adds a kernel to the process-wide table (heap, never destroyed). Called by static initialisers.
int RegisterKernel(const KernelInfo& info);
std::span<const KernelInfo> RegisteredKernels();

}  // namespace fuselm

// In native/cpu/<op>.cc, inside namespace fuselm::FUSELM_LEVEL_NS. CMake compiles the file once for
// each level that its first line names ("// levels: generic avx2 avx512"), defining
//   FUSELM_LEVEL       fuselm::Level::kAvx512
//   FUSELM_LEVEL_NS    avx512                   and one of FUSELM_IS_GENERIC, _AVX2, _AVX512,
//   _AVX512BF16, _AMX to 1 (the others to 0).
#define FUSELM_CONCAT_INNER(a, b) a##b
#define FUSELM_CONCAT(a, b) FUSELM_CONCAT_INNER(a, b)
#define FUSELM_KERNEL(signature, dtypes, fn)                                  \
  [[maybe_unused]] static const int FUSELM_CONCAT(kRegistered, __COUNTER__) = \
      ::fuselm::RegisterKernel({signature, dtypes, fn, FUSELM_LEVEL})
#define FUSELM_KERNEL_TRANSACTIONAL(signature, dtypes, fn)                    \
  [[maybe_unused]] static const int FUSELM_CONCAT(kRegistered, __COUNTER__) = \
      ::fuselm::RegisterKernel({signature, dtypes, fn, FUSELM_LEVEL, true})
