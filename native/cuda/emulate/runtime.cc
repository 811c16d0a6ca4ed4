// The calls of runtime.h: devices, memory, streams and events, errors.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "native/cuda/emulate/check.h"
#include "native/cuda/emulate/world.h"

using fuselm::emulate::Fatal;
using fuselm::emulate::kMostDevices;
using fuselm::emulate::Marker;
using fuselm::emulate::MarkerPtr;
using fuselm::emulate::Stream;
using fuselm::emulate::TheWorld;
using fuselm::emulate::Work;
using fuselm::emulate::World;

struct EmulatedEvent {
  int device;
  MarkerPtr marker;  // null until recorded
};

namespace {

constexpr size_t kPage = 4096;

thread_local int current = 0;  // device
thread_local cudaError_t last_error = cudaSuccess;
thread_local bool host_function = false;
thread_local bool enqueues = false;  // this thread has given streams work

int64_t Setting(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : std::atoll(text);
}

cudaError_t Noted(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// A call that says nothing of a device's work.
template <class F>
cudaError_t Ask(F&& body) {
  World& world = TheWorld();
  if (host_function) Fatal("a host function calls CUDA");
  std::lock_guard lock(world.mutex);
  if (world.unloaded) Fatal("called after CUDA's exit handlers");
  return Noted(body(world));
}

// A call that makes the context of the thread's device and reports what went wrong there.
template <class F>
cudaError_t Call(F&& body) {
  return Ask([&](World& world) {
    bool& made = world.contexts[static_cast<size_t>(current)];
    if (!made && !world.log.empty()) {
      if (std::FILE* file = std::fopen(world.log.c_str(), "a")) {
        std::fprintf(file, "context %d\n", current);
        std::fclose(file);
      }
    }
    made = true;
    return world.fault != cudaSuccess ? world.fault : body(world);
  });
}

Stream& Of(cudaStream_t stream) { return *static_cast<Stream*>(stream); }

// Memory ends at a page nobody may touch (up to 16 bytes) and starts as NaN, so that a kernel that
// leaves its tensors faults.
size_t Rounded(size_t bytes) { return (std::max<size_t>(bytes, 1) + 15) / 16 * 16; }
size_t Pages(size_t bytes) { return (Rounded(bytes) + kPage - 1) / kPage * kPage; }

// The pinned memory that p lies in, which an asynchronous copy needs.
const std::byte* PinnedAt(World& world, const void* p) {
  const auto* at = static_cast<const std::byte*>(p);
  auto after = world.pinned.upper_bound(at);
  if (after == world.pinned.begin()) Fatal("an asynchronous copy of pageable memory");
  --after;
  if (at >= after->first + after->second) Fatal("an asynchronous copy of pageable memory");
  return after->first;
}

}  // namespace

namespace fuselm::emulate {

World::World() {
  const char* seed = std::getenv("FUSELM_EMULATED_ASYNC");
  late = seed != nullptr && *seed != '\0';
  random = static_cast<uint64_t>(Setting("FUSELM_EMULATED_ASYNC", 0));
  const char* broken = std::getenv("FUSELM_EMULATED_BREAK");
  const std::string what = broken == nullptr ? "" : broken;
  break_waits = what == "waits";
  break_staging = what == "staging";
  driver = static_cast<int>(Setting("FUSELM_EMULATED_DRIVER", driver));
  devices = static_cast<int>(
      std::min<int64_t>(Setting("FUSELM_EMULATED_DEVICES", devices), kMostDevices));
  // 90: kernels of Hopper, in their models
  compute = static_cast<int>(Setting("FUSELM_EMULATED_COMPUTE", compute));
  memory = Setting("FUSELM_EMULATED_MEMORY", memory);
  fault_at = Setting("FUSELM_EMULATED_FAULT", 0);
  schedule = static_cast<uint64_t>(Setting("FUSELM_EMULATED_SCHEDULE", 0));
  const char* path = std::getenv("FUSELM_EMULATED_LOG");
  log = path == nullptr ? "" : path;
}

World& TheWorld() {
  static auto* world = new World;
  return *world;
}

}  // namespace fuselm::emulate

// -------------------------------------------------------------------------------------- errors

cudaError_t cudaGetLastError() {
  if (TheWorld().fault != cudaSuccess) return TheWorld().fault;
  return std::exchange(last_error, cudaSuccess);
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    default: return "cudaError";
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorLaunchFailure: return TheWorld().fault_text.c_str();
    default: return "emulated error";
  }
}

