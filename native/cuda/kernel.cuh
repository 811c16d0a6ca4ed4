// What a CUDA op file needs on the host side: the Arguments its launcher gets, Launch, and
// registering under the same signature string as the CPU kernel. Device code finds its tools in
// device.cuh.
//
// The same files are also compiled by a plain C++ compiler against native/cuda/emulate, which runs
// blocks on the CPU, so that kernels are tested without a GPU. Hence the rules of this folder:
//   - launch through Launch(), never <<<>>>; dynamic shared memory through FUSELM_DYNAMIC_SHARED;
//   - warp intrinsics with the full mask, reached by every live lane of the warp;
//   - matrix instructions, ldmatrix and cp.async through mma.cuh.
#pragma once

#include <cuda_runtime.h>

#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "native/core/device_plugin.h"
#include "native/core/dtype.h"
#include "native/core/view.h"

namespace fuselm::cuda {

// Throws Error: kOutOfMemory for a failed allocation, kDevice for the rest.
void Check(cudaError_t status, const char* what);

// Of the device a kernel is launched on.
struct DeviceTraits {
  int ordinal;
  int major, minor;  // compute capability
  int multiprocessors;
  int64_t
      shared_limit;  // bytes of shared memory a block may have (FUSELM_CUDA_SHARED_LIMIT caps it)
  int64_t l2_bytes;
};

// One command as its launcher sees it: fuselm::Invocation's counterpart. Views are decoded and
// inside their buffers; whether their shapes fit each other is for the launcher to check.
class Arguments {
 public:
  Arguments(std::span<const View> views, std::span<const double> attributes,
            const DeviceTraits& traits, cudaStream_t on, const FuselmWorkspace& workspace)
      : device(traits), stream(on), views_(views), attributes_(attributes), workspace_(workspace) {}

  size_t size() const { return views_.size(); }
  const View& operator[](size_t i) const { return views_[i]; }
  bool has(size_t i) const { return views_[i].data != nullptr; }
  double f64(size_t i) const { return attributes_[i]; }
  int64_t i64(size_t i) const { return static_cast<int64_t>(attributes_[i]); }
  bool flag(size_t i) const { return attributes_[i] != 0; }

  // Uninitialised device memory, 256-byte aligned, for this command alone: in order with the
  // queue's work, so nothing has to be waited for. Throws Error(kOutOfMemory).
  template <class T>
  T* Workspace(int64_t count) const {
    return static_cast<T*>(WorkspaceBytes(count * static_cast<int64_t>(sizeof(T))));
  }

  const DeviceTraits& device;
  const cudaStream_t stream;

 private:
  void* WorkspaceBytes(int64_t bytes) const;

  std::span<const View> views_;
  std::span<const double> attributes_;
  const FuselmWorkspace& workspace_;
};

using LaunchFn = void (*)(const Arguments&);

// Called by static initialisers; the table is never destroyed.
int Register(const FuselmPluginKernel& kernel, LaunchFn launch);

struct Grid {
  dim3 blocks;
  int threads;
  int64_t shared_bytes = 0;  // dynamic
};

// ceil(n / d) blocks, as a launch takes them.
constexpr int64_t CeilDiv(int64_t n, int64_t d) { return (n + d - 1) / d; }

#ifdef __CUDACC__
// Enqueues kernel<<<grid>>>(args...) on the command's stream. `what` names the op in errors.
template <class... P, class... A>
void Launch(const Arguments& in, const char* what, const Grid& grid, void (*kernel)(P...),
            A&&... args) {
  if (grid.shared_bytes > 48 * 1024) {
    Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(grid.shared_bytes)),
          what);
  }
  kernel<<<grid.blocks, grid.threads, static_cast<size_t>(grid.shared_bytes), in.stream>>>(
      static_cast<P>(std::forward<A>(args))...);
  Check(cudaGetLastError(), what);
}
#else
template <class... P, class... A>
void Launch(const Arguments& in, const char* what, const Grid& grid, void (*kernel)(P...),
            A&&... args) {
  emulate::EnqueueKernel(
      in.stream, what, grid.blocks, grid.threads, grid.shared_bytes, in.device.shared_limit,
      [kernel, ... held = static_cast<P>(std::forward<A>(args))] { kernel(held...); });
  Check(cudaGetLastError(), what);
}
#endif

}  // namespace fuselm::cuda

#define FUSELM_CUDA_CONCAT_INNER(a, b) a##b
#define FUSELM_CUDA_CONCAT(a, b) FUSELM_CUDA_CONCAT_INNER(a, b)
// dtypes: Mask() of the dtypes taken for the first floating argument, as FUSELM_KERNEL has it.
#define FUSELM_CUDA_KERNEL(signature, dtypes, fn)                                  \
  [[maybe_unused]] static const int FUSELM_CUDA_CONCAT(kRegistered, __COUNTER__) = \
      ::fuselm::cuda::Register({signature, dtypes, 0}, fn)
// A poisoned input stops it whole and leaves its in-place targets valid.
#define FUSELM_CUDA_KERNEL_TRANSACTIONAL(signature, dtypes, fn)                    \
  [[maybe_unused]] static const int FUSELM_CUDA_CONCAT(kRegistered, __COUNTER__) = \
      ::fuselm::cuda::Register({signature, dtypes, 1}, fn)
