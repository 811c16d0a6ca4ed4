// The table of functions behind native/core/device_plugin.h: errors, devices, memory, kernels.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "native/cuda/gemm/cublaslt.cuh"
#include "native/cuda/kernel.cuh"
#include "native/cuda/queue.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kOldestMajor = 8;  // what the targets of CMakeLists.txt start at

thread_local char last_error[1024];

std::vector<LaunchFn>& Launchers() {
  static auto* table = new std::vector<LaunchFn>;
  return *table;
}

std::vector<FuselmPluginKernel>& PublishedKernels() {
  static auto* list = new std::vector<FuselmPluginKernel>;
  return *list;
}

const char* LastError() { return last_error; }

std::string Version(int version) {  // 13000 -> 13.0
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Devices this build can run on, as CUDA ordinals; with none, why.
std::vector<int> UsableDevices(std::string* why) {
  int driver = 0;
  cudaDriverGetVersion(&driver);
  if (driver == 0) {
    *why = "no NVIDIA driver is installed (libcuda.so.1 was not found)";
    return {};
  }
  // Any driver of the toolkit's major version serves it.
  if (driver / 1000 < CUDART_VERSION / 1000) {
    *why = "the NVIDIA driver is too old: it supports CUDA " + Version(driver) +
           " and this plugin needs " + Version(CUDART_VERSION);
    return {};
  }
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  EndCallsBeforeUnloading();
  if (status != cudaSuccess || count == 0) {
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    *why = status == cudaSuccess || status == cudaErrorNoDevice
               ? std::string("the NVIDIA driver sees no GPU")
               : std::string("the NVIDIA driver failed: ") + cudaGetErrorString(status);
    if (visible != nullptr) *why += " (CUDA_VISIBLE_DEVICES is '" + std::string(visible) + "')";
    cudaGetLastError();
    return {};
  }
  std::vector<int> usable;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) continue;
    if (properties.major >= kOldestMajor) {
      usable.push_back(device);
    } else {
      *why = std::string(properties.name) + " has compute capability " +
             std::to_string(properties.major) + "." + std::to_string(properties.minor) +
             "; 8.0 or newer is needed";
    }
  }
  cudaGetLastError();
  return usable;
}

const std::vector<int>& Devices(std::string* why = nullptr) {
  static auto* reason = new std::string;
  static const auto* devices = new std::vector<int>(UsableDevices(reason));
  if (why != nullptr) *why = *reason;
  return *devices;
}

int32_t DeviceCount(char* why, size_t why_bytes) {
  std::string reason;
  auto count = static_cast<int32_t>(Devices(&reason).size());
  if (const std::string lost = LostBecause(); !lost.empty()) {
    count = 0;
    reason = lost;
  }
  if (why != nullptr && why_bytes > 0) {
    std::snprintf(why, why_bytes, "%s", count > 0 ? "" : reason.c_str());
  }
  return count;
}

int DeviceInfo(int32_t device, FuselmDeviceInfo* out) {
  return Guard([&] {
    cudaDeviceProp properties;
    Check(cudaGetDeviceProperties(&properties, Ordinal(device)), "device properties");
    *out = FuselmDeviceInfo{};
    std::snprintf(out->name, sizeof out->name, "%s", properties.name);
    out->compute_major = properties.major;
    out->compute_minor = properties.minor;
    out->multiprocessors = properties.multiProcessorCount;
    out->memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  });
}

int Alloc(int32_t device, int64_t bytes, void** out) {
  return Guard([&] {
    *out = nullptr;
    Check(cudaSetDevice(Ordinal(device)), "set device");
    Check(cudaMalloc(out, static_cast<size_t>(bytes)), "allocation");
  });
}

int Free(int32_t device, void* memory) {
  return Guard([&] {
    Check(cudaSetDevice(Ordinal(device)), "set device");
    Check(cudaFree(memory), "free");
  });
}

int MemoryInfo(int32_t device, int64_t* free_bytes, int64_t* total_bytes) {
  *free_bytes = *total_bytes = 0;
  return Guard([&] {
    size_t free = 0, total = 0;
    Check(cudaSetDevice(Ordinal(device)), "set device");
    Check(cudaMemGetInfo(&free, &total), "memory of the device");
    *free_bytes = static_cast<int64_t>(free);
    *total_bytes = static_cast<int64_t>(total);
  });
}

// The device's own limit; FUSELM_CUDA_SHARED_LIMIT (bytes) lowers it, to run what smaller cards
// run.
int64_t SharedLimit(const cudaDeviceProp& properties) {
  const auto limit = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  const char* text = std::getenv("FUSELM_CUDA_SHARED_LIMIT");
  const int64_t cap = text == nullptr ? 0 : std::atoll(text);
  return cap > 0 ? std::min(cap, limit) : limit;
}

std::vector<DeviceTraits> ReadTraits() {
  std::vector<DeviceTraits> all;
  for (const int ordinal : Devices()) {
    cudaDeviceProp p;
    Check(cudaGetDeviceProperties(&p, ordinal), "device properties");
    all.push_back(
        {ordinal, p.major, p.minor, p.multiProcessorCount, SharedLimit(p), p.l2CacheSize});
  }
  return all;
}

