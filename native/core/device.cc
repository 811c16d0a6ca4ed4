#include "native/core/device.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <system_error>

namespace fuselm {
namespace {

constexpr int kMaxThreads = 1024;
constexpr std::chrono::milliseconds kExitLimit{400};

struct Opened {
  Level level;
  int threads;
  int64_t memory_limit;
  bool guard;
  std::weak_ptr<Device> device;
  DeviceImpl* impl;
};

// Leaked, as is all that lives until exit: no destructor runs beside a thread of ours.
struct Registry {
  std::mutex mutex;
  std::vector<Opened> devices;
};

Registry& Devices() {
  static auto* registry = new Registry;
  return *registry;
}

// process.exit and an uncaught exception run neither destructors nor cleanup hooks of Node: stop
// the threads at their next tile, so that none runs while the C++ runtime is taken down.
void AtExit() {
  Registry& registry = Devices();
  std::lock_guard lock(registry.mutex);
  // Kept for ever: a device closed from here on stays open.
  static auto* open = new std::vector<std::shared_ptr<Device>>;
  for (const Opened& opened : registry.devices) {
    // One without a strong reference is closing and stops by itself.
    auto device = opened.device.lock();
    if (!device) continue;
    opened.impl->executor.Stop(std::chrono::milliseconds(0));
    open->push_back(std::move(device));
  }
  for (const Opened& opened : registry.devices) {
    if (opened.device.expired()) continue;
    if (opened.impl->executor.Stop(kExitLimit)) opened.impl->executor.Join();
  }
}

}  // namespace

Device::Device() = default;
Device::~Device() = default;

std::shared_ptr<Device> Device::Open(const DeviceOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    throw Error(ErrorCode::kConfig, "threads must be 0 to " + std::to_string(kMaxThreads) +
                                        ", received " + std::to_string(options.threads));
  }
  if (options.memory_limit < 0) {
    throw Error(ErrorCode::kConfig, "memory limit must not be negative, received " +
                                        std::to_string(options.memory_limit));
  }
  const Level level = std::min(options.max_level, MachineLevel());
  const int threads = options.threads > 0 ? options.threads : DefaultThreads();
  Registry& registry = Devices();
  std::lock_guard lock(registry.mutex);
  static const int registered = std::atexit(AtExit);
  static_cast<void>(registered);
  std::erase_if(registry.devices, [](const Opened& o) { return o.device.expired(); });
  for (const Opened& o : registry.devices) {
    if (o.level == level && o.threads == threads && o.memory_limit == options.memory_limit &&
        o.guard == options.guard) {
      if (auto device = o.device.lock()) return device;
    }
  }
  std::shared_ptr<Device> device(new Device);
  try {
    device->impl_ = std::make_unique<DeviceImpl>(level, threads, options);
  } catch (const std::system_error& e) {
    throw Error(ErrorCode::kDevice,
                "cannot start " + std::to_string(threads) + " threads: " + e.what());
  }
  registry.devices.push_back(
      {level, threads, options.memory_limit, options.guard, device, device->impl_.get()});
  return device;
}

Level Device::level() const { return impl_->level; }
int Device::threads() const { return impl_->pool.workers(); }
std::vector<DeviceKernel> Device::kernels() const { return impl_->kernels.Describe(); }
MemoryStats Device::memory() const { return impl_->allocator.stats(); }
void Device::FailAllocation(int64_t nth) { impl_->allocator.FailAllocation(nth); }
void Device::SetTracing(bool on) { impl_->trace.Set(on); }
std::vector<TraceEvent> Device::TakeTrace() { return impl_->trace.Take(); }

}  // namespace fuselm
