// Queues (streams), fences (events) and copies, shared between plugin.cu and queue.cu.
#pragma once

#include <cuda_runtime.h>

#include <exception>
#include <new>

#include "native/core/device_plugin.h"
#include "native/core/error.h"
#include "native/cuda/life.cuh"

namespace fuselm::cuda {

// The CUDA ordinal of a usable device. Throws Error(kDevice).
int Ordinal(int32_t device);

// Makes the queue's device current on this thread.
void UseQueue(FuselmPluginQueue* queue);
cudaStream_t Stream(FuselmPluginQueue* queue);
int OrdinalOf(FuselmPluginQueue* queue);
void FillQueueFunctions(FuselmDevicePlugin* plugin);

// Keeps the message for last_error() and returns the code.
int Fail(ErrorCode code, const char* message);

// Runs body, if a call may begin; no exception crosses the C interface.
template <class F>
int Guard(F&& body) {
  const Call call;
  if (call.refused != nullptr) return Fail(ErrorCode::kDevice, call.refused);
  try {
    body();
    return 0;
  } catch (const Error& error) {
    return Fail(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return Fail(ErrorCode::kOutOfMemory, "cuda: out of host memory");
  } catch (const std::exception& error) {
    return Fail(ErrorCode::kDevice, error.what());
  }
}

}  // namespace fuselm::cuda