const DeviceTraits& Traits(int ordinal) {
  static const auto* all = new std::vector<DeviceTraits>(ReadTraits());
  for (const DeviceTraits& traits : *all) {
    if (traits.ordinal == ordinal) return traits;
  }
  throw Error(ErrorCode::kDevice, "cuda: there is no device " + std::to_string(ordinal));
}

// Whether every command is waited for, so that its own errors are told from those before it.
bool OneByOne() {
  static const char* const text = std::getenv("FUSELM_CUDA_SYNC");
  return text != nullptr && *text == '1';
}

View ToView(const FuselmTensor& t) {
  const bool known = t.dtype > 0 && t.dtype < static_cast<int32_t>(kDTypeCount);
  Require(known && t.rank >= 0 && t.rank <= FUSELM_PLUGIN_MAX_RANK, ErrorCode::kFormat,
          "launch: a tensor has an unknown dtype or too many axes");
  View view;
  view.data = t.data;
  view.dtype = static_cast<DType>(t.dtype);
  view.rank = t.rank;
  for (int i = 0; i < t.rank; ++i) {
    view.shape[i] = t.shape[i];
    view.stride[i] = t.stride[i];
  }
  return view;
}

int LaunchKernel(FuselmPluginQueue* queue, int32_t index, const FuselmTensor* tensors,
                 int32_t tensor_count, const double* attributes, int32_t attribute_count,
                 const FuselmWorkspace* workspace) {
  return Guard([&] {
    Require(index >= 0 && static_cast<size_t>(index) < Launchers().size(), ErrorCode::kDevice,
            "launch: no such kernel");
    std::vector<View> views;
    for (int32_t i = 0; i < tensor_count; ++i) views.push_back(ToView(tensors[i]));
    UseQueue(queue);
    Launchers()[static_cast<size_t>(index)](
        Arguments(views, {attributes, static_cast<size_t>(attribute_count)},
                  Traits(OrdinalOf(queue)), Stream(queue), *workspace));
    if (OneByOne()) Check(cudaStreamSynchronize(Stream(queue)), "this command");
  });
}

// What a kernel did wrong, or the hardware: every later call reports it again.
bool Sticky(cudaError_t status) {
  switch (status) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure: return true;
    default: return false;
  }
}

}  // namespace

void Check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // a sticky error returns with the next call; others must not
  const bool sticky = Sticky(status);
  std::string message = std::string("cuda: ") + what;
  if (sticky && !OneByOne()) {
    message += ", or work before it (FUSELM_CUDA_SYNC=1 waits for each command and names it)";
  }
  message += std::string(": ") + cudaGetErrorName(status) + ": " + cudaGetErrorString(status);
  if (sticky) NoteLost(message);
  throw Error(status == cudaErrorMemoryAllocation ? ErrorCode::kOutOfMemory : ErrorCode::kDevice,
              message);
}

int Fail(ErrorCode code, const char* message) {
  std::snprintf(last_error, sizeof last_error, "%s", message);
  return static_cast<int>(code);
}

int Ordinal(int32_t device) {
  const std::vector<int>& devices = Devices();
  if (device < 0 || static_cast<size_t>(device) >= devices.size()) {
    throw Error(ErrorCode::kDevice, "cuda: there is no device " + std::to_string(device));
  }
  return devices[static_cast<size_t>(device)];
}

void* Arguments::WorkspaceBytes(int64_t bytes) const {
  void* memory = workspace_.take(workspace_.context, bytes);
  if (memory == nullptr) {
    throw Error(ErrorCode::kOutOfMemory, "no workspace of " + std::to_string(bytes) + " bytes");
  }
  return memory;
}

int Register(const FuselmPluginKernel& kernel, LaunchFn launch) {
  Launchers().push_back(launch);
  PublishedKernels().push_back(kernel);
  return static_cast<int>(Launchers().size());
}

}  // namespace fuselm::cuda

extern "C" __attribute__((visibility("default"))) const FuselmDevicePlugin* fuselm_device_plugin(
    uint32_t abi) {
  using namespace fuselm::cuda;
  if (abi != FUSELM_DEVICE_PLUGIN_ABI) return nullptr;
  // Filled at the first call: the kernels have registered by then.
  static const FuselmDevicePlugin plugin = [] {
    FuselmDevicePlugin p{};
    p.abi = FUSELM_DEVICE_PLUGIN_ABI;
    p.name = FUSELM_CUDA_NAME;
    p.build = FUSELM_CUDA_BUILD;
    p.last_error = LastError;
    p.matrix_library = CublasLtStatus;
    p.device_count = DeviceCount;
    p.device_info = DeviceInfo;
    p.memory_info = MemoryInfo;
    p.alloc = Alloc;
    p.free = Free;
    FillQueueFunctions(&p);
    p.kernel_count = static_cast<int32_t>(PublishedKernels().size());
    p.kernels = PublishedKernels().data();
    p.launch = LaunchKernel;
    return p;
  }();
  return &plugin;
}
