// What a CUDA op file needs: checked calls, the tensor argument, and registering under the same
// signature string as the CPU kernel.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <span>
#include <string>

#include "native/core/device_plugin.h"
#include "native/core/dtype.h"

namespace fuselm::cuda {

// Throws Error: kOutOfMemory for a failed allocation, kDevice for the rest.
void Check(cudaError_t status, const char* what);

struct Arguments {
  std::span<const FuselmTensor> tensors;
  std::span<const double> attributes;
  cudaStream_t stream;

  const FuselmTensor& operator[](size_t i) const { return tensors[i]; }
};

using LaunchFn = void (*)(const Arguments&);

struct Kernel {
  FuselmPluginKernel info;
  size_t tensors;  // how many the signature names
  LaunchFn launch;
};

// Called by static initialisers; the table is never destroyed.
int Register(const Kernel& kernel);
std::span<const Kernel> Kernels();

}  // namespace fuselm::cuda

#define FUSELM_CUDA_KERNEL(id, signature, dtypes, tensors, fn) \
  [[maybe_unused]] static const int kRegistered_##id =         \
      ::fuselm::cuda::Register({{signature, dtypes}, tensors, fn})
