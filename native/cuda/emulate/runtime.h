// The runtime API of the stand-in: what this project calls of it, over streams that may run late.
//
// FUSELM_EMULATED_ASYNC=<seed>: work of a stream waits until something needs it (an event or stream
// that is waited for, memory that is freed) and then runs in an order drawn from the seed, as late
// as events between streams allow, or with other streams first. Without it, work runs in the call
// that enqueues it. In both, what a real device would not forgive ends the process: pageable memory
// given to an asynchronous copy, pinned memory freed under a copy, a call after the exit handlers
// of CUDA, a call out of a host function.
//
// Further, read when the plugin is opened: FUSELM_EMULATED_DRIVER=<13000>, 0 for none;
// FUSELM_EMULATED_DEVICES=<1>; FUSELM_EMULATED_COMPUTE=<80>; FUSELM_EMULATED_MEMORY=<bytes>;
// FUSELM_EMULATED_FAULT=<n>: the nth kernel makes an illegal access; FUSELM_EMULATED_LOG=<file> is
// told of contexts as they are made. FUSELM_EMULATED_SCHEDULE=<seed>: on devices but the first,
// blocks, warps and lanes run in an order drawn for each launch. FUSELM_EMULATED_BREAK=waits makes
// streams wait for no event, =staging lets whoever enqueues wait for no event: for the proof that
// tests would notice.
#pragma once

#include <cstddef>
#include <functional>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorCudartUnloading = 4,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorECCUncorrectable = 214,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchTimeout = 702,
  cudaErrorAssert = 710,
  cudaErrorHardwareStackError = 714,
  cudaErrorIllegalInstruction = 715,
  cudaErrorMisalignedAddress = 716,
  cudaErrorInvalidAddressSpace = 717,
  cudaErrorInvalidPc = 718,
  cudaErrorLaunchFailure = 719,
};
constexpr int CUDART_VERSION = 13000;
#define CUDART_CB

// Other libraries that enqueue (the stand-in for cuBLASLt) know this much of a stream.
struct EmulatedStream {
  virtual ~EmulatedStream() = default;
  virtual void Enqueue(std::function<void()> work) = 0;
};
using cudaStream_t = EmulatedStream*;
using cudaEvent_t = struct EmulatedEvent*;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaEventBlockingSync = 1,
                   cudaHostAllocDefault = 0;
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount, l2CacheSize;
  size_t totalGlobalMem, sharedMemPerBlockOptin;
};

cudaError_t cudaGetLastError();
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMalloc(void** out, size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaHostAlloc(void** out, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* out, unsigned flags, int priority);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*fn)(void*), void* data);

namespace fuselm::emulate {

// kernel<<<blocks, threads, shared_bytes, stream>>>: `body` runs once per thread of every block.
// Throws Error(kDevice) naming `what` for a launch that hardware would refuse, and, where work runs
// in the call, for what Run throws.
void EnqueueKernel(cudaStream_t stream, const char* what, dim3 blocks, int threads,
                   int64_t shared_bytes, int64_t shared_limit, std::function<void()> body);

}  // namespace fuselm::emulate