// ------------------------------------------------------------------------------------- devices

cudaError_t cudaDriverGetVersion(int* version) {
  return Ask([&](World& world) {
    *version = world.driver;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceCount(int* count) {
  // The driver's own handlers, which a real one registers when it starts.
  static const int registered = std::atexit([] {
    std::lock_guard lock(TheWorld().mutex);
    TheWorld().unloaded = true;
  });
  static_cast<void>(registered);
  return Ask([&](World& world) {
    *count = world.devices;
    return world.devices > 0 ? cudaSuccess : cudaErrorNoDevice;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int device) {
  return Ask([&](World& world) {
    if (device < 0 || device >= world.devices) return cudaErrorInvalidDevice;
    *out = cudaDeviceProp{};
    out->major = world.compute / 10;
    out->minor = world.compute % 10;
    std::snprintf(out->name, sizeof(out->name), "sm_%d emulated on the CPU", world.compute);
    out->multiProcessorCount = 4;
    out->l2CacheSize = 1 << 20;
    out->totalGlobalMem = static_cast<size_t>(world.memory);
    out->sharedMemPerBlockOptin = (world.compute >= 90 ? 227 : 163) << 10;
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= TheWorld().devices) return Noted(cudaErrorInvalidDevice);
  current = device;
  return Call([](World&) { return cudaSuccess; });
}

// -------------------------------------------------------------------------------------- memory

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return Call([&](World& world) {
    *total = static_cast<size_t>(world.memory);
    *free = static_cast<size_t>(world.memory - world.used[static_cast<size_t>(current)]);
    return cudaSuccess;
  });
}

cudaError_t cudaMalloc(void** out, size_t bytes) {
  *out = nullptr;
  return Call([&](World& world) {
    int64_t& used = world.used[static_cast<size_t>(current)];
    const size_t pages = Pages(bytes);
    if (static_cast<int64_t>(pages) > world.memory - used) return cudaErrorMemoryAllocation;
    void* base =
        mmap(nullptr, pages + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return cudaErrorMemoryAllocation;
    auto* start = static_cast<std::byte*>(base);
    mprotect(start + pages, kPage, PROT_NONE);
    std::memset(start, 0xff, pages);
    used += static_cast<int64_t>(pages);
    *out = start + pages - Rounded(bytes);
    world.memory_of_device[static_cast<std::byte*>(*out)] = {bytes, current};
    fuselm::emulate::CheckAllocated(*out, bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  return Call([&](World& world) {
    const auto at = world.memory_of_device.find(static_cast<std::byte*>(memory));
    if (at == world.memory_of_device.end()) Fatal("cudaFree of what was not allocated");
    world.Drain();  // waits for the device
    fuselm::emulate::CheckFreed(memory);
    const size_t pages = Pages(at->second.bytes);
    world.used[static_cast<size_t>(at->second.device)] -= static_cast<int64_t>(pages);
    munmap(static_cast<std::byte*>(memory) + Rounded(at->second.bytes) - pages, pages + kPage);
    world.memory_of_device.erase(at);
    return cudaSuccess;
  });
}

cudaError_t cudaHostAlloc(void** out, size_t bytes, unsigned) {
  return Call([&](World& world) {
    *out = std::malloc(bytes);
    if (*out == nullptr) return cudaErrorMemoryAllocation;
    world.pinned[static_cast<std::byte*>(*out)] = bytes;
    return cudaSuccess;
  });
}

cudaError_t cudaFreeHost(void* memory) {
  return Call([&](World& world) {
    for (const auto& stream : world.streams) {
      for (const Work& work : stream->work) {
        if (work.pinned == memory) Fatal("pinned memory is freed under a copy");
      }
    }
    if (world.pinned.erase(static_cast<std::byte*>(memory)) == 0)
      Fatal("cudaFreeHost of what was not allocated");
    std::free(memory);
    return cudaSuccess;
  });
}

// --------------------------------------------------------------------------- streams and events

cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest) {
  return Call([&](World&) {
    *lowest = 0;
    *highest = -5;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* out, unsigned flags, int) {
  return Call([&](World& world) {
    if ((flags & cudaStreamNonBlocking) == 0) Fatal("a stream that the default stream blocks");
    world.streams.push_back(std::make_unique<Stream>(current));
    *out = world.streams.back().get();
    return cudaSuccess;
  });
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return Call([&](World& world) {
    Of(stream).destroyed = true;  // its work still runs
    std::erase_if(world.streams, [](const auto& s) { return s->destroyed && s->work.empty(); });
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return Call([&](World& world) {
    auto last = std::make_shared<Marker>(Marker{false, &Of(stream)});
    Of(stream).work.push_back({.reached = last});
    world.Reach(last);
    return world.fault;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return Call([&](World& world) {
    enqueues = true;
    if (event->marker && !world.break_waits) Of(stream).Add({.waits = event->marker});
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned) {
  return Call([&](World&) {
    *out = new EmulatedEvent{current, nullptr};
    return cudaSuccess;
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return Call([&](World&) {
    delete event;
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return Call([&](World&) {
    if (event->device != Of(stream).device) return cudaErrorInvalidResourceHandle;
    enqueues = true;
    event->marker = std::make_shared<Marker>(Marker{false, &Of(stream)});
    Of(stream).Add({.reached = event->marker});
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return Call([&](World& world) {
    world.Progress();
    return !event->marker || event->marker->done ? cudaSuccess : cudaErrorNotReady;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return Call([&](World& world) {
    if (!event->marker || (world.break_staging && enqueues)) return cudaSuccess;
    world.Reach(event->marker);
    return world.fault;
  });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return Call([&](World& world) {
    enqueues = true;
    Work work{.run = [to, from, bytes] { std::memcpy(to, from, bytes); }};
    if (kind == cudaMemcpyHostToDevice) work.pinned = PinnedAt(world, from);
    if (kind == cudaMemcpyDeviceToHost) work.pinned = PinnedAt(world, to);
    Of(stream).Add(std::move(work));
    return cudaSuccess;
  });
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return Call([&](World&) {
    enqueues = true;
    Of(stream).Add({.run = [to, value, bytes] { std::memset(to, value, bytes); }});
    return cudaSuccess;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*fn)(void*), void* data) {
  return Call([&](World&) {
    enqueues = true;
    Of(stream).Add({.run = [fn, data] {
      host_function = true;
      fn(data);
      host_function = false;
    }});
    return cudaSuccess;
  });
}

// -------------------------------------------------------------------------------------- kernels

namespace fuselm::emulate {

void EnqueueKernel(cudaStream_t stream, const char* what, dim3 blocks, int threads,
                   int64_t shared_bytes, int64_t shared_limit, std::function<void()> body) {
  CheckLaunch(blocks, threads, shared_bytes, shared_limit, what);
  Call([&](World& world) {
    if (Of(stream).device != current) return cudaErrorInvalidResourceHandle;
    enqueues = true;
    const bool drawn = world.schedule != 0 && Of(stream).device > 0;
    auto run = [&world, drawn, blocks, threads, shared_bytes, shared_limit,
                name = std::string(what), body = std::move(body)]() mutable {
      if (++world.kernels == world.fault_at) {
        return world.Fault(cudaErrorIllegalAddress, name + ": the access that was asked for");
      }
      Run(
          blocks, threads, shared_bytes, shared_limit, name.c_str(),
          [](void* closure) { (*static_cast<std::function<void()>*>(closure))(); }, &body,
          drawn ? world.schedule << 32 | static_cast<uint64_t>(world.kernels) : 0);
    };
    Of(stream).Add({.run = std::move(run)});
    return cudaSuccess;
  });
}

}  // namespace fuselm::emulate
